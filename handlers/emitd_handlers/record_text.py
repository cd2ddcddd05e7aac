"""A record as one line of text for people, which the console and the file write. Pure.

    [2026-11-23 03:39:00] [INFO] [auth.web] User 'u1' successfully authenticated. user=u1 attempt=1

A line has no fixed width and no colour. The time takes 21 characters; source and trace id are there if the record has
them.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from emitd_handlers.paths import SettingInvalid
from emitd_handlers.record import AuditEvent, LogRecord, Payload
from emitd_handlers.record_json import encode_record
from emitd_handlers.text.escape import escape, quote

#: For how many seconds the formatted date is kept.
CACHED_SECONDS = 4096
#: OpenTelemetry's name for an exception's stack.
STACK_ATTRIBUTE = "exception.stacktrace"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Decimal keeps every digit of a number, where float would round it.
_decode_members = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_encode_json = msgspec.json.Encoder(decimal_format="number").encode


class LineFormat(Enum):
    """How a handler writes a line."""

    TEXT = "text"
    JSON = "json"


def line_format(kind: LineFormat, timezone: str, attributes: bool) -> Callable[[LogRecord], str]:
    """Return what makes a record's line; the last two are those of `LineText`. It may raise RecordInvalid."""
    if kind is LineFormat.TEXT:
        return LineText(timezone, attributes).format
    return lambda record: encode_record(record).decode()


class LineText:
    """Formats records; with `attributes`, source, trace id, attributes and details are shown too."""

    def __init__(self, timezone: str, attributes: bool) -> None:
        """`timezone` is a name of the IANA database. Raises ValueError for another."""
        self._attributes = attributes
        self._stamp = lru_cache(CACHED_SECONDS)(partial(_timestamp, _zone(timezone)))

    def format(self, record: LogRecord) -> str:
        """Return the record's line, without a newline, not escaped."""
        text = record.message if record.payload is None else _describe(record.payload, record.message)
        source = f"[{quote(record.source)}] " if self._attributes and record.source else ""
        # `_name_`, because Enum's `name` is a property in Python, and costs as much as the rest of the line.
        line = (
            f"[{self._stamp(record.time_unix_nano // 1_000_000_000)}] [{record.level._name_}] {source}{text}"
        )
        if self._attributes:
            if record.payload is not None and record.payload.details_json:
                line += _pairs(record.payload.details_json)
            if record.attributes_json:
                line += _pairs(record.attributes_json)
            if record.trace_id:
                line += f" trace_id={record.trace_id.hex()}"
        return line


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
        raise SettingInvalid("timezone: is no name of the IANA database, such as Europe/Berlin") from error
