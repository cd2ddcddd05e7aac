"""The bodies that are posted to a webhook's receiver, and the meaning of its replies. Pure.

    {"records":[{"record_id":"order-17","timestamp":"2026-11-23T03:39:00.000000000Z","level":"INFO",...}]}

The records are those of `record_json`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from hashlib import sha256
from http import HTTPStatus

import msgspec

from emitd_handlers.errors import HandlerError, HandlerUnavailable, RecordInvalid

_HEAD, _TAIL = b'{"records":[', b"]}"


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
