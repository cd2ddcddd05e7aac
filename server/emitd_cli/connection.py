"""The connection of a command to its server, and what its errors mean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
from google.rpc import status_pb2

from emitd.transport.reply import bad_field, details_of, retry_delay
from emitd.v1 import AuditServiceStub, LogServiceStub
from emitd_cli.errors import CannotTell, Misuse, Refused
from emitd_cli.terminal.output import say

Response = TypeVar("Response")

MAX_RECEIVE_BYTES = 64 * 1024 * 1024
#: grpc's own pauses between attempts to connect grow to two minutes: longer than commands wait.
MAX_RECONNECT_BACKOFF_MS = 1000
#: The pause before another try where the server does not say, and the shortest where it does.
DEFAULT_RETRY_SECONDS = 0.5
#: A call that takes longer than this is told: whoever waits should know for what.
SILENT_SECONDS = 3.0
MIN_RETRY_SECONDS = 0.05

#: Statuses that say nothing about what was sent: the same call may succeed later.
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
#: Statuses by which the server has looked at what was sent, and refuses it.
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


@contextmanager
def connect(address: str) -> Iterator[LogServiceStub]:
    """Give a stub for the server at `address`; calls wait for nothing but their own deadline. Raises Misuse."""
    with _channel(address) as channel:
        yield LogServiceStub(channel)


@contextmanager
def connect_audit(address: str) -> Iterator[AuditServiceStub]:
    """Give a stub of AuditService, as `connect` does of LogService."""
    with _channel(address) as channel:
        yield AuditServiceStub(channel)


@contextmanager
def _channel(address: str) -> Iterator[grpc.Channel]:
    if not address.strip():
        raise Misuse("--address: is empty; give HOST:PORT", field="--address")
    if "://" in address:
        raise Misuse(f"--address: '{address}' is a URL; give HOST:PORT", field="--address")
    options = [
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_BACKOFF_MS),
        # A watch is silent while nothing happens; a server that is gone must not look like that.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def result_of(
    call: "grpc.Future[Response]", address: str, say_waiting: Callable[[str], None] = say
) -> Response:
    """Return a call's response; tell, once, when it does not come at once. Raises grpc.RpcError."""
    try:
        return call.result(timeout=SILENT_SECONDS)
    except grpc.FutureTimeoutError:
        say_waiting(f"no answer from {address} yet; still waiting (Ctrl-C ends it)")
        return call.result()


def refused(error: grpc.RpcError, address: str) -> Refused:
    """Return the error that ends a command for which the server refuses what was sent."""
    return Refused(
        describe(error, address),
        code=error.code().name,
        field=bad_field(details_of(error)),
    )


def cannot_tell(error: grpc.RpcError, address: str, and_so: str = "") -> CannotTell:
    """Return the error that ends a command whose call failed; `and_so` is added to what is said."""
    message = describe(error, address) + and_so
    return CannotTell(message, code=error.code().name, field=bad_field(details_of(error)))


def describe(error: grpc.RpcError, address: str) -> str:
    """Return an error of a call in one line."""
    if (
        error.code() is grpc.StatusCode.UNAVAILABLE and retry_delay(details_of(error)) is None
    ):  # not from our server
        return f"cannot reach {address}; is the service running there? (--address, or EMITD_ADDRESS)"
    return f"{error.code().name}: {error.details()}"


def is_retryable(error: grpc.RpcError) -> bool:
    """Return whether the same call may succeed later."""
    return error.code() in _RETRYABLE or retry_delay(details_of(error)) is not None


def is_refusal(error: grpc.RpcError) -> bool:
    """Return whether the server has refused what was sent, for good."""
    return error.code() in _REFUSALS and not is_retryable(error)


def retry_seconds(error: grpc.RpcError) -> float:
    """Return how long to wait before the call is tried again."""
    return _bounded(retry_delay(details_of(error)))


def retry_delay_seconds(status: status_pb2.Status) -> float:
    """Return how long to wait before a record that was refused with `status` is sent again."""
    return _bounded(retry_delay(status.details))


def _bounded(seconds: float | None) -> float:
    return DEFAULT_RETRY_SECONDS if seconds is None else max(seconds, MIN_RETRY_SECONDS)
