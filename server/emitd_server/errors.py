"""The errors of the service and its configuration, in addition to a handler's refusals.

EmitdError (emitd_handlers.errors)
├── HandlerError …             a record was refused
│   ├── NoHandler              no active handler takes the record's level
│   └── MemoryExhausted        the service holds as much as it may: try again later
├── RequestInvalid             a request makes no sense: never retry
│   └── FieldUnknown           it, or a record in it, has a field of a newer version: a newer service can take it
├── Unauthenticated            a call does not say who makes it, or not so that it can be believed
├── PermissionDenied           no grant lets its principal make it
├── ScopeChanged               the caller of an open stream may read other things by now: open it again
├── RateExceeded               its principal has sent more than it may: try again later
├── RequestLate                a call did not send its request in time
├── JobNotFound
├── NoSource                   no active handler can answer this question
├── TooManyWatchers            back-pressure on streams
├── StreamStalled              a stream was not read for too long
├── ServiceStopping            the service is going down: try again, elsewhere or later
├── StartError                 the service could not start
└── ConfigError                the configuration cannot be used; holds every `Problem` of it
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import msgspec

from emitd_handlers.errors import EmitdError, FieldInvalid, HandlerError, RetryableError
from emitd_handlers.record import Level
from emitd_handlers.text.escape import escape


class NoHandler(HandlerError):
    """No active handler takes records of this level, or of this source."""

    def __init__(self, level: Level, source: str = "") -> None:
        sender = f" from source '{source}'" if source else ""
        super().__init__(f"no handler takes records of level {level.name}{sender}")
        self.level = level


class MemoryExhausted(RetryableError):
    """The service holds as many bytes of requests, queues and replies as it may, or the process has no memory left."""


class RequestInvalid(FieldInvalid):
    """A request as a whole makes no sense. `field` is its path in the request; empty: the request itself."""


class FieldUnknown(RequestInvalid):
    """A request has a field that this version does not know. `field` is the path of the message that has it."""

    def __init__(self, field: str, message_name: str, number: int, *, is_kept: bool) -> None:
        """`is_kept`: it came with records, which their sender keeps until the service is a newer one."""
        super().__init__(field, f"this version of the service does not know field {number} of {message_name}")
        self.retry_after_seconds = 10.0 if is_kept else None


class Unauthenticated(EmitdError):
    """It is not known who makes a call. The message says what is missing, never what was sent."""


class PermissionDenied(EmitdError):
    """No grant lets a principal make a call."""

    def __init__(self, principal: str, method: str, roles: Sequence[str]) -> None:
        needed = " or ".join(roles) or "none"
        super().__init__(f"'{principal}' may not call {method}: no grant gives it the role {needed}")


class RequestLate(EmitdError):
    """A call did not send its request in time, or its turn to do so did not come."""

    retry_after_seconds = 1.0

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the request was not received within {seconds:g} s, or sooner while other calls wait"
        )


class ScopeChanged(EmitdError):
    """What the caller of an open stream may read has changed."""

    retry_after_seconds = 1.0

    def __init__(self) -> None:
        super().__init__("what this caller may read has changed: open the stream again")


class RateExceeded(EmitdError):
    """A principal has sent more than it may."""

    def __init__(self, rate: int, seconds: float) -> None:
        super().__init__(
            f"this principal may send {rate} bytes a second, the limit of server.limits.bytes_per_second"
        )
        self.retry_after_seconds = seconds


class JobNotFound(EmitdError):
    """There is no such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job '{job_id}'")


class NoSource(EmitdError):
    """No active handler can answer this question; the message says which one would."""


class TooManyWatchers(EmitdError):
    """The configuration allows no more open streams of this kind."""

    retry_after_seconds = 5.0

    def __init__(self, limit: int, key: str) -> None:
        super().__init__(f"{limit} such streams are open, the limit of {key}")


class StreamStalled(EmitdError):
    """A stream's reader has taken nothing for too long."""

    retry_after_seconds = 1.0

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the stream was not read for {seconds:g} s, the limit of server.watch.stall_seconds: open it again"
        )


class ServiceStopping(EmitdError):
    """The service is going down."""

    retry_after_seconds = 1.0

    def __init__(self) -> None:
        super().__init__("the service is going down")


class StartError(EmitdError):
    """The service could not start; the message is one line that says what and what to do."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One problem of a configuration."""

    #: The file's path as given, or `built-in defaults`; empty: the environment or the command line.
    file: str
    #: From 1; 0: no line in particular.
    line: int
    #: The YAML path, such as `handlers.audit.path`; empty: the whole file.
    path: str
    #: What was found there.
    found: str
    #: What was expected; empty if `found` is enough.
    expected: str = ""
    #: The nearest known key or name, or empty.
    nearest: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        text = place + (f"{self.path}: " if self.path else "") + self.found
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean '{self.nearest}'?"
        return escape(text)  # one problem is one line, whatever a key or an exception holds


class ConfigError(EmitdError):
    """A configuration cannot be used. `problems` has every problem, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))


def describe(error: BaseException) -> str:
    """Return an exception's type and message, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar to `name`, or an empty string."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else ""
