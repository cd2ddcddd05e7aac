"""`Engine`: what one client does in one process; every client and its bound copies have one.

    write  ─> LineQueue ─> senders ─┐
    submit ─> SendScheduler ─> senders ─┼─> Transport ─> the service
    spool  ─> SpoolManager ─> replay ┘
                 what is dropped ─> DropReport ─> a log line of its own

Threads and channel come with the first record. After a fork the child has a fresh engine inside the same object, and
leaves everything of its parent's alone: see `process_hooks`.
"""

import math
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from emitd.context import current_attributes, current_span
from emitd.errors import ClientNotOpen, EmitError, Unavailable
from emitd.receipt import Receipt, ReceiptState
from emitd.records.audit import next_record_id
from emitd.records.encoding import as_text, attributes_as_json
from emitd.runtime import process_hooks
from emitd.runtime.diagnostics import report_fault, report_line
from emitd.runtime.threads import Senders, TimeLeft, sending_by_itself
from emitd.sending.line_queue import LINE_OVERHEAD_BYTES, Line, LineQueue
from emitd.sending.line_sender import LineSender
from emitd.sending.scheduler import AwaitedRecord, SendScheduler
from emitd.sending.stats import ClientStats, DropReport
from emitd.settings import ClientSettings
from emitd.spool.manager import SpoolManager
from emitd.transport.grpc_transport import Transport
from emitd.transport.reply import Reply
from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb

#: How long calls under way, and those who wait for them, have to come back once they were interrupted.
INTERRUPTED_SECONDS = 1.0

_new = tuple.__new__


class Engine:
    """For any thread."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.credentials = settings.credentials()
        self._is_closed = False
        #: Loops that are jobs, to be closed before the client.
        self.tracks: weakref.WeakSet[Any] = weakref.WeakSet()
        self._start_afresh()
        process_hooks.add(self)

    def _start_afresh(self) -> None:
        settings = self.settings
        self._lock = threading.RLock()
        self._has_begun = False
        self._report_cause_at = 0.0
        self._stats = ClientStats(settings)
        self._time = TimeLeft(settings.close_timeout)
        self.transport = Transport(self.credentials)
        self.drop_report = DropReport(settings.source, settings.report_interval)
        self.lines = LineQueue(settings, lambda level: self.drop("queue_full", level))
        self._line_senders = Senders("emitd-lines", self._send_lines, settings.max_in_flight)
        self._event_senders = Senders("emitd-events", lambda: self.events.run(), settings.max_in_flight)
        self.events = SendScheduler(settings, self._emit_events, self._event_senders.start)
        emit_lines = partial(self._emit, want_receipts=False)
        self._spool = SpoolManager(settings, emit_lines, self.drop, self._time)
        self._delivery = LineSender(
            settings,
            emit_lines,
            time_left=self._time,
            stats=self._stats,
            drop_report=self.drop_report,
            spool=self._spool,
            on_drop=self.drop,
        )
        #: False once it is closed or the program is at its end: no sender comes by then.
        self._is_open = not self._is_closed and not process_hooks.is_ending()
        self._is_finished = False
        #: Held by the thread that ends it. Reentrant: a signal handler may close what is being closed.
        self._finishing = threading.RLock()
        #: The threads that wait for a receipt, or spool instead.
        self._callers: list[int] = []

    def write(
        self,
        level: int,
        message: str,
        attributes: Mapping[str, object],
        *,
        may_block: bool = True,
        time_unix_nano: int = 0,
        span: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Queue a log line; time 0: now; span None: this thread's. Never raises; may wait, by the overflow policy."""
        try:
            if context := current_attributes():
                attributes = {**context, **attributes}
            if type(message) is not str:
                message = as_text(message)
            attributes_json = attributes_as_json(attributes) if attributes else b""
            size = LINE_OVERHEAD_BYTES + message.__sizeof__() + len(attributes_json)
            trace_id, span_id = span or current_span()
            time_unix_nano = time_unix_nano or time.time_ns()
            # As `Line(...)`, at half of its price.
            line = _new(
                Line,
                (next_record_id(), time_unix_nano, level, message, attributes_json, trace_id, span_id, size),
            )
            if not self._is_open:
                self._write_late(line)
            # Also for a line that needs no further sender: the last one may not have started.
            elif self.lines.put(line, may_block=may_block) or not self._line_senders.threads:
                self._start_line_sender()
        except Exception as error:
            self.note_fault(level, error)

    def note_fault(self, level: int, error: Exception, count: int = 1) -> None:
        """Settle records that a fault of their own keeps from being sent: count them as dropped. Never raises."""
        report_fault("internal error, a record is dropped", error)
        with suppress(Exception):  # no memory
            self.drop("internal_error", level, repr(error), count)

    def report_line(self, text: str) -> None:
        """Print a line on standard error."""
        report_line(f"{self.settings.source}: {text}")

    def submit(self, record: pb.LogRecord) -> AwaitedRecord:
        """Send an awaited record at once. Raises ClientNotOpen."""
        self.refuse_if_closed()
        self._begin()
        return self.events.submit(record)

    def shorten(self, timeout: float) -> float:
        """Return how long a call may wait: its timeout, or less if the client is being closed."""
        return min(timeout, max(self._time.seconds(), 0.0), threading.TIMEOUT_MAX)

    def send_alone(self, entry: AwaitedRecord, timeout: float) -> bool:
        """Send an awaited record in this thread, if no other does; return whether that was so, and is over by now."""
        if self._is_open and self._event_senders.threads:
            return False
        with self._time.alone(timeout) as deadline:
            self.events.run(deadline, until=entry)
        return True

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Hold up the end of the client while this thread waits for a receipt, or spools instead.

        What fails in there is an EmitError to the caller.
        """
        callers, thread = self._callers, threading.get_ident()
        callers.append(thread)
        try:
            yield
        except EmitError:
            raise
        except Exception as error:
            report_fault("internal error while a record is sent", error)
            raise Unavailable(f"internal error: {error!r}; the record may still be committed") from error
        finally:
            callers.remove(thread)

    def spool(self, record: pb.LogRecord, failure: Exception) -> Receipt:
        """Put a record on the disk; it is sent when that is possible. Raises `failure` where there is no spool."""
        try:
            self._spool.append([record.SerializeToString()])
        except Unavailable as error:
            raise Unavailable(f"{failure}; {error}") from error
        self._stats.add("spooled", 1)
        return Receipt(ReceiptState.SPOOLED, log_service_pb2.Receipt(record_id=record.record_id))

    def refuse_if_closed(self) -> None:
        """Raise ClientNotOpen if the client is closed."""
        if self._is_closed:
            raise ClientNotOpen("the client is closed: make another, or close it later")

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def stats(self) -> Mapping[str, int]:
        """Return what became of the records of this process so far, by fate, and what waits now."""
        waiting = {
            "queued": len(self.lines),
            "queued_bytes": self.lines.size_bytes,
            "awaited": self.events.waits,
        }
        return {**self._stats.counts(), **waiting, **self._spool.stats()}

    def flush(self, timeout: float | None) -> bool:
        """Wait until every line so far is delivered or counted as dropped; return False if time was not enough."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if len(self.lines) and not self._line_senders.threads:
            self._start_line_sender()
        elif self.drop_report and self._has_begun:
            self._nudge()
        return self.lines.flush(deadline) and self.events.flush(deadline)

    def close(self, timeout: float | None = None) -> None:
        """Send for at most `timeout` seconds (None: `close_timeout`), then spool or count the rest. Idempotent."""
        seconds = self.settings.close_timeout if timeout is None else max(timeout, 0.0)
        deadline = time.monotonic() + seconds
        self._end_tracks(deadline)
        self._is_closed = True
        self._finish(deadline)

    def hurry_at_exit(self) -> None:
        """Let the senders send what there is, at the end of the program."""
        self._hurry(self._exit_deadline())

    def finish_at_exit(self) -> None:
        """Do what `close` does, at the end of the program; what is written even later is sent as it comes."""
        self._end_tracks(self._exit_deadline())
        self._finish(self._exit_deadline())
        if not self._is_closed:
            self._time.reopen()
            self.transport.prepare()

    # Forks: see `process_hooks`.

    def shut_for_fork(self) -> None:
        """Let no further thread into grpc, and end the streams, which would not end by themselves."""
        self.transport.fork_guard.shut()
        self.transport.cancel_streams()

    def wait_for_fork(self, began: float) -> None:
        """Get all threads out of grpc and SQLite: wait for calls under way, then interrupt them."""
        deadline = began + self.settings.fork_wait
        # Half of the time for them to end by themselves. One that is interrupted is tried again.
        if not self.transport.fork_guard.wait_until_empty(deadline - self.settings.fork_wait / 2):
            self.transport.interrupt()
            self.transport.fork_guard.wait_until_empty(deadline)
        self._spool.pause(max(deadline - time.monotonic(), 0.0))

    def resume_after_fork(self) -> None:
        """Go on, in the parent."""
        self._spool.resume()
        self.transport.fork_guard.open()

    def start_in_child(self) -> None:
        """Leave all that there is to the parent, and start afresh."""
        self._spool.leave_to_parent()
        process_hooks.keep_for_ever(self.__dict__.copy())
        self._start_afresh()

    # Sending.

    def _begin(self) -> None:
        if self._has_begun:
            return
        with self._lock:
            process_hooks.begin()
            self._has_begun = process_hooks.is_ending() or self._spool.start()

    def _start_line_sender(self) -> None:
        self._begin()
        if not self._is_open or not self._line_senders.start():
            self._send_here()

    def _write_late(self, line: Line) -> None:
        if self._is_closed:
            self.drop("closed", line.level)
            process_hooks.add(self)  # it has drops to report at the end
            return
        self.lines.put(line, may_block=False)
        self._start_line_sender()

    def _nudge(self) -> None:
        if self.lines.nudge():
            self._line_senders.start()

    def _send_lines(self, *, may_wait: bool = True) -> None:
        """Send lines until none can come (or, without waiting, none is there), or no time is left."""
        while self._time.seconds() > 0 and (batch := self.lines.take(may_wait=may_wait)) is not None:
            if may_wait and self.lines.is_crowded:
                self._line_senders.start()
            try:
                self._delivery.deliver(batch.lines)
            except Exception as error:
                self.note_fault(pb.LEVEL_UNSPECIFIED, error, len(batch.lines))
            finally:
                self.lines.resolve(batch)
        if self._time.seconds() > 0:
            self._delivery.deliver(())

    def drop(self, cause: str, level: int, why: str = "", count: int = 1) -> None:
        """Count records that are dropped, by cause, and report them."""
        self._stats.add(f"dropped_{cause}", count)
        self.drop_report.add(cause, level, count, why)
        if self._is_open and self._has_begun:
            self._nudge()

    def _emit_events(self, records: Sequence[bytes]) -> Reply:
        reply = self._emit(records, want_receipts=True)
        if reply.divide is None:
            self._stats.add("sent", len(records) - len(reply.again) - len(reply.rejected))
            self._stats.add("failed", len(reply.rejected))
        return reply

    def _emit(self, records: Sequence[bytes], *, want_receipts: bool) -> Reply:
        """Make one call, and count what its connection says of earlier ones. Never raises."""
        timeout = self._time.for_call(self.settings.call_timeout)
        try:
            reply = self.transport.emit(records, timeout, want_receipts=want_receipts)
        except Exception as error:  # a fault of our own must not end the sending
            report_fault("internal error while sending", error)
            return Reply(again=dict.fromkeys(range(len(records)), (repr(error), 0.0)))
        self._stats.note(reply, len(records))
        if reply.cause and time.monotonic() >= self._report_cause_at:
            self._report_cause_at = time.monotonic() + self.settings.report_interval
            self.report_line(f"records are not taken: {reply.cause}")
        if not reply.again:
            self._time.answered()
        return reply

    # Ending.

    def _exit_deadline(self) -> float:
        return time.monotonic() + self.settings.close_timeout - process_hooks.ending_seconds()

    def _end_tracks(self, deadline: float) -> None:
        with sending_by_itself(deadline):
            for track in list(self.tracks):
                track.close()

    def _finish(self, deadline: float) -> None:
        """End, once. Who comes while another thread does it waits for that."""
        wait = min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
        if not self._finishing.acquire(timeout=wait):
            return
        try:
            if not self._is_finished:
                self._is_finished = True
                self._end(deadline)
            self.drop_report.tell(now=True)
        finally:
            self._finishing.release()

    def _end(self, deadline: float) -> None:
        """Send what there is, as the senders do; then interrupt them, and spool or count the rest."""
        self._hurry(deadline)
        is_done = False
        try:
            with sending_by_itself(deadline):
                self._send_lines(may_wait=False)
            is_done = self._join(deadline)
        finally:  # a KeyboardInterrupt only ends the waiting
            if not is_done:
                self._interrupt()
            self._delivery.give_up(
                self.lines.drain(), "no time was left"
            )  # senders that run out of time leave theirs in the queue
            self._delivery.leave_word()
            self._spool.close()
            if self._is_closed:
                self.transport.interrupt()
                process_hooks.remove(self)

    def _hurry(self, deadline: float) -> None:
        self._is_open = False
        self._time.close(deadline)
        self._spool.close_replay()
        self.lines.close()
        self.events.close()

    def _interrupt(self) -> None:
        """Have all that is under way given up."""
        self._time.close(time.monotonic())
        self.transport.interrupt()
        self.events.abandon()
        self._join(time.monotonic() + INTERRUPTED_SECONDS)

    def _send_here(self) -> None:
        """Send in this thread: no other can be started, at the end of the program or where there are too many."""
        with self._time.alone():
            self._send_lines(may_wait=False)
            if self._time.seconds() <= 0 and not self._is_open:  # else the next record tries again
                self._delivery.give_up(self.lines.drain(), "no time was left")
        if process_hooks.is_ending():
            self._delivery.leave_word()
            self.drop_report.tell(now=True)

    def _join(self, deadline: float) -> bool:
        """Wait for all threads that send, or wait for what is sent; return whether they are done."""
        done = [threads.join(deadline) for threads in (self._line_senders, self._event_senders, self._spool)]
        while set(self._callers) - {threading.get_ident()}:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return all(done)
