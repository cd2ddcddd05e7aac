"""`LogSource`, the protocol to read log lines by, and the types that it takes and returns."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.record import Level, LogRecord

__all__ = ["LogFilter", "LogQuery", "LogSource"]


class LogFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The lines wanted: those that match every member that is not empty."""

    #: This level or above.
    min_level: Level = Level.DEBUG
    #: One of these patterns matches the source: `*` stands for any text.
    sources: tuple[str, ...] = ()
    #: Is in the message, in upper or lower case.
    text: str = ""
    #: The member `job_id` of the attributes.
    job_id: str = ""
    trace_id: bytes = b""


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines to read, and in which order. Times are nanoseconds since 1970-01-01T00:00:00Z."""

    filter: LogFilter = LogFilter()
    #: Only lines that the server received at this time or later.
    received_after_unix_nano: int = 0
    #: Only lines that the server received before this time; 0: to the newest.
    received_before_unix_nano: int = 0
    newest_first: bool = False


@runtime_checkable
class LogSource(Protocol):
    """The method by which a handler offers the log lines that it keeps. One handler of a service may have it.

    The service keeps the last lines in memory and asks the handler for those before them.
    """

    def read_lines(self, query: LogQuery) -> AsyncGenerator[Sequence[LogRecord], None]:
        """Yield the lines that match, by the time of receipt, in parts that may be empty.

        A part is what was found in about 1 MiB of what was read, so that the caller can stop after any amount. Called
        in the service's event loop, which it must not block, any number at once. May raise HandlerUnavailable.
        """
        ...
