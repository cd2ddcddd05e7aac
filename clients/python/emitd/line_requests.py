"""The questions that clients ask about log lines, as `emitd.requests` has the others. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypedDict, Unpack, cast

from emitd.errors import RequestRejected
from emitd.records.encoding import as_field
from emitd.records.levels import is_level, level_number
from emitd.requests import Call, listed, number
from emitd.v1 import log_line_pb2 as pb
from emitd.v1 import record_pb2

__all__ = ["LineFilter", "LineQuery", "Moment", "log_lines", "tail_request"]

_TRACE_ID_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: A time with its time zone, a time ago by this machine's clock, or nanoseconds since 1970-01-01T00:00:00Z.
Moment: TypeAlias = datetime | timedelta | int


class LineFilter(TypedDict, total=False):
    """Log lines that match in every respect. What is empty or missing, any line matches."""

    #: This level or above: a name such as `WARNING`, or its number.
    min_level: str | int
    #: At most 100 patterns, one of which matches: `*` stands for any text.
    sources: Iterable[str]
    #: Is in the message, in upper or lower case.
    text: str
    #: The attribute `job_id`.
    job_id: str
    #: 16 bytes, or their 32 hexadecimal digits.
    trace_id: str | bytes


class LineQuery(LineFilter, total=False):
    """What `log_lines` takes."""

    #: Only lines that the server received then or later, and before then.
    since: Moment
    until: Moment
    newest_first: bool
    page_size: int


def log_lines(
    *,
    since: Moment = 0,
    until: Moment = 0,
    newest_first: bool = False,
    page_size: int = 100,
    **lines: Unpack[LineFilter],
) -> Call[pb.ListLogsResponse]:
    """Return the call for the first page of log lines."""
    request = pb.ListLogsRequest(
        filter=_line_filter(**lines),
        received_after_unix_nano=_unix_nano("since", since),
        received_before_unix_nano=_unix_nano("until", until),
        newest_first=newest_first,
        page_size=number("page_size", page_size, 2**31),
    )
    return Call("ListLogs", request, pb.ListLogsResponse)


def tail_request(since: Moment | None, last: int | None, **lines: Unpack[LineFilter]) -> pb.TailLogsRequest:
    """Return the request that begins a tail of log lines."""
    if since is not None and last is not None:
        raise RequestRejected("last: cannot be given together with since", field="last")
    return pb.TailLogsRequest(
        filter=_line_filter(**lines),
        received_after_unix_nano=None if since is None else _unix_nano("since", since),
        last=None if last is None else number("last", last, 2**32),
    )


def _line_filter(
    min_level: str | int = "",
    sources: Iterable[str] = (),
    text: str = "",
    job_id: str = "",
    trace_id: str | bytes = b"",
) -> pb.LogFilter:
    if isinstance(min_level, str):
        min_level = min_level.upper()
    if min_level and not is_level(min_level):
        names = "DEBUG, INFO, WARNING, ERROR or CRITICAL"
        raise RequestRejected(f"min_level: {min_level!r} is not {names}", field="min_level")
    return pb.LogFilter(
        min_level=cast("record_pb2.Level", level_number(min_level)) if min_level else None,
        sources=[as_field(pattern) for pattern in listed(sources)],
        text=as_field(text),
        job_id=as_field(job_id),
        trace_id=_trace_id(trace_id),
    )


def _trace_id(trace_id: str | bytes) -> bytes:
    try:
        data = bytes.fromhex(trace_id) if isinstance(trace_id, str) else trace_id
    except ValueError:
        data = b"?"
    if len(data) not in (0, _TRACE_ID_BYTES):
        raise RequestRejected(
            f"trace_id: {trace_id!r} is neither 16 bytes nor 32 hexadecimal digits", field="trace_id"
        )
    return data


def _unix_nano(field: str, moment: Moment) -> int:
    """Return a moment in nanoseconds since 1970. Raises RequestRejected."""
    if isinstance(moment, timedelta):
        moment = datetime.now(UTC) - moment
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise RequestRejected(f"{field}: {moment} has no time zone", field=field)
        moment = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    return number(field, moment, 2**64)
