"""What can go wrong in the service beyond a handler's refusal.

EmitdError (emitd_handlers.errors)
├── HandlerError …             a record was refused
│   └── NoHandler              no active handler takes the record's level
├── RequestInvalid             a request makes no sense: never retry
├── JobNotFound
├── NoJobSource                no active handler serves jobs
├── AuditLogNotFound           no active handler keeps a log of this name
├── NoAuditSource              no active handler keeps a log that can be read
├── TooManyWatchers            back-pressure on streams
├── ServiceStopping            the service is going down: try again, elsewhere or later
└── StartError                 the service could not start
"""

from collections.abc import Sequence

from emitd_handlers.errors import EmitdError, HandlerError
from emitd_handlers.record import Level

__all__ = [
    "AuditLogNotFound",
    "JobNotFound",
    "NoAuditSource",
    "NoHandler",
    "NoJobSource",
    "RequestInvalid",
    "ServiceStopping",
    "StartError",
    "TooManyWatchers",
]


class NoHandler(HandlerError):
    """No active handler takes records of this level."""

    def __init__(self, level: Level) -> None:
        super().__init__(f"no handler takes records of level {level.name}")
        self.level = level


class RequestInvalid(EmitdError):
    """A request as a whole makes no sense. `field` is its path in the request; empty: the request itself."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class JobNotFound(EmitdError):
    """There is no such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job '{job_id}'")


class NoJobSource(EmitdError):
    """No active handler serves jobs, or what is asked about them."""

    def __init__(
        self, message: str = "no active handler serves jobs; configure one such as 'type: database_job'"
    ) -> None:
        super().__init__(message)


class AuditLogNotFound(EmitdError):
    """No active handler keeps an audit log of this name."""

    def __init__(self, log_id: str, known: Sequence[str]) -> None:
        names = ", ".join(f"'{name}'" for name in known)
        super().__init__(f"there is no audit log '{log_id}' here, only {names}")


class NoAuditSource(EmitdError):
    """No active handler keeps an audit log that can be read."""

    def __init__(self) -> None:
        super().__init__(
            "no active handler keeps an audit log that can be read; configure one such as 'type: json_audit'"
        )


class TooManyWatchers(EmitdError):
    """As many streams of a kind are open as the configuration allows."""

    retry_after_seconds = 5.0

    def __init__(self, limit: int, key: str) -> None:
        super().__init__(f"{limit} such streams are open, the limit of {key}")


class ServiceStopping(EmitdError):
    """The service is going down."""

    retry_after_seconds = 1.0

    def __init__(self) -> None:
        super().__init__("the service is going down")


class StartError(EmitdError):
    """The service could not start; the message is one line that says what and what to do."""
