"""A record as one JSON object, which the webhook, the file and the console write. Pure.

    {"record_id":"order-17","timestamp":"2026-11-23T03:39:00.000000000Z","level":"INFO",...}

Members have the names of the contract, or of the audit line if it has them. Free-form JSON is embedded as it was sent,
number for number.
"""

import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.text.times import format_time, parse_time

_encode = msgspec.json.Encoder().encode
#: Checks a text's syntax on the way.
_raw = msgspec.json.Decoder(msgspec.Raw).decode


def encode_record(record: LogRecord) -> bytes:
    """Return the record as one JSON object.

    Raises RecordInvalid, naming the field, for an invalid record, as one made in process can be.
    """
    try:
        return _encode(_members(record))
    except UnicodeEncodeError:
        raise RecordInvalid("", "a text of the record holds half a surrogate pair") from None


class _Line(msgspec.Struct):
    level: str
    timestamp: str
    received_at: str
    message: str = ""
    record_id: str = ""
    source: str = ""
    attributes: msgspec.Raw = msgspec.Raw(b"")
    trace_id: str = ""
    span_id: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode


def decode_line(line: bytes) -> LogRecord:
    """Return the log line that `encode_record` wrote. Raises ValueError for any other text, and other records."""
    parsed = _decode_line(line)
    level = Level.__members__.get(parsed.level, Level.AUDIT)
    if level >= Level.AUDIT:
        raise ValueError(f"'{parsed.level}' is no level of log lines")
    return LogRecord(
        level,
        parsed.message,
        parsed.record_id,
        parse_time(parsed.timestamp),
        parse_time(parsed.received_at),
        parsed.source,
        str(parsed.attributes, "utf-8"),
        bytes.fromhex(parsed.trace_id),
        bytes.fromhex(parsed.span_id),
    )


def _members(record: LogRecord) -> dict[str, object]:
    """Return the members of a record, in their order; those after `message` are left out if they are empty."""
    payload = record.payload
    audit = job = None
    if isinstance(payload, AuditEvent):
        audit = {
            "event_id": payload.event_id,
            "event_name": payload.event_name,
            "user_id": payload.user_id,
            "source_ip": payload.source_ip,
            "details": _json("audit.details_json", payload.details_json or "{}"),
        }
    elif payload is not None:
        job = {
            "job_id": payload.job_id,
            "job_type": payload.job_type,
            "status": payload.status.name,
            "attempt": payload.attempt,
        } | _given(
            new_attempt=payload.new_attempt or None,
            progress=payload.progress,
            details=_json("job.details_json", payload.details_json),
            labels=payload.labels or None,
            failure_reason=payload.failure_reason,
            failure_message=payload.failure_message,
            lease_seconds=payload.lease_seconds,
        )
    return {
        "record_id": record.record_id,
        "timestamp": _time("time_unix_nano", record.time_unix_nano),
        "level": record.level.name,
        "message": record.message,
    } | _given(
        source=record.source,
        attributes=_json("attributes_json", record.attributes_json),
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        audit=audit,
        job=job,
        received_at=_time("received_unix_nano", record.received_unix_nano),
    )


def _given(**members: object) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None and value != ""}


def _json(field: str, text: str) -> msgspec.Raw | None:
    if not text:
        return None
    try:
        raw = _raw(text)
    except (ValueError, RecursionError) as error:
        raise RecordInvalid(field, f"is not JSON: {error}") from None
    if text.lstrip()[0] != "{":
        raise RecordInvalid(field, "must be one JSON object")
    return raw


def _time(field: str, unix_nano: int) -> str:
    try:
        return format_time(unix_nano)
    except OverflowError:
        raise RecordInvalid(field, "is outside of the years 1 to 9999") from None
