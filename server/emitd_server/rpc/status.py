"""From domain errors to gRPC status: one table, and the google.rpc details that go with each entry."""

from collections.abc import Mapping

from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from emitd_handlers.errors import (
    AuditDamaged,
    AuditNotFound,
    AuditQueryInvalid,
    EmitdError,
    HandlerBusy,
    HandlerError,
    HandlerTimeout,
    HandlerUnavailable,
    JobQueryInvalid,
    RecordConflict,
    RecordForbidden,
    RecordInvalid,
)
from emitd_server.errors import (
    FieldUnknown,
    JobNotFound,
    MemoryExhausted,
    NoHandler,
    NoSource,
    PermissionDenied,
    RateExceeded,
    RequestInvalid,
    RequestLate,
    ScopeChanged,
    ServiceStopping,
    StreamStalled,
    TooManyWatchers,
    Unauthenticated,
)

#: The gRPC code of every error that can reach a caller. The numbers are those of google.rpc.Code.
CODES: Mapping[type[EmitdError], "code_pb2.Code"] = {
    RecordInvalid: code_pb2.INVALID_ARGUMENT,
    RequestInvalid: code_pb2.INVALID_ARGUMENT,
    JobQueryInvalid: code_pb2.INVALID_ARGUMENT,
    AuditQueryInvalid: code_pb2.INVALID_ARGUMENT,
    Unauthenticated: code_pb2.UNAUTHENTICATED,
    PermissionDenied: code_pb2.PERMISSION_DENIED,
    RecordForbidden: code_pb2.PERMISSION_DENIED,
    JobNotFound: code_pb2.NOT_FOUND,
    AuditNotFound: code_pb2.NOT_FOUND,
    RecordConflict: code_pb2.ALREADY_EXISTS,
    NoHandler: code_pb2.FAILED_PRECONDITION,
    # Not UNAVAILABLE, which proxies and grpc's own retries take for a broken server. RetryInfo tells a record's sender.
    FieldUnknown: code_pb2.UNIMPLEMENTED,
    MemoryExhausted: code_pb2.RESOURCE_EXHAUSTED,
    HandlerBusy: code_pb2.RESOURCE_EXHAUSTED,
    RateExceeded: code_pb2.RESOURCE_EXHAUSTED,
    StreamStalled: code_pb2.RESOURCE_EXHAUSTED,
    TooManyWatchers: code_pb2.RESOURCE_EXHAUSTED,
    HandlerUnavailable: code_pb2.UNAVAILABLE,
    ScopeChanged: code_pb2.UNAVAILABLE,
    ServiceStopping: code_pb2.UNAVAILABLE,
    RequestLate: code_pb2.DEADLINE_EXCEEDED,
    HandlerTimeout: code_pb2.DEADLINE_EXCEEDED,
    AuditDamaged: code_pb2.DATA_LOSS,
    NoSource: code_pb2.UNIMPLEMENTED,
}

#: Keep all that a status sends under 4 KiB however long the sender's texts are: larger trailers break the call at many
#: clients. A text travels three times: percent-encoded, and twice in details, in Base64.
MAX_TEXT_CHARACTERS = 300
MAX_TEXT_BYTES = 480


def is_retryable(error: EmitdError) -> bool:
    """Return whether a retry can help."""
    return error.retry_after_seconds is not None


def status_of(error: EmitdError, prefix: str = "") -> status_pb2.Status:
    """Return the status for an error, with BadRequest and RetryInfo if they apply.

    `prefix` is the path of the record in the request: `record` or `records[3]`.
    """
    parts = (prefix, error.field) if isinstance(error, HandlerError) else (error.field,)
    field = _clip(".".join(part for part in parts if part))
    message = f"{field}: {error.problem}" if field and error.problem else str(error)
    status = status_pb2.Status(code=code_of(error), message=_clip(message))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.field or error.problem:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=field, description=_clip(error.problem or str(error))
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return status


def code_of(error: EmitdError) -> "code_pb2.Code":
    """Return the gRPC code of an error."""
    for base in type(error).__mro__:
        if base in CODES:
            return CODES[base]
    return code_pb2.INTERNAL


def _clip(text: str) -> str:
    if len(text) <= MAX_TEXT_CHARACTERS and len(text.encode(errors="replace")) <= MAX_TEXT_BYTES:
        return text
    cut = text[: MAX_TEXT_CHARACTERS - 1].encode(errors="replace")[: MAX_TEXT_BYTES - 3]
    return cut.decode(errors="ignore") + "…"
