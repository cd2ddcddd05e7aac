"""The bodies that are posted to a webhook's receiver, and the meaning of its replies. Pure.

    {"records":[{"record_id":"order-17","timestamp":"2026-11-23T03:39:00.000000000Z","level":"INFO",...}]}

Members have the names of the contract, or of the audit line if it has them. Free-form JSON is embedded as it was sent,
number for number.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from hashlib import sha256
from http import HTTPStatus

import msgspec

from emitd_handlers.errors import HandlerError, HandlerUnavailable, RecordInvalid
from emitd_handlers.record import AuditEvent, LogRecord
from emitd_handlers.text.times import format_time

_HEAD, _TAIL = b'{"records":[', b"]}"


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


def encode_body(lines: Sequence[bytes]) -> bytes:
    """Return the body with these records."""
    return _HEAD + b",".join(lines) + _TAIL


def split(lines: Iterable[tuple[int, bytes]], max_bytes: int) -> Iterator[list[tuple[int, bytes]]]:
    """Cut numbered records into runs, in order, each for a body of at most `max_bytes`.

    A run is as long as it can be, so that the rest after some runs is cut into the same ones again. A record that is
    too large has its own run.
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
    """Return a key of 32 hexadecimal digits that is the same for a repetition of a request, and no other.

    `done_count`, the number of requests answered for good, tells an equal body later from a repetition: two equal log
    lines without an id are two, not one sent twice.
    """
    return sha256(b"%d:" % done_count + body).hexdigest()[:32]


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


#: However long a receiver asks us to wait.
MAX_RETRY_AFTER_SECONDS = 300.0
#: Receivers give whole seconds and drop the rest: added to what they say.
ROUNDING_SECONDS = 0.1
PAYLOAD_TOO_LARGE = 413

#: The receiver may take the same later: 408 Request Timeout, 425 Too Early, 429 Too Many Requests; so does 5xx.
_RETRYABLE = frozenset({408, 425, 429})
#: The receiver finds fault with what was posted, not with how: Bad Request, Payload Too Large, Unprocessable.
_INVALID = frozenset({400, PAYLOAD_TOO_LARGE, 422})


class Reply(msgspec.Struct, frozen=True):
    """A status, and the header `Retry-After` if there was one."""

    status: int
    retry_after: str = ""

    def refusal(self, origin: str, now: Callable[[], float]) -> HandlerError | None:
        """Return why the records were not taken, or None if they were. `now` gives the Unix time in seconds."""
        if 200 <= self.status <= 299:
            return None
        answered = f"{origin} answered {self.status}"
        with suppress(ValueError):  # HTTP's own phrase: the receiver's may say anything
            answered += f" {HTTPStatus(self.status).phrase}"
        if self.status in _RETRYABLE or self.status >= 500:
            wait = retry_after_seconds(self.retry_after, now)
            return HandlerUnavailable(answered, retry_after_seconds=wait)
        if self.status in _INVALID:
            return RecordInvalid("", answered)
        if 300 <= self.status <= 399:
            answered += "; redirects are not followed: set `url` to the new address"
        return HandlerError(answered)


def retry_after_seconds(value: str, now: Callable[[], float]) -> float | None:
    """Return how long to wait, by a `Retry-After` of seconds or an HTTP date (RFC 9110, section 10.2.3).

    None if it says nothing that can be understood, or no time in the future. Never more than
    MAX_RETRY_AFTER_SECONDS.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:12])  # longer ones are beyond the limit anyway
    else:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = date.timestamp() - now()
    if seconds <= 0:
        return None
    return min(seconds + ROUNDING_SECONDS, MAX_RETRY_AFTER_SECONDS)
