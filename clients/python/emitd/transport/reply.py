"""What a reply, or its failure, means for each record of a call: one place for the contract's status codes.

    read_response, read_failure  ─>  Reply: which records are resolved, which are worth another try and when

Pure; see `emitd/v1/log_service.proto` for the codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from emitd.errors import EmitError, JobNotFound, RecordRejected, RequestRejected, Unavailable
from emitd.transport.error_details import bad_field, details_of, retry_delay
from emitd.v1 import log_service_pb2

__all__ = ["Reply", "is_retryable", "read_failure", "read_response", "request_error"]

#: Statuses that say nothing about what was sent: the same call may succeed later, and may have been carried out.
_BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
#: What grpc says of a call for which it had no connection: nothing was sent. Where it puts this otherwise one day, more
#: counts as perhaps arrived than is true.
_UNSENT = ("connections to all backends failing", "failed to connect to all addresses")
#: Statuses of a call that one of its records may be to blame for: sent in halves, the others get through.
_DIVISIBLE = frozenset(
    {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a call's records, by their places in it. Those named nowhere were accepted."""

    #: Worth another try: why, and the least seconds to wait before it.
    again: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    #: Refused for good, and why.
    rejected: Mapping[int, EmitError] = field(default_factory=dict)
    receipts: Sequence[log_service_pb2.Receipt] = ()
    #: Who answered; 0: nobody.
    server_id: int = 0
    #: The connection broke: whether the call was carried out is not known, and the server may be gone.
    is_broken: bool = False
    #: Its records are worth another try, and may be with the service all the same: twice, then, if its memory is gone.
    may_have_arrived: bool = False
    #: Refused as a whole, for what may be the fault of one: worth another try in halves.
    divide: EmitError | None = None
    #: Refused as a whole, whatever is in it, such as for who sends: no fault of the records that were rejected.
    is_call_refused: bool = False


def read_response(response: log_service_pb2.EmitBatchResponse) -> Reply:
    """Return what a response says of each record."""
    if not response.errors:
        return Reply(receipts=response.receipts, server_id=response.server_id)
    again: dict[int, tuple[str, float]] = {}
    rejected: dict[int, EmitError] = {}
    for error in response.errors:
        if error.retryable:
            again[error.index] = error.status.message, retry_delay(error.status.details) or 0.0
        else:
            place = f"records[{error.index}]"
            rejected[error.index] = RecordRejected(
                error.status.message.removeprefix(place).lstrip(".: "),
                field=bad_field(error.status.details).removeprefix(f"{place}."),
            )
    return Reply(again=again, rejected=rejected, receipts=response.receipts, server_id=response.server_id)


def read_failure(error: grpc.RpcError, count: int) -> Reply:
    """Return what the failure of a whole call means for its `count` records."""
    code, details = error.code(), details_of(error)
    delay = retry_delay(details)
    if code in _BROKEN or delay is not None:
        why = describe(error)
        return Reply(
            again=dict.fromkeys(range(count), (why, delay or 0.0)),
            is_broken=code is grpc.StatusCode.UNAVAILABLE and delay is None,
            may_have_arrived=delay is None and not any([text in why for text in _UNSENT]),
        )
    refused = RecordRejected(describe(error), field=bad_field(details))
    if code in _DIVISIBLE:
        return Reply(divide=refused)
    return Reply(rejected=dict.fromkeys(range(count), refused), is_call_refused=True)


def is_retryable(error: grpc.RpcError) -> bool:
    """Return whether the same request may succeed later."""
    return error.code() in _BROKEN or retry_delay(details_of(error)) is not None


def request_error(error: grpc.RpcError, not_found: type[EmitError] = JobNotFound) -> EmitError:
    """Return the client's error for the failure of a call that asks something; `not_found`: for NOT_FOUND."""
    if is_retryable(error):
        return Unavailable(describe(error))
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return not_found(error.details() or "")
    return RequestRejected(describe(error), field=bad_field(details_of(error)))


def describe(error: grpc.RpcError) -> str:
    """Return a call's failure in one line."""
    return f"{error.code().name}: {error.details()}"
