"""The errors of emitd: why a record was refused, or a question about jobs or the audit trail not answered.

EmitdError
├── HandlerError               a record was refused
│   ├── RecordInvalid          the record is at fault: never retry
│   ├── RecordConflict         its id was used before for other content: never retry
│   └── RetryableError         the same record may be taken later
│       ├── HandlerUnavailable the handler cannot commit now
│       ├── HandlerBusy        back-pressure: its queue, or what it has in flight, is full
│       └── HandlerTimeout     it did not answer in time; whether it committed is not known
├── JobQueryInvalid            a question about jobs makes no sense: never retry
├── AuditQueryInvalid          a question about an audit log makes no sense: never retry
├── AuditNotFound              there is no such log, or it has no such line or event
└── AuditDamaged               the log's files are not what was signed
"""

__all__ = [
    "AuditDamaged",
    "AuditNotFound",
    "AuditQueryInvalid",
    "EmitdError",
    "HandlerBusy",
    "HandlerError",
    "HandlerTimeout",
    "HandlerUnavailable",
    "JobQueryInvalid",
    "RecordConflict",
    "RecordInvalid",
    "RetryableError",
]


class EmitdError(Exception):
    """The root of every error that emitd raises on purpose."""

    #: When it is worth trying the same again; None: never.
    retry_after_seconds: float | None = None
    #: The path of the field at fault, as on the wire; empty: none in particular.
    field: str = ""
    #: The problem with the field, without its path; empty: see the message.
    problem: str = ""


class FieldInvalid(EmitdError):
    """One field is at fault: `field` is its path as on the wire, empty for the whole; `problem` does not repeat it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class HandlerError(EmitdError):
    """A record was refused."""


class RecordInvalid(FieldInvalid, HandlerError):
    """The record itself is at fault. `field` is a path such as `audit.source_ip`, empty for the record as a whole."""


class RecordConflict(HandlerError):
    """The record's id was used before, for other content. `field` is `record_id` or `audit.event_id`."""

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field}: '{value}' was used before for a record with other content")
        self.field = field


class RetryableError(HandlerError):
    """The same record may be taken later; `retry_after_seconds` says when it is worth trying."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        """`retry_after_seconds` is for a handler that knows; None: senders try again after a second."""
        super().__init__(message)
        self.retry_after_seconds = 1.0 if retry_after_seconds is None else retry_after_seconds
        #: How long the handler asked to wait; 0: it did not ask.
        self.wanted_wait_seconds = retry_after_seconds or 0.0


class HandlerUnavailable(RetryableError):
    """The handler failed, or cannot commit now."""


class HandlerBusy(RetryableError):
    """The handler's queue, or what it may have in flight, is full."""


class HandlerTimeout(RetryableError):
    """The handler did not answer in time. It may still commit; a retry under the same id is safe."""


class JobQueryInvalid(FieldInvalid):
    """A question about jobs makes no sense, such as a page token of other filters. `field` is the request's field."""


class AuditQueryInvalid(FieldInvalid):
    """A question about an audit log makes no sense. `field` is the request's field as on the wire."""


class AuditNotFound(EmitdError):
    """There is no such log, or it has no such line or event."""


class AuditDamaged(EmitdError):
    """The log's files are not what was signed: something else has changed them."""
