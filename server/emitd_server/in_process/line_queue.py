"""`LineQueue`: the log lines of this process that wait to be dispatched; bounded, and filled from any thread.

One task empties it, in order and in batches; there is a task only while there is a line.
"""

import asyncio
import threading
import traceback
import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from emitd.v1 import record_pb2 as pb
from emitd_handlers.diagnostics import Report, Throttle
from emitd_server.memory import MemoryAccount

MAX_LINES = 10_000
MAX_BYTES = 64 * 1024 * 1024
BATCH_LINES = 512
#: Drops are reported at once, and then at most this often.
REPORT_INTERVAL_SECONDS = 10.0

#: Takes lines and their size in bytes; counts what became of each.
SendLines: TypeAlias = Callable[[Sequence[pb.LogRecord], int], Awaitable[None]]


class LineQueue:
    """`put` and `drop` are for any thread, at any time; the rest is for one event loop. Lines wait for `open`."""

    def __init__(
        self,
        send: SendLines,
        counts: Counter[str],
        report: Report,
        memory: MemoryAccount,
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._send = send
        self._counts = counts
        self._report = report
        #: Charged for every line from `put` to when it was sent or dropped.
        self._memory = memory
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        # Reentrant: a finalizer that logs may run in a thread that is in here already.
        self._lock = threading.RLock()
        self._queue: deque[tuple[pb.LogRecord, int]] = deque()
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        #: Whether a task empties the queue, or is about to.
        self._feeding = False
        self._task: asyncio.Task[None] | None = None
        #: How many lines were ever queued, and how many of these were sent or dropped.
        self._taken = 0
        self._resolved = 0
        self._batch_done = asyncio.Event()
        self._unreported: Counter[str] = Counter()
        self._throttle = Throttle(REPORT_INTERVAL_SECONDS)
        # At the end of the process too, if the service was not started or not stopped.
        weakref.finalize(self, _report_lost, self._queue, report)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to send, in this event loop. From any thread."""
        with self._lock:
            self._loop = loop
            self._closed = False
            self._wake()

    def put(self, line: pb.LogRecord) -> None:
        """Queue a line, or drop and count it if there is no room. Never waits, never raises."""
        size = line.ByteSize()
        with self._lock:
            is_full = len(self._queue) >= self._max_lines or self._bytes + size > self._max_bytes
            if not self._closed and not is_full and not self._memory.is_tight:
                self._queue.append((line, size))
                self._hold(size)
                self._taken += 1
                self._wake()
                return
        self.drop("closed" if self._closed else "queue_full")

    def drop(self, cause: str, count: int = 1, why: str = "") -> None:
        """Count lines that were dropped, and report them if it is time."""
        with self._lock:
            self._counts[f"dropped_{cause}"] += count
            self._unreported[cause] += count
        self._report_drops(why)

    def _report_drops(self, why: str = "", *, at_once: bool = False) -> None:
        with self._lock:
            if not (at_once or (self._unreported and self._throttle.is_due())):
                return
            drops, self._unreported = self._unreported, Counter()
        for cause, count in drops.items():
            self._report(f"dropped {count} log lines of this process: {cause}{why and f' ({why})'}")

    async def flush(self, timeout: float | None) -> bool:
        """Wait until all lines that are queued now were sent or dropped; return False if that took too long."""
        if self._loop is None:
            return not self._queue
        with self._lock:
            target = self._taken
        try:
            async with asyncio.timeout(timeout):
                while self._resolved < target:
                    await self._batch_done.wait()
        except TimeoutError:
            return False
        return True

    async def close(self, timeout: float | None) -> None:
        """Refuse further lines, send the queued ones for at most `timeout` seconds, and drop the rest."""
        with self._lock:
            self._closed = True
        if self._loop is not None:
            await self.flush(timeout)
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        with self._lock:
            left, self._resolved = self._taken - self._resolved, self._taken
            self._queue.clear()
            self._hold(-self._bytes)
            self._feeding = False
        if left:
            self.drop("at_close", left)
        self._report_drops(at_once=True)

    def _wake(self) -> None:
        if self._feeding or not self._queue or self._loop is None:
            return
        with suppress(RuntimeError):  # the loop was closed: no task is left to send
            self._loop.call_soon_threadsafe(self._start_feeding)
            self._feeding = True

    def _start_feeding(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._feed(), name="emitd-log-lines")

    async def _feed(self) -> None:
        while batch := self._take_batch():
            size = sum([size for _, size in batch])
            try:
                await self._send([line for line, _ in batch], size)
            except Exception:  # a fault of our own must not end the logging
                self._report(f"internal error while sending log lines: {traceback.format_exc()}")
                self.drop("internal_error", len(batch))
            with self._lock:
                self._hold(-size)
                self._resolved += len(batch)
            self._batch_done.set()
            self._batch_done = asyncio.Event()
            self._report_drops()

    def _take_batch(self) -> Sequence[tuple[pb.LogRecord, int]]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_LINES))]
            self._feeding = bool(batch)
        return batch

    def _hold(self, size: int) -> None:
        self._bytes += size
        self._memory.held_more(size)


def _report_lost(queue: deque[tuple[pb.LogRecord, int]], report: Report) -> None:
    if queue:
        report(f"lost {len(queue)} log lines of this process: the service was not started, or not stopped")
