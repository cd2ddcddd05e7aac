"""Converts between log lines and messages: reads and checks requests, writes lines."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated

import msgspec
from msgspec.structs import replace

from emitd.v1 import log_line_pb2 as pb
from emitd.v1 import record_pb2
from emitd_handlers.log_source import LogFilter
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.scope import Scope
from emitd_server.errors import RequestInvalid

MAX_SOURCES = 100
MAX_TEXT_BYTES = 256
_LEVELS = {level.value: level for level in Level if level < Level.AUDIT} | {0: Level.DEBUG}

_Number = Annotated[int, msgspec.Meta(ge=0)]


class Position(msgspec.Struct, frozen=True, array_like=True):
    """A place between two lines, as page tokens and resume tokens have it."""

    #: The time of receipt of the last line before it.
    received_unix_nano: _Number
    #: How many lines with this time of receipt are before it, of those that match the filter.
    count: _Number
    #: The service that numbered the lines, and the number of the line after it; 0: they are not numbered.
    service: _Number = 0
    number: _Number = 0

    def after(self, record: LogRecord) -> "Position":
        """Return the position after the next line."""
        is_same = record.received_unix_nano == self.received_unix_nano
        return replace(self, received_unix_nano=record.received_unix_nano, count=self.count * is_same + 1)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Position).decode


def position_to_wire(position: Position) -> str:
    """Return the token."""
    return urlsafe_b64encode(_encode(position)).decode()


def read_position(field: str, token: str) -> Position:
    """Return the position of a token. Raises RequestInvalid."""
    try:
        return _decode(urlsafe_b64decode(token))
    except (ValueError, msgspec.MsgspecError):
        raise RequestInvalid(field, "is not a token of this server") from None


def read_filter(message: pb.LogFilter, scope: Scope) -> LogFilter:
    """Return the filter of a request of a caller with a scope. Raises RequestInvalid."""
    level = _LEVELS.get(message.min_level)
    if level is None:
        raise RequestInvalid(
            "filter.min_level", f"{message.min_level} is none of the levels of log lines, 10 to 50"
        )
    if len(message.sources) > MAX_SOURCES:
        raise RequestInvalid(
            "filter.sources", f"has {len(message.sources)} patterns, more than {MAX_SOURCES}"
        )
    for field, texts in {
        "filter.sources": message.sources,
        "filter.text": [message.text],
        "filter.job_id": [message.job_id],
    }.items():
        size = max([len(text.encode()) for text in texts], default=0)
        if size > MAX_TEXT_BYTES:
            raise RequestInvalid(field, f"has {size} bytes, more than {MAX_TEXT_BYTES}")
    if len(message.trace_id) not in (0, 16):
        raise RequestInvalid("filter.trace_id", f"has {len(message.trace_id)} bytes; expected 16 or none")
    return LogFilter(
        min_level=level,
        sources=tuple(message.sources),
        text=message.text,
        job_id=message.job_id,
        trace_id=message.trace_id,
        scope=scope,
    )


def line_to_wire(record: LogRecord) -> pb.LogLine:
    """Return the line's message."""
    return pb.LogLine(
        receive_time_unix_nano=record.received_unix_nano,
        record=record_pb2.LogRecord(
            record_id=record.record_id,
            time_unix_nano=record.time_unix_nano,
            level=record.level.value,  # type: ignore[arg-type]  # the stubs want their own enum; numbers will do
            message=record.message,
            source=record.source,
            attributes_json=record.attributes_json,
            trace_id=record.trace_id,
            span_id=record.span_id,
        ),
    )
