"""`LineQueue`: the log lines of a process that wait to be sent; bounded in count and in memory.

    put ─> deque ─> take: a batch, by size, bytes or age ─> sent by a sender ─> resolve

Filled from any thread; emptied by a few senders. A line is kept as it was given and becomes a message in the sender's
thread, so that its caller pays for little more than an append.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from emitd.settings import ClientSettings, Overflow

__all__ = ["Line", "LineBatch", "LineQueue"]

#: What a line takes besides its texts: the tuple, the objects in it, its place in the queue; bytes, measured.
LINE_OVERHEAD_BYTES = 360


class Line(NamedTuple):
    """A log line, before it is a message."""

    record_id: str
    time_unix_nano: int
    level: int
    message: str
    attributes_json: bytes
    trace_id: bytes
    span_id: bytes
    #: Of memory.
    size: int


class LineBatch(NamedTuple):
    """Lines to be sent together. Give it back with `resolve`."""

    lines: Sequence[Line]
    #: Which line that was ever queued is the first of them.
    number: int


#: Called for each line that found no room, with its level.
OnDrop: TypeAlias = Callable[[int], None]


class LineQueue:
    """For any thread. Lines leave in order; with several senders batches may overtake each other on the way."""

    def __init__(self, settings: ClientSettings, on_drop: OnDrop) -> None:
        self._max_lines = settings.max_queue_records
        self._max_bytes = settings.max_queue_bytes
        self._overflow = Overflow.parse(settings.overflow)
        self._batch_lines = settings.batch_records
        self._batch_bytes = settings.batch_bytes
        self._linger = settings.linger
        self._on_drop = on_drop
        # Reentrant: a finalizer or a signal handler that logs may run in a thread that is in here already.
        self._lock = threading.RLock()
        self._has_lines = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        self._resolved = threading.Condition(self._lock)
        self._lines: deque[Line] = deque()
        self._bytes = 0
        #: The number of the line that stands first.
        self._first = 0
        #: Where the batches begin that are being sent.
        self._under_way: list[int] = []
        #: Senders that wait for a first line, and whether one waits for its batch to fill.
        self._idle = 0
        self._lingers = False
        self._oldest_at = 0.0
        #: Up to this line, send without waiting for more.
        self._hurry_to = 0
        #: A report of drops is to be sent: the next batch may be empty.
        self._is_nudged = False
        self._is_closed = False

    def put(self, line: Line, *, may_block: bool = True) -> bool:
        """Queue a line; return whether a sender should be started.

        Without room, the policy says which line is dropped, and whether its caller first waits.
        """
        dropped: Sequence[Line] = ()
        try:
            with self._lock:
                size = self._bytes + line.size
                if size > self._max_bytes or len(self._lines) >= self._max_lines:
                    dropped = self._make_room(line, may_block)
                    if dropped and dropped[-1] is line:
                        return False
                    size = self._bytes + line.size
                lines = self._lines
                lines.append(line)
                was_large, self._bytes = self._bytes >= self._batch_bytes, size
                count = len(lines)
                if count == 1:
                    self._oldest_at = time.monotonic()
                    if self._idle:
                        self._has_lines.notify()
                        return False
                    return not self._lingers
                if count % self._batch_lines and (was_large or size < self._batch_bytes):
                    return False
                self._has_lines.notify()
                return not self._idle and not self._lingers
        finally:
            # Outside of the lock: the report goes to standard error, which may be a logger with its own lock.
            for line in dropped:
                self._on_drop(line.level)

    def take(self, *, may_wait: bool = True) -> LineBatch | None:
        """Return the next batch, once it is full or old enough; None when the queue is closed and empty.

        Without waiting: what there is, or None.
        """
        with self._lock:
            while not self._is_due():
                if not self._lines and (self._is_closed or not may_wait):
                    return None
                if not may_wait:
                    break
                self._wait_for_lines()
            return self._take()

    def resolve(self, batch: LineBatch) -> None:
        """Say that each line of a batch was delivered, or counted as dropped."""
        with self._lock:
            self._under_way.remove(batch.number)
            self._resolved.notify_all()

    def wake(self) -> None:
        """Send what there is now without waiting for more."""
        with self._lock:
            self._hurry_to = self._first + len(self._lines)
            self._has_lines.notify_all()

    def wake_if_free(self) -> None:
        """Do what `wake` does, unless another thread is in here just now: for who holds a lock and must not wait."""
        if self._lock.acquire(blocking=False):
            try:
                self.wake()
            finally:
                self._lock.release()

    def nudge(self) -> bool:
        """Let a sender come by even if there is no line; return whether one should be started."""
        with self._lock:
            self._is_nudged = True
            self._has_lines.notify()
            return not self._idle and not self._lingers

    def flush(self, deadline: float) -> bool:
        """Wait until every line queued so far is resolved; return False if it is not by `deadline` (monotonic)."""
        with self._lock:
            target = self._first + len(self._lines)
            self.wake()
            while min(self._under_way, default=self._first) < target:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._resolved.wait(min(left, threading.TIMEOUT_MAX))
            return True

    def close(self) -> None:
        """Let senders send what there is, and then end. Later lines may still be queued, for `take` to give."""
        with self._lock:
            self._is_closed = True
            self.wake()
            self._has_room.notify_all()

    def drain(self) -> Sequence[Line]:
        """Take all lines that no sender has, to give them up. They count as resolved."""
        with self._lock:
            lines = list(self._lines)
            self._lines.clear()
            self._bytes = 0
            self._first += len(lines)
            self._resolved.notify_all()
            self._has_room.notify_all()
            return lines

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def is_crowded(self) -> bool:
        """Whether there is another full batch, and no sender waits for it: more of them should be started."""
        return len(self._lines) >= self._batch_lines and not self._idle

    @property
    def size_bytes(self) -> int:
        """How much memory the lines take."""
        return self._bytes

    def _is_due(self) -> bool:
        if self._is_nudged:
            return True
        if not self._lines:
            return False
        if len(self._lines) >= self._batch_lines or self._bytes >= self._batch_bytes:
            return True
        return self._first < self._hurry_to or self._is_closed or self._age() >= self._linger

    def _age(self) -> float:
        return time.monotonic() - self._oldest_at

    def _wait_for_lines(self) -> None:
        """Wait for something to change. One sender waits for the batch to fill, the others for one that is full."""
        if self._lines and not self._lingers:
            self._lingers = True
            try:
                self._has_lines.wait(max(self._linger - self._age(), 0.0))
            finally:
                self._lingers = False
        else:
            self._idle += 1
            try:
                self._has_lines.wait()
            finally:
                self._idle -= 1

    def _take(self) -> LineBatch:
        lines: list[Line] = []
        number, size = self._first, 0
        self._is_nudged = False
        while self._lines and len(lines) < self._batch_lines:
            line = self._lines[0]
            if lines and size + line.size > self._batch_bytes:
                break
            lines.append(self._lines.popleft())
            size += line.size
        self._first += len(lines)
        self._bytes -= size
        self._under_way.append(number)
        if self._lines:
            self._oldest_at = time.monotonic()
            self._has_lines.notify()
        self._has_room.notify_all()
        return LineBatch(lines, number)

    def _make_room(self, line: Line, may_block: bool) -> Sequence[Line]:
        """Return what is to be dropped for it: the line itself, older ones, or nothing."""
        if line.size > self._max_bytes:
            return [line]
        self.wake()
        if self._overflow.block_seconds and may_block and not self._is_closed:
            self._has_room.wait_for(
                lambda: self._has_room_for(line) or self._is_closed, self._overflow.block_seconds
            )
        dropped: list[Line] = []
        while self._overflow.drops_oldest and self._lines and not self._has_room_for(line):
            dropped.append(self._lines.popleft())
            self._bytes -= dropped[-1].size
            self._first += 1
            self._resolved.notify_all()
        if not self._has_room_for(line):
            dropped.append(line)
        return dropped

    def _has_room_for(self, line: Line) -> bool:
        return self._bytes + line.size <= self._max_bytes and len(self._lines) < self._max_lines
