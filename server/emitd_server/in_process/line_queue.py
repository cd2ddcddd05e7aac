"""The log lines of this process that wait to be dispatched: a bounded queue, filled from any thread.

One task at a time empties it, in order and in batches; there is one only while there is something to do.
"""

import asyncio
import threading
import time
import traceback
import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from emitd.v1 import record_pb2 as pb
from emitd_server.diagnostics import Report

__all__ = ["LineQueue", "SendLines"]

MAX_LINES = 10_000
MAX_BYTES = 64 * 1024 * 1024
BATCH_LINES = 512
#: Drops are reported at once, and then at most so often.
REPORT_INTERVAL_SECONDS = 10.0

#: Takes lines and their size in bytes; resolves each, and counts it.
SendLines: TypeAlias = Callable[[Sequence[pb.LogRecord], int], Awaitable[None]]


class LineQueue:
    """Give it lines with `put`, from any thread and at any time; everything else is for one event loop.

    Lines put before `open` wait for it.
    """

    def __init__(
        self,
        send: SendLines,
        counts: Counter[str],
        report: Report,
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._send = send
        self._counts = counts
        self._report = report
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        # Reentrant: a finalizer that logs may run in a thread that is in here already.
        self._lock = threading.RLock()
        self._queue: deque[tuple[pb.LogRecord, int]] = deque()
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        #: Whether a task is at it, or on its way.
        self._feeding = False
        self._task: asyncio.Task[None] | None = None
        #: How many lines were ever put into the queue, and how many of these are resolved.
        self._taken = 0
        self._resolved = 0
        self._batch_done = asyncio.Event()
        self._unreported: Counter[str] = Counter()
        self._last_report: float | None = None
        # Also at the end of the process, where a start was forgotten, or a stop.
        weakref.finalize(self, _tell_lost, self._queue, report)

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
            if self._closed:
                self.count_drop("closed")
            elif len(self._queue) >= self._max_lines or self._bytes + size > self._max_bytes:
                self.count_drop("queue_full")
            else:
                self._queue.append((line, size))
                self._bytes += size
                self._taken += 1
                self._wake()
            has_sender = self._loop is not None and not self._closed
        if not has_sender:  # then this is the one occasion to tell
            self._tell_drops()

    def drop(self, cause: str, count: int = 1, why: str = "") -> None:
        """Count lines that were lost, and tell the operator, but not each time. From any thread."""
        self.count_drop(cause, count)
        self._tell_drops(why)

    def count_drop(self, cause: str, count: int = 1) -> None:
        """Count lines that were lost. From any thread."""
        if count:
            with self._lock:
                self._counts[f"dropped_{cause}"] += count
                self._unreported[cause] += count

    def _tell_drops(self, why: str = "") -> None:
        if not self._unreported:
            return
        now = time.monotonic()
        if self._last_report is None or now - self._last_report >= REPORT_INTERVAL_SECONDS:
            self._last_report = now
            self.report_drops(why)

    def report_drops(self, why: str = "") -> None:
        """Tell the operator of the drops not told yet."""
        with self._lock:
            drops, self._unreported = self._unreported, Counter()
        for cause, count in drops.items():
            self._report(f"dropped {count} log lines of this process: {cause}{why and f' ({why})'}")

    async def flush(self, timeout: float | None) -> bool:
        """Wait until all lines that are in the queue now are resolved; return False if it took too long."""
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
        """Refuse further lines, send what is queued for so many seconds, and count the rest as dropped."""
        with self._lock:
            self._closed = True
        if self._loop is not None:
            await self.flush(timeout)
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        with self._lock:
            self.count_drop("at_close", self._taken - self._resolved)
            self._resolved = self._taken
            self._queue.clear()
            self._bytes = 0
            self._feeding = False
        self.report_drops()

    def _wake(self) -> None:
        if self._feeding or not self._queue or self._loop is None:
            return
        with suppress(RuntimeError):  # the loop was closed under us: nobody is left to send
            self._loop.call_soon_threadsafe(self._start_feeding)
            self._feeding = True

    def _start_feeding(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._feed(), name="emitd-log-lines")

    async def _feed(self) -> None:
        while batch := self._take_batch():
            try:
                await self._send([line for line, _ in batch], sum([size for _, size in batch]))
            except Exception:  # a fault of our own must not end the logging
                self._report(f"internal error while sending log lines: {traceback.format_exc()}")
                self.drop("internal_error", len(batch))
            with self._lock:
                self._resolved += len(batch)
            self._batch_done.set()
            self._batch_done = asyncio.Event()
            self._tell_drops()

    def _take_batch(self) -> Sequence[tuple[pb.LogRecord, int]]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_LINES))]
            self._bytes -= sum([size for _, size in batch])
            self._feeding = bool(batch)
        return batch


def _tell_lost(queue: deque[tuple[pb.LogRecord, int]], report: Report) -> None:
    if queue:
        report(f"lost {len(queue)} log lines of this process: the service was not started, or not stopped")
