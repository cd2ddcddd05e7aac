"""What a reply or a failure means for each record of a call, and for a question: all that is known of status codes.

    read_response, read_failure  ─>  Reply: which records are resolved, which are worth another try and when

Pure. `emitd/v1/log_service.proto` explains the codes. Details of google.rpc that do not parse count as none.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from emitd.errors import EmitError, JobNotFound, RecordRejected, RequestRejected, Unavailable
from emitd.v1 import log_service_pb2

#: What to do after a call that failed. `retry`: the status says nothing about what was sent; the same call may succeed
#: later, and may have been carried out. `divide`: one of its records may be to blame; in halves the others get through.
#: `keep`: the sender is not known, or lacks a right. A token may be renewed and a right granted, so records are tried
#: again, all of a call or one of a batch; a question is given up. A status that is not here: give up. Any status with
#: RetryInfo: `retry`.
AFTER_FAILURE: Mapping[grpc.StatusCode, Literal["retry", "divide", "keep"]] = {
    grpc.StatusCode.UNAVAILABLE: "retry",
    grpc.StatusCode.DEADLINE_EXCEEDED: "retry",
    grpc.StatusCode.CANCELLED: "retry",
    grpc.StatusCode.ABORTED: "retry",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "divide",
    grpc.StatusCode.INVALID_ARGUMENT: "divide",
    grpc.StatusCode.INTERNAL: "divide",
    grpc.StatusCode.UNKNOWN: "divide",
    grpc.StatusCode.UNAUTHENTICATED: "keep",
    grpc.StatusCode.PERMISSION_DENIED: "keep",
}
_KEPT = frozenset(code.value[0] for code, what in AFTER_FAILURE.items() if what == "keep")
#: How grpc begins what it says of a call for which it had no connection: nothing was sent. If grpc changes these words,
#: more records count as perhaps arrived than did.
UNSENT = ("connections to all", "failed to connect to all", "errors resolving ", "DNS resolution failed")
#: What grpc says of a call that ended on this side, whether it waited for a connection or for its answer.
_ENDED_HERE = ("Deadline Exceeded", "Channel closed!")
#: What grpc says of a stream whose connection has reached its age.
_AGED = "max connection age"
#: The server says no more of an error than its code after the first hundred of a batch.
_CODE_NAMES = defaultdict(lambda: "UNKNOWN", {code.value[0]: code.name for code in grpc.StatusCode})
STATUS_DETAILS = "grpc-status-details-bin"
_RETRY_INFO = status_pb2.Status()
_RETRY_INFO.details.add().Pack(error_details_pb2.RetryInfo())
#: Trailers by which a call is worth another try at once: RetryInfo without a delay.
RETRY_NOW = ((STATUS_DETAILS, _RETRY_INFO.SerializeToString()),)


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a call's records, by their places in it. Those that stand nowhere were accepted."""

    #: Worth another try: why, and the least pause before it, in seconds.
    again: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    #: Those of `again` that stand in the way of no other record: their sender lacks a right for each.
    denied: Set[int] = frozenset()
    #: Why records are not taken until people put it right, such as a missing right or a bad certificate; or empty.
    cause: str = ""
    #: Refused for good, and why.
    rejected: Mapping[int, EmitError] = field(default_factory=dict)
    receipts: Sequence[log_service_pb2.Receipt] = ()
    #: The server that answered; 0: none did.
    server_id: int = 0
    #: The connection broke: whether the call was carried out is not known, and the server may be gone.
    is_broken: bool = False
    #: The records are worth another try, but the service may have them: twice, then, if it has lost its memory since.
    may_have_arrived: bool = False
    #: Refused as a whole for what may be the fault of one record: worth another try in halves.
    divide: EmitError | None = None
    #: Refused whatever is in it, such as for an unknown service: the rejected records are not at fault.
    is_call_refused: bool = False


def read_response(response: log_service_pb2.EmitBatchResponse) -> Reply:
    """Return what a response says of each record."""
    if not response.errors:
        return Reply(receipts=response.receipts, server_id=response.server_id)
    again: dict[int, tuple[str, float]] = {}
    rejected: dict[int, EmitError] = {}
    denied: set[int] = set()
    for error in response.errors:
        status = error.status
        is_kept = status.code in _KEPT
        if error.retryable or is_kept:
            why = status.message or _CODE_NAMES[status.code]
            if is_kept:
                why = f"{_CODE_NAMES[status.code]}: {status.message}"
                denied.add(error.index)
            again[error.index] = why, retry_delay(status.details) or 0.0
        else:
            place = f"records[{error.index}]"
            rejected[error.index] = RecordRejected(
                status.message.removeprefix(place).lstrip(".: ") or _CODE_NAMES[status.code],
                field=bad_field(status.details).removeprefix(f"{place}."),
            )
    return Reply(
        again=again,
        denied=denied,
        cause=again[min(denied)][0] if denied else "",
        rejected=rejected,
        receipts=response.receipts,
        server_id=response.server_id,
    )


def read_failure(error: grpc.RpcError, count: int, *, was_connected: bool = True) -> Reply:
    """Return what the failure of a whole call means for its `count` records, by a channel that `was_connected`."""
    code, details = error.code(), details_of(error)
    delay = retry_delay(details)
    is_kept = AFTER_FAILURE.get(code) == "keep"
    if is_kept or is_retryable(error):
        why, unsent = describe(error), UNSENT if was_connected else UNSENT + _ENDED_HERE
        is_unsent = is_kept or delay is not None or (error.details() or "").startswith(unsent)
        return Reply(
            again=dict.fromkeys(range(count), (why, delay or 0.0)),
            cause=why if is_kept and delay is None else getattr(error, "cause", ""),
            is_broken=is_unanswered(error),
            may_have_arrived=not is_unsent,
        )
    refused = RecordRejected(describe(error), field=bad_field(details))
    if AFTER_FAILURE.get(code) == "divide":
        return Reply(divide=refused)
    return Reply(rejected=dict.fromkeys(range(count), refused), is_call_refused=True)


def is_retryable(error: grpc.RpcError) -> bool:
    """Return whether the same request may succeed later."""
    return AFTER_FAILURE.get(error.code()) == "retry" or retry_delay(details_of(error)) is not None


def goes_on(error: grpc.RpcError) -> bool:
    """Return whether a stream that ended goes on at once: its connection was old, or there is a new token."""
    is_renewed = error.code() is grpc.StatusCode.UNAUTHENTICATED and is_retryable(error)
    return is_renewed or error.details() == _AGED


def is_unanswered(error: grpc.RpcError) -> bool:
    """Return whether no service has answered: there was no connection, or it broke."""
    # A service that is unavailable says when to come back.
    return error.code() is grpc.StatusCode.UNAVAILABLE and retry_delay(details_of(error)) is None


def request_error(error: grpc.RpcError, not_found: type[EmitError] = JobNotFound) -> EmitError:
    """Return the client's error for the failure of a call that asks something; `not_found`: for NOT_FOUND."""
    if is_retryable(error):
        return Unavailable(describe(error))
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return not_found(error.details() or "")
    return RequestRejected(describe(error), field=bad_field(details_of(error)))


def describe(error: grpc.RpcError) -> str:
    """Return a call's failure in one line."""
    return f"{error.code().name}: {getattr(error, 'cause', '') or error.details()}"


def details_of(error: grpc.RpcError) -> Sequence[Any]:
    """Return the packed details of a call's failure."""
    trailers: Any = error.trailing_metadata() or ()  # pairs; only those of grpc.aio have no names
    for key, value in trailers:
        if key == STATUS_DETAILS:
            with suppress(DecodeError):
                details: Sequence[Any] = status_pb2.Status.FromString(value).details
                return details
    return ()


def retry_delay(details: Sequence[Any]) -> float | None:
    """Return the seconds after which another try can help, by RetryInfo; None: there is no RetryInfo."""
    info = _unpacked(details, error_details_pb2.RetryInfo)
    return None if info is None else float(info.retry_delay.ToNanoseconds() / 1e9)


def bad_field(details: Sequence[Any]) -> str:
    """Return the path of the field at fault, by BadRequest; or ""."""
    bad = _unpacked(details, error_details_pb2.BadRequest)
    return str(bad.field_violations[0].field) if bad is not None and bad.field_violations else ""


def _unpacked(details: Sequence[Any], kind: Callable[[], Any]) -> Any:
    """Return the first readable detail of a kind, or None."""
    for packed in details:
        message = kind()
        with suppress(DecodeError):
            if packed.Unpack(message):
                return message
    return None
