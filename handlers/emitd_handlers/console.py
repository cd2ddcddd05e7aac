"""`ConsoleHandler`: log lines for people, on standard output.

    [2026-11-23 03:39:00] [INFO] User 'u1' successfully authenticated. user=u1 attempt=1

One record is one line, whatever text it holds (see `text.escape`). The message is free text and may imitate the pairs
behind it: programs read the audit trail, not this. The lines of a batch go out in one write, in the handler's
own thread, so that a slow reader of standard output blocks this handler only; one that goes away ends the
output, not the service.
"""

import errno
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, BinaryIO, ClassVar
from zoneinfo import ZoneInfo

import msgspec

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.diagnostics import report
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import AuditEvent, LogRecord, Payload
from emitd_handlers.settings import HandlerSettings
from emitd_handlers.text.escape import escape, escape_lines, quote

__all__ = ["ConsoleHandler", "ConsoleSettings"]

#: For how many seconds the formatted date is kept.
CACHED_SECONDS = 4096
#: How often a full non-blocking output is tried again.
FULL_OUTPUT_POLL_SECONDS = 0.01
#: OpenTelemetry's name for an exception's stack.
STACK_ATTRIBUTE = "exception.stacktrace"

#: Errors of a write after the pipe's reader or the terminal has gone.
_CLOSED_ERRNOS = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF, errno.ENXIO})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMMITTED = Committed()
# Decimal keeps every digit of a number, where float would round it.
_decode_members = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_encode_json = msgspec.json.Encoder(decimal_format="number").encode


class ConsoleSettings(HandlerSettings, frozen=True, kw_only=True):
    """The keys of an entry of type `console`, besides the common ones."""

    #: The time zone that times are shown in, by its IANA name, such as `Europe/Berlin`.
    timezone: str = "UTC"
    #: Whether attributes follow the message, and an audit event's or a job's details.
    attributes: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError if `timezone` is unknown."""
        _zone(self.timezone)


class ConsoleHandler(BaseLogHandler):
    """Writes records as lines of text, in UTF-8. Override `format` for lines of another form."""

    Settings: ClassVar[type[HandlerSettings]] = ConsoleSettings
    settings: ConsoleSettings

    def __init__(
        self, settings: ConsoleSettings | None = None, *, name: str = "", stream: BinaryIO | None = None
    ) -> None:
        """Write to `stream`; None: to the standard output of the moment.

        A stream's buffer is passed by: what else is written to the same stream should be flushed first.
        """
        super().__init__(settings, name=name)
        #: Records accepted and not written, by cause: `output_closed`.
        self.lost_records: Counter[str] = Counter()
        self._stream = stream
        self._attributes = self.settings.attributes
        self._stamp = lru_cache(CACHED_SECONDS)(partial(_timestamp, _zone(self.settings.timezone)))
        self._closed = False
        self._separator = b""  # a newline after a line that was cut short

    def format(self, record: LogRecord) -> str:
        """Return the record's line, without a newline. Pure.

        The text that a subclass returns is escaped before it is written, so that it cannot span lines.
        """
        text = record.message if record.payload is None else _describe(record.payload, record.message)
        # `_name_`, because Enum's `name` is a property in Python, and costs as much as the rest of the line.
        line = f"[{self._stamp(record.time_unix_nano // 1_000_000_000)}] [{record.level._name_}] {text}"
        if self._attributes:
            if record.payload is not None and record.payload.details_json:
                line += _pairs(record.payload.details_json)
            if record.attributes_json:
                line += _pairs(record.attributes_json)
        return line

    def emit(self, record: LogRecord) -> None:
        """Write one record. A subclass that overrides this gets its records one by one."""
        (outcome,) = self._write_lines([record])
        if isinstance(outcome, Refused):
            raise outcome.error

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Write the records with one write."""
        if type(self).emit is not ConsoleHandler.emit:
            outcomes = await super().emit_batch(records)
        else:
            outcomes = await self.run_in_thread(self._write_lines, records)
        self.report_health("its output is closed, and its records are lost" if self._closed else "")
        return outcomes

    async def stop(self) -> None:
        """Wait until everything taken is written, and say what was lost."""
        already_stopped = self._stopped
        await super().stop()
        if not already_stopped:
            for cause, count in self.lost_records.items():
                report(f"handler '{self.name}' lost {count} records: {cause}")

    def _write_lines(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        if self._closed:
            self.lost_records["output_closed"] += len(records)
            return [_COMMITTED] * len(records)
        lines: list[str] = []
        outcomes: list[Outcome] = []
        for record in records:
            try:
                line = self.format(record)
                if not isinstance(line, str):
                    raise TypeError(f"format returned {type(line).__name__}, not str")
            except (Exception, SystemExit) as error:  # a subclass must not end the process
                outcomes.append(self.refusal(error))
            else:
                lines.append(line)
                outcomes.append(_COMMITTED)
        data = self._separator + escape_lines(lines)
        written, failure = self._write(data)
        if failure is not None:
            self._refuse_unwritten(outcomes, min(data.count(b"\n", written), len(lines)), failure)
        return outcomes

    def _write(self, data: bytes) -> tuple[int, Exception | None]:
        """Write `data`; return how many bytes went out, and what kept the rest from it."""
        written = 0
        try:
            stream = self._raw_stream()
            while written < len(data):
                try:
                    count = stream.write(memoryview(data)[written:]) or 0  # None: it would block
                except BlockingIOError as full:
                    count = full.characters_written
                written += count
                if not count:
                    time.sleep(FULL_OUTPUT_POLL_SECONDS)
            stream.flush()
        except (OSError, ValueError) as error:  # ValueError: someone closed the stream
            return written, error
        finally:
            if written:
                self._separator = b"" if data.endswith(b"\n", 0, written) else b"\n"
        return written, None

    def _raw_stream(self) -> BinaryIO:
        """Return the stream without its buffer.

        A buffer would hold what a closed pipe did not take, to complain at the interpreter's exit, and a
        lock, which makes that exit fatal while a thread is stuck in a write.
        """
        stream = self._stream or getattr(sys.stdout, "buffer", None)
        if stream is None:
            raise ValueError("there is no standard output that takes bytes")
        raw: BinaryIO = getattr(stream, "raw", stream)
        return raw

    def _refuse_unwritten(self, outcomes: list[Outcome], unwritten: int, failure: Exception) -> None:
        """Count the last `unwritten` of the formatted records as lost, or refuse them if a retry can help."""
        if not isinstance(failure, OSError) or failure.errno in _CLOSED_ERRNOS:
            self._closed = True
            self.lost_records["output_closed"] += unwritten
            report(f"handler '{self.name}' lost its output ({failure}); its records are lost from now on")
            return
        formatted = [index for index, outcome in enumerate(outcomes) if outcome is _COMMITTED]
        for index in formatted[len(formatted) - unwritten :]:
            outcomes[index] = self.refusal(failure)


def _describe(payload: Payload, message: str) -> str:
    """Return what stands in the place of the message for an audit event or a report on a job."""
    if isinstance(payload, AuditEvent):
        head = payload.event_name
        fields = [("user", payload.user_id), ("ip", payload.source_ip), ("event_id", payload.event_id)]
    else:
        head = f"{payload.job_id} {payload.status._name_}"
        fields = [
            ("type", payload.job_type),
            ("progress", "" if payload.progress is None else str(payload.progress)),
            ("attempt", "new" if payload.new_attempt else str(payload.attempt)),
            ("reason", payload.failure_reason),
            ("failure", payload.failure_message),
            *payload.labels.items(),
        ]
    text = f"{head}: {message}" if message else head
    return text + "".join([f" {quote(key)}={quote(value)}" for key, value in fields if value])


def _pairs(json_object: str) -> str:
    """Return ` key=value` for each member, an exception's stack last."""
    try:
        members = _decode_members(json_object)
        if STACK_ATTRIBUTE in members:
            members[STACK_ATTRIBUTE] = members.pop(STACK_ATTRIBUTE)
        return "".join([f" {quote(key)}={_value(value)}" for key, value in members.items()])
    except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError):
        # What cannot be read is shown as it is: no line is lost for its attributes.
        return f" attributes={quote(escape(json_object))}"


def _value(value: object) -> str:
    return quote(value) if type(value) is str else _encode_json(value).decode()


def _timestamp(zone: tzinfo, second: int) -> str:
    """Return the local time of a second since 1970, or `@second` beyond the years 1 to 9999."""
    try:
        moment = (_EPOCH + timedelta(seconds=second)).astimezone(zone)
    except (OverflowError, ValueError):
        return f"@{second}"
    return moment.replace(tzinfo=None).isoformat(sep=" ")


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # works without a time zone database
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        problem = f"timezone: '{name}' is none of the IANA database, such as 'Europe/Berlin'"
        raise ValueError(problem) from error
