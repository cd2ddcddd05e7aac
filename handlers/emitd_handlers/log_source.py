"""`LogSource`, the protocol to read log lines by, and the types that it takes and returns."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.record import Level, LogRecord
from emitd_handlers.scope import EVERYTHING, Scope
from emitd_handlers.text.patterns import matches_any


class LogFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The lines wanted: those that match every member that is not empty."""

    #: This level or above.
    min_level: Level = Level.DEBUG
    #: One of these patterns matches the source: `*` stands for any text.
    sources: tuple[str, ...] = ()
    #: Is in the message, in upper or lower case.
    text: str = ""
    #: The member `job_id` of the attributes: a text, or a number as it is spelt.
    job_id: str = ""
    trace_id: bytes = b""
    #: What the caller may read.
    scope: Scope = EVERYTHING

    def matches(self, record: LogRecord) -> bool:
        """Return whether a line is wanted."""
        return (
            record.level >= self.min_level
            and (self.scope is EVERYTHING or self.scope.has(record.level, record.source, None))
            and (not self.trace_id or record.trace_id == self.trace_id)
            and (not self.sources or matches_any(self.sources, record.source))
            and (not self.text or self.text.casefold() in record.message.casefold())
            and (not self.job_id or _job_id(record.attributes_json) == self.job_id)
        )


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines to read, and in which order. Times are nanoseconds since 1970-01-01T00:00:00Z."""

    filter: LogFilter = LogFilter()
    #: Only lines that the server received at this time or later.
    received_after_unix_nano: int = 0
    #: Only lines that the server received before this time.
    received_before_unix_nano: int = 2**63
    newest_first: bool = False


class LogPart(msgspec.Struct, frozen=True):
    """A part of the lines that a query asks for."""

    lines: Sequence[LogRecord]
    #: So far the query was answered: all lines that were received before this time, with `newest_first` after it, were
    #: in this part or those before it.
    reached_unix_nano: int


@runtime_checkable
class LogSource(Protocol):
    """The members by which a handler offers the log lines that it keeps.

    The service keeps the last lines in memory, and asks one handler for those before them: one of all sources rather
    than of some, and then the one of most levels.
    """

    @property
    def keeps_lines(self) -> bool:
        """Whether the handler can do so as it is configured."""

    def read_lines(self, query: LogQuery) -> AsyncGenerator[LogPart, None]:
        """Yield the lines that match, by the time of receipt, in parts that may be empty.

        A part is what was found in about 256 KiB of what was read, so that the caller can stop after any amount. Called
        in the service's event loop, which it must not block, any number at once. May raise HandlerUnavailable.
        """


class _Members(msgspec.Struct):
    job_id: msgspec.Raw = msgspec.Raw(b"")


_decode_members = msgspec.json.Decoder(_Members).decode
_decode_text = msgspec.json.Decoder(str).decode


def _job_id(attributes_json: str) -> str:
    """Return the text of the member `job_id`, a number as it is spelt, or an empty text."""
    if '"job_id"' not in attributes_json and "\\u" not in attributes_json:
        return ""
    try:
        value = _decode_members(attributes_json).job_id
    except msgspec.MsgspecError:  # no object: another program's line
        return ""
    kind = bytes(memoryview(value)[:1])
    if kind == b'"':
        return _decode_text(value)
    return str(value, "utf-8") if kind and kind in b"-0123456789" else ""
