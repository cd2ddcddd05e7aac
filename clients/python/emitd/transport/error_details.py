"""What the google.rpc details of a failed call, or of a refused record, say: when to try again, which field is wrong.

Details that do not parse, such as a proxy's own, count as none.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import grpc
from google.protobuf.message import DecodeError

__all__ = ["bad_field", "details_of", "load", "retry_delay"]

_STATUS_DETAILS = "grpc-status-details-bin"


@cache
def load() -> tuple[Any, Any]:
    """Return the modules of the details' messages, which only trouble needs."""
    from google.rpc import error_details_pb2, status_pb2

    return status_pb2, error_details_pb2


def details_of(error: grpc.RpcError) -> Sequence[Any]:
    """Return the details of a call's failure, packed; none where it has none."""
    status_pb2, _ = load()
    trailers: Any = error.trailing_metadata() or ()  # pairs; only those of grpc.aio have no names
    for key, value in trailers:
        if key == _STATUS_DETAILS:
            with suppress(DecodeError):
                details: Sequence[Any] = status_pb2.Status.FromString(value).details
                return details
    return ()


def retry_delay(details: Sequence[Any]) -> float | None:
    """Return the seconds after which another try can help, by RetryInfo; None: it does not say."""
    _, error_details_pb2 = load()
    info = _unpacked(details, error_details_pb2.RetryInfo)
    return None if info is None else float(info.retry_delay.ToNanoseconds() / 1e9)


def bad_field(details: Sequence[Any]) -> str:
    """Return the path of the field at fault, by BadRequest, or an empty text."""
    _, error_details_pb2 = load()
    bad = _unpacked(details, error_details_pb2.BadRequest)
    return str(bad.field_violations[0].field) if bad is not None and bad.field_violations else ""


def _unpacked(details: Sequence[Any], kind: Callable[[], Any]) -> Any:
    """Return the first detail of a kind; None: there is none that can be read."""
    for packed in details:
        message = kind()
        with suppress(DecodeError):
            if packed.Unpack(message):
                return message
    return None
