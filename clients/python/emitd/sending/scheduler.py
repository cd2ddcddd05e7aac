"""`SendScheduler`: what is sent at once: audit events, changes of jobs, and ticks of running jobs.

    submit ─> AwaitedRecord ─┐
                             ├─> entries by the time they are due ─> run: a call ─> receipt, error, or due again
    watch  ─> WatchedEntry ──┘

Entries that come while a call is under way share the next one. A failed entry is due again after its own pause, so that
one that the service cannot take keeps no other waiting.
"""

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Protocol, TypeAlias

from emitd.errors import EmitError, RecordRejected, Unavailable
from emitd.runtime.diagnostics import report_fault
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply
from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb

#: How often `flush` sees to it that there is a sender.
HURRY_SECONDS = 1.0

#: Sends records, and notes in the client's counts what became of them.
Send: TypeAlias = Callable[[Sequence[bytes]], Reply]


class Entry(Protocol):
    """What the scheduler sends. `take` to `again` are called by one sender at a time."""

    #: When it is to be sent, by `time.monotonic`; infinity: not now. The scheduler's.
    due: float
    attempts: int

    def take(self) -> bytes | None:
        """Return the record to send, serialised; None: there is nothing to send."""

    def accept(self, receipt: log_service_pb2.Receipt) -> float:
        """Take the receipt. Return when to send again; infinity: not by itself."""

    def reject(self, error: EmitError) -> float:
        """Take a refusal for good. Return what `accept` does."""

    def note_failure(self, why: str) -> None:
        """Know why it is tried again."""

    def next_due(self) -> float:
        """Return when it has something to send by itself; infinity: never."""


class WatchedEntry(Entry, Protocol):
    """An entry that has news again and again, from `watch` to `forget`."""

    @property
    def has_news(self) -> bool:
        """Whether there is something to send now."""

    def start(self) -> None:
        """Count time from now on."""

    def stop(self) -> None:
        """Send nothing more."""


class AwaitedRecord:
    """A record whose maker waits for `future`; once that is cancelled, it is not sent again."""

    def __init__(self, record: bytes) -> None:
        self._record = record
        self.due = 0.0
        self.attempts = 0
        self.future: Future[log_service_pb2.Receipt] = Future()
        #: Why it was not taken so far.
        self.failure = "no answer so far"

    def take(self) -> bytes | None:
        """Return the record, unless its future is done."""
        return None if self.future.done() else self._record

    def accept(self, receipt: log_service_pb2.Receipt) -> float:
        """Give the receipt to its maker."""
        with suppress(InvalidStateError):  # its maker gave up
            self.future.set_result(receipt)
        return math.inf

    def reject(self, error: EmitError) -> float:
        """Give the error to its maker."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)
        return math.inf

    def note_failure(self, why: str) -> None:
        """Remember why, for its maker."""
        self.failure = why

    def next_due(self) -> float:
        """Return infinity: it is sent once."""
        return math.inf


class SendScheduler:
    """For any thread; `run` is what senders do."""

    def __init__(self, settings: ClientSettings, send: Send, start_sender: Callable[[], object]) -> None:
        self._settings = settings
        self._backoff = settings.backoff
        self._send = send
        self._start_sender = start_sender
        # Reentrant, as that of the lines.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()
        self._idle = 0
        self._running = 0
        self._watched: set[WatchedEntry] = set()
        self._awaited: set[AwaitedRecord] = set()
        self._under_way: set[Entry] = set()
        self._is_closed = False

    def submit(self, record: pb.LogRecord) -> AwaitedRecord:
        """Send a record at once, and again while that can help and its future is not cancelled."""
        entry = AwaitedRecord(record.SerializeToString())
        with self._lock:
            self._awaited.add(entry)
            self._schedule(entry, time.monotonic())
        return entry

    def watch(self, entry: WatchedEntry) -> None:
        """Send the news of an entry, until `forget`."""
        with self._lock:
            entry.start()
            self._watched.add(entry)
            self._schedule(entry, entry.next_due())

    def news(self, entry: WatchedEntry) -> None:
        """Send the news of an entry, if it is watched, when it is due."""
        with self._lock:
            if entry not in self._watched or entry in self._under_way or entry.attempts:
                return  # what is tried again brings the news, after its pause
            if entry.next_due() < entry.due:
                self._schedule(entry, entry.next_due())
            elif not self._running:  # none could be started for what is scheduled
                self._start_sender()

    def forget(self, entry: WatchedEntry) -> None:
        """Send no more for an entry."""
        with self._lock:
            if entry in self._watched:
                self._watched.discard(entry)
                entry.stop()
                self._changed.notify_all()

    def withdraw(self, entry: AwaitedRecord) -> bool:
        """Give a record up; return False if its fate is known by now: see its future. A call under way goes on."""
        is_given_up = entry.future.cancel()
        with self._lock:
            self._awaited.discard(entry)
            self._changed.notify_all()
        return is_given_up

    def run(self, deadline: float = math.inf, until: AwaitedRecord | None = None) -> None:
        """Send what is due: until the scheduler is closed and empty, until `deadline`, or until one record is done."""
        self._running += 1
        try:
            while entries := self._take(deadline, until):
                try:
                    self._send_all(entries)
                except Exception as error:  # no memory
                    report_fault("internal error while sending", error)
                    for entry in self._under_way.intersection(entries):
                        self._try_again(entry, repr(error), 0.0)
        finally:
            self._running -= 1

    def flush(self, deadline: float) -> bool:
        """Wait until all receipts have come and no news is left; return False if that is not by `deadline`."""
        with self._lock:
            self._hurry()
            while self._awaited or any(map(self._is_unresolved, self._watched)):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if not self._changed.wait(min(left, HURRY_SECONDS)):
                    self._hurry()
            return True

    def close(self) -> None:
        """Let senders send the rest, and then end."""
        with self._lock:
            self._is_closed = True
            self._hurry()

    def abandon(self) -> None:
        """Tell all who still wait that there was no time left."""
        with self._lock:
            awaited = list(self._awaited)
            self._awaited.clear()
            self._heap.clear()
            self._changed.notify_all()
        for entry in awaited:
            entry.reject(Unavailable(f"the client was closed before it was committed: {entry.failure}"))

    @property
    def waits(self) -> int:
        """How many records wait for their receipt."""
        return len(self._awaited)

    def _is_unresolved(self, entry: WatchedEntry) -> bool:
        """Whether news waits, is under way, or is to be tried again."""
        return entry.has_news or entry in self._under_way or entry.attempts > 0

    def _hurry(self) -> None:
        now = time.monotonic()
        for entry in self._watched:
            if entry.has_news and entry not in self._under_way:
                self._schedule(entry, now)
        self._changed.notify_all()

    def _schedule(self, entry: Entry, due: float) -> None:
        entry.due = due
        if due == math.inf:
            return
        heapq.heappush(self._heap, (due, next(self._order), entry))
        if self._idle:
            self._changed.notify_all()
        else:
            self._start_sender()

    def _take(self, deadline: float, until: AwaitedRecord | None) -> Sequence[Entry]:
        """Wait for what is due, and return it; nothing if there is nothing to wait for."""
        with self._lock:
            while True:
                now = time.monotonic()
                if until is not None and until.future.done():
                    return ()
                if entries := self._pop_due(now):
                    return entries
                next_due = self._heap[0][0] if self._heap else math.inf
                if now >= deadline or (self._is_closed and not self._awaited and next_due > now):
                    return ()
                wait = min(next_due, deadline) - now
                self._idle += 1
                try:
                    self._changed.wait(min(wait, threading.TIMEOUT_MAX))
                finally:
                    self._idle -= 1

    def _pop_due(self, now: float) -> Sequence[Entry]:
        entries: list[Entry] = []
        while self._heap and len(entries) < self._settings.batch_records:
            due, _, entry = self._heap[0]
            if due == entry.due and due > now:
                break
            heapq.heappop(self._heap)
            if due == entry.due:  # else it was scheduled again
                entry.due = math.inf
                self._under_way.add(entry)
                entries.append(entry)
        return entries

    def _send_all(self, entries: Sequence[Entry]) -> None:
        wanted: list[tuple[Entry, bytes]] = []
        for entry in entries:
            with self._faults_settled(entry):
                if (record := entry.take()) is not None:
                    wanted.append((entry, record))
                else:
                    self._reschedule(entry, math.inf)
        if wanted:
            self._exchange(wanted)

    def _exchange(self, wanted: Sequence[tuple[Entry, bytes]]) -> None:
        """Send records, in halves where one may spoil the call for the others."""
        reply = self._send([record for _, record in wanted])
        if reply.divide is not None:
            if len(wanted) == 1:
                with self._faults_settled(wanted[0][0]):
                    self._reschedule(wanted[0][0], wanted[0][0].reject(reply.divide))
                return
            half = len(wanted) // 2
            self._exchange(wanted[:half])
            self._exchange(wanted[half:])
            return
        for index, (entry, _) in enumerate(wanted):
            with self._faults_settled(entry):
                if index in reply.again:
                    self._try_again(entry, *reply.again[index])
                elif index in reply.rejected:
                    self._reschedule(entry, entry.reject(reply.rejected[index]))
                elif index >= len(reply.receipts):
                    self._try_again(entry, "the service sent no receipt for it", 0.0)
                else:
                    self._reschedule(entry, entry.accept(reply.receipts[index]))

    @contextmanager
    def _faults_settled(self, entry: Entry) -> Iterator[None]:
        """Let an exception within the block, which is about one entry, settle this entry as refused, and no other."""
        try:
            yield
        except Exception as error:
            report_fault("internal error, a record is given up", error)
            due = math.inf
            with suppress(Exception):
                due = entry.reject(RecordRejected(f"internal error: {error!r}"))
            self._reschedule(entry, due)

    def _try_again(self, entry: Entry, why: str, at_least: float) -> None:
        entry.attempts += 1
        entry.note_failure(why)
        pause = self._backoff.pause(entry.attempts, at_least)
        with self._lock:
            self._under_way.discard(entry)
            self._schedule(entry, time.monotonic() + pause)

    def _reschedule(self, entry: Entry, next_due: float) -> None:
        entry.attempts = 0
        with self._lock:
            self._under_way.discard(entry)
            self._awaited.discard(entry)
            next_due = min(next_due, entry.next_due())  # there may be news since it was answered
            if not self._is_closed or next_due <= time.monotonic():
                self._schedule(entry, next_due)
            self._changed.notify_all()
