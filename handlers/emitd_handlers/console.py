"""`ConsoleHandler`: log lines for people, on standard output.

    [2026-11-23 03:39:00] [INFO] [auth.web] User 'u1' successfully authenticated. user=u1 attempt=1

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
from typing import BinaryIO, ClassVar

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.diagnostics import report
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import LogRecord
from emitd_handlers.record_text import LineFormat, LineText, line_format
from emitd_handlers.settings import HandlerSettings
from emitd_handlers.text.escape import escape_lines

#: How often a full non-blocking output is tried again.
FULL_OUTPUT_POLL_SECONDS = 0.01
#: Errors of a write after the pipe's reader or the terminal has gone.
_CLOSED_ERRNOS = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF, errno.ENXIO})
_COMMITTED = Committed()


class ConsoleSettings(HandlerSettings, frozen=True, kw_only=True):
    """The keys of an entry of type `console`, besides the common ones."""

    #: The time zone that times are shown in, by its IANA name, such as `Europe/Berlin`.
    timezone: str = "UTC"
    #: Whether source, trace id and attributes are shown, and an audit event's or a job's details.
    attributes: bool = True
    #: `text` for people, or `json` with every field, as a file has it.
    format: LineFormat = LineFormat.TEXT

    def __post_init__(self) -> None:
        """Raise ValueError if `timezone` is unknown."""
        LineText(self.timezone, self.attributes)


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
        self._line = line_format(self.settings.format, self.settings.timezone, self.settings.attributes)
        self._closed = False
        self._separator = b""  # a newline after a line that was cut short

    def format(self, record: LogRecord) -> str:
        """Return the record's line, without a newline. Pure.

        The text that a subclass returns is escaped before it is written, so that it cannot span lines.
        """
        return self._line(record)

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
