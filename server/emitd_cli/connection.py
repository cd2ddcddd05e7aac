"""The connection of a command to its server, and what to say when there is none."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2

from emitd.v1 import LogServiceStub

__all__ = ["CannotReach", "connect", "describe", "is_retryable", "retry_seconds", "say"]

#: Statuses that say nothing about what was sent: the same call may succeed later.
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
DEFAULT_RETRY_SECONDS = 0.5


class CannotReach(Exception):
    """The server does not answer; the message is one line that says what to do."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"cannot reach {address}; is the service running there? (--address, or EMITD_ADDRESS)"
        )


@contextmanager
def connect(address: str) -> Iterator[LogServiceStub]:
    """Give a stub for the server at `address`; calls wait for nothing but their own deadline."""
    options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield LogServiceStub(channel)


def describe(error: grpc.RpcError, address: str) -> str:
    """Return an error of a call in one line."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and _retry_info(error) is None:  # not from our server
        return str(CannotReach(address))
    return f"{error.code().name}: {error.details()}"


def is_retryable(error: grpc.RpcError) -> bool:
    """Return whether the same call may succeed later."""
    return error.code() in _RETRYABLE or _retry_info(error) is not None


def retry_seconds(error: grpc.RpcError) -> float:
    """Return how long to wait before the call is tried again."""
    seconds = _retry_info(error)
    return DEFAULT_RETRY_SECONDS if seconds is None else seconds


def say(text: str) -> None:
    """Write a line to standard error."""
    print(f"emitd: {text}", file=sys.stderr)


def _retry_info(error: grpc.RpcError) -> float | None:
    for datum in error.trailing_metadata() or ():
        if datum.key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(datum.value).details:
                info = error_details_pb2.RetryInfo()
                if packed.Unpack(info):
                    return float(info.retry_delay.ToNanoseconds() / 1e9)
    return None
