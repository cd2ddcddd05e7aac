"""What a webhook's receiver gets: from records to JSON, and from JSON to bodies of a bounded size. Pure.

    {"records":[{"record_id":"order-17","timestamp":"2026-11-23T03:39:00.000000000Z","level":"INFO",...}]}

Members bear the contract's names, and those of the audit line where it has them. Free-form JSON is embedded as
it was sent, number for number.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import AuditEvent, JobStatus, LogRecord
from emitd_handlers.text.times import format_time

__all__ = ["encode_body", "encode_record", "idempotency_key", "split"]

_HEAD, _TAIL = b'{"records":[', b"]}"
_NOTHING = msgspec.Raw()


class _Audit(msgspec.Struct, frozen=True, gc=False):
    event_id: str
    event_name: str
    user_id: str
    source_ip: str
    details: msgspec.Raw


class _Job(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    job_id: str
    job_type: str
    status: str
    attempt: int
    new_attempt: bool = False
    progress: int | None = None
    details: msgspec.Raw = _NOTHING
    labels: dict[str, str] = {}
    failure_reason: str = ""
    failure_message: str = ""
    lease_seconds: int | None = None


class _Record(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The members of a record, in their order; those after `message` are left out where they are empty."""

    record_id: str
    #: When it happened: ISO 8601, UTC, with nine decimals, as is `received_at`.
    timestamp: str
    level: str
    message: str
    source: str = ""
    attributes: msgspec.Raw = _NOTHING
    #: Hexadecimal, as is `span_id`.
    trace_id: str = ""
    span_id: str = ""
    audit: _Audit | None = None
    job: _Job | None = None
    received_at: str = ""


_encode = msgspec.json.Encoder().encode
#: Checks a text's syntax on the way.
_raw = msgspec.json.Decoder(msgspec.Raw).decode


def encode_record(record: LogRecord) -> bytes:
    """Return the record as one JSON object.

    Raises RecordInvalid, naming the field, for what a record made in process can have wrong.
    """
    payload = record.payload
    try:
        return _encode(
            _Record(
                record.record_id,
                _time("time_unix_nano", record.time_unix_nano),
                record.level.name,
                record.message,
                record.source,
                _json("attributes_json", record.attributes_json),
                record.trace_id.hex(),
                record.span_id.hex(),
                _audit(payload) if isinstance(payload, AuditEvent) else None,
                _job(payload) if isinstance(payload, JobStatus) else None,
                _time("received_unix_nano", record.received_unix_nano),
            )
        )
    except UnicodeEncodeError:
        raise RecordInvalid("", "a text of the record holds half a surrogate pair") from None


def encode_body(lines: Sequence[bytes]) -> bytes:
    """Return the body with these records."""
    return _HEAD + b",".join(lines) + _TAIL


def split(lines: Iterable[tuple[int, bytes]], max_bytes: int) -> Iterator[list[tuple[int, bytes]]]:
    """Cut numbered records into runs, in order, each of which makes a body of at most `max_bytes`.

    A run is as long as it can be, so that what is left after some runs is cut into the same ones again. A record
    that is too large by itself makes a run of its own.
    """
    run: list[tuple[int, bytes]] = []
    size = len(_HEAD) + len(_TAIL)
    for number, line in lines:
        if run and size + 1 + len(line) > max_bytes:
            yield run
            run, size = [], len(_HEAD) + len(_TAIL)
        size += len(line) + (1 if run else 0)
        run.append((number, line))
    if run:
        yield run


def idempotency_key(body: bytes, done_count: int) -> str:
    """Return what tells a repetition of a request from another request: 32 hexadecimal digits.

    The same while nobody knows whether the body was taken; another one for an equal body later, which
    `done_count` tells apart: two equal log lines without an id are two, not one sent twice.
    """
    return sha256(b"%d:" % done_count + body).hexdigest()[:32]


def _audit(event: AuditEvent) -> _Audit:
    details = _json("audit.details_json", event.details_json or "{}")
    return _Audit(event.event_id, event.event_name, event.user_id, event.source_ip, details)


def _job(report: JobStatus) -> _Job:
    return _Job(
        report.job_id,
        report.job_type,
        report.status.name,
        report.attempt,
        report.new_attempt,
        report.progress,
        _json("job.details_json", report.details_json),
        report.labels,
        report.failure_reason,
        report.failure_message,
        report.lease_seconds,
    )


def _json(field: str, text: str) -> msgspec.Raw:
    if not text:
        return _NOTHING
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
