"""What an HTTP receiver's answer means for the records that were posted to it. Pure."""

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from emitd_handlers.errors import HandlerError, HandlerUnavailable, RecordInvalid

__all__ = ["MAX_RETRY_AFTER_SECONDS", "PAYLOAD_TOO_LARGE", "Reply", "retry_after_seconds"]

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
        answered = f"{origin} answered {_named(self.status)}"
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


def _named(status: int) -> str:
    """Return the status with the phrase that HTTP has for it: the receiver's own may say anything."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
