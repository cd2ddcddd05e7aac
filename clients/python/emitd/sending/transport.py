"""`Transport`: the channel of one process, and its blocking calls, each within the gate.

The channel is made for the first call, and again after `interrupt`. Requests to emit are put together from the bytes of
their records, so that a record is serialised once, however often it is sent.
"""

import ipaddress
import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc._channel  # now, not for the first call: a fork in the midst of an import leaves it undone in the child
from grpc.experimental import ChannelOptions

from emitd.client_settings import ClientSettings
from emitd.sending import process_hooks
from emitd.sending.gate import CallGate
from emitd.sending.reply import Reply, load_details, read_failure, read_response
from emitd.v1 import log_service_pb2

__all__ = ["CallFailed", "NoChannel", "Transport", "channel_options", "channel_target", "multi_callable"]

SERVICE = "/emitd.v1.LogService/"
MAX_RECEIVE_BYTES = 64 * 1024 * 1024
#: grpc's own pauses between attempts to connect would grow to two minutes.
MIN_RECONNECT_MILLISECONDS = 100
MAX_RECONNECT_MILLISECONDS = 1_000
#: How long a server may take to greet, in spite of the option's name: one that is busy, or far away.
CONNECT_MILLISECONDS = 5_000
#: A connection on which nothing comes back for so long is dead.
KEEPALIVE_MILLISECONDS = 30_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 10_000
#: The tag of `EmitBatchRequest.records`, and `want_receipts` set.
_RECORDS_TAG = b"\x0a"
_WANT_RECEIPTS = b"\x10\x01"

#: Streams are read by the threads that want them, and by no thread of grpc's own, which no fork could wait for.
_READ_BY_THEIR_READERS = (ChannelOptions.SingleThreadedUnaryStream, 1)

#: See `_keep_grpc_running`.
_kept: list[grpc.Channel] = []

Response = TypeVar("Response")
EmitBatch: TypeAlias = Callable[..., log_service_pb2.EmitBatchResponse]


class CallFailed(grpc.RpcError):
    """What is known of a call that failed, without the call: grpc's own error has it, and frees it with itself."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(str(error))
        self._code, self._details, self._trailers = error.code(), error.details(), error.trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str | None:
        """Return the status's text."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return the trailers."""
        return self._trailers


class NoChannel(grpc.RpcError):
    """A call was not begun, for it had no channel: a name is not known just now, or another thread interrupted it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        # In grpc's own words for a call of which nothing was sent.
        self._details = f"failed to connect to all addresses: {why}"

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE: another try can help."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return why."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return nothing: nobody answered."""
        return ()


class Transport:
    """For any thread. The stubs of grpc come in here and nowhere else.

    Within the gate each call is made, and freed too: that a thread is inside grpc for an instant is enough to harm a
    child that is forked in it.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.gate = CallGate()
        # Reentrant: a signal handler may close the client in the thread that it interrupts.
        self._lock = threading.RLock()
        #: The channel, and what makes the call that is made most.
        self._opened: tuple[grpc.Channel, EmitBatch] | None = None
        #: One for each stream. They share their connection; but a stream that is cancelled by itself, not with its
        #: channel, leaves something in that for ever, for which a child waits under GRPC_ENABLE_FORK_SUPPORT=1.
        self._stream_channels: set[grpc.Channel] = set()

    def prepare(self) -> None:
        """Make the channel now: when the interpreter is being torn down, nothing can be imported for it any more."""
        with self.gate, suppress(NoChannel):
            self._open()

    def emit(self, records: Sequence[bytes], timeout: float, *, want_receipts: bool) -> Reply:
        """Send records, each a serialised LogRecord, in one call. Never raises."""
        request = batch_request(records, want_receipts=want_receipts)
        with self.gate:
            try:
                emit_batch = (self._opened or self._open())[1]
                with _channel_closed_under_us():
                    return read_response(emit_batch(request, timeout=timeout))
            except grpc.RpcError as error:
                return read_failure(error, len(records))

    def call(self, method: str, request: Any, response: type[Response], timeout: float) -> Response:
        """Ask something. Raises grpc.RpcError."""
        with self.gate:
            answer = self._ask(method, request, response, timeout)
        if isinstance(answer, CallFailed):
            raise answer
        return answer

    def stream(self, method: str, request: Any, response: type[Response]) -> Iterator[Response]:
        """Yield the messages of a stream. Raises grpc.RpcError: CANCELLED after `interrupt` and `cancel_streams`."""
        with self.gate:
            channel = self._make_channel()
            self._stream_channels.add(channel)
        messages: Iterator[Response] = iter(())
        try:
            with self.gate, _channel_closed_under_us():
                messages = multi_callable(channel.unary_stream, method, request, response)(request)
            while (message := self._next(messages)) is not None:
                if isinstance(message, CallFailed):
                    raise message
                yield message
        finally:
            with self.gate:
                self._stream_channels.discard(channel)
                channel.close()
                del channel, messages

    def _ask(
        self, method: str, request: Any, response: type[Response], timeout: float
    ) -> "Response | CallFailed":
        try:
            ask = multi_callable(self._open()[0].unary_unary, method, request, response)
            with _channel_closed_under_us():
                return ask(request, timeout=timeout)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            return CallFailed(error)

    def _next(self, messages: Iterator[Response]) -> "Response | CallFailed | None":
        with self.gate:
            try:
                with _channel_closed_under_us():
                    return next(messages, None)
            except grpc.RpcError as error:  # it is the call, and its frames have it too
                return CallFailed(error.with_traceback(None))

    def cancel_streams(self) -> None:
        """End the streams that are open; who reads them gets CANCELLED."""
        for channel in list(self._stream_channels):
            channel.close()

    def interrupt(self) -> None:
        """End all calls under way. The next one has a new channel."""
        self.cancel_streams()
        with self._lock:
            opened, self._opened = self._opened, None
        with self.gate:
            if opened is not None:
                opened[0].close()
            del opened

    def _open(self) -> tuple[grpc.Channel, EmitBatch]:
        """Return the channel. Raises NoChannel."""
        with self._lock:
            if self._opened is None:
                load_details()
                channel = self._make_channel()
                emit_batch: EmitBatch = channel.unary_unary(
                    SERVICE + "EmitBatch",
                    request_serializer=None,
                    response_deserializer=log_service_pb2.EmitBatchResponse.FromString,
                )
                self._opened = channel, emit_batch
            return self._opened

    def _make_channel(self) -> grpc.Channel:
        _keep_grpc_running()
        options = [*channel_options(), _READ_BY_THEIR_READERS]
        return grpc.insecure_channel(channel_target(self._settings.address), options)


def _keep_grpc_running() -> None:
    """Have one channel, never connected, until the end of the process.

    With the last one grpc ends its threads, and a fork at that moment can hang: under stress one in 300 did.
    """
    if not _kept:
        _kept.append(grpc.insecure_channel("127.0.0.1:1"))


def multi_callable(kind: Callable[..., Any], method: str, request: Any, response: type[Any]) -> Any:
    """Return what makes calls of a method, as `kind` of a channel does."""
    return kind(
        SERVICE + method,
        request_serializer=type(request).SerializeToString,
        response_deserializer=response.FromString,
    )


@contextmanager
def _channel_closed_under_us() -> Iterator[None]:
    """Raise NoChannel for what grpc says of a closed channel, to a thread that another has interrupted."""
    try:
        yield
    except ValueError as error:
        raise NoChannel(str(error)) from None


def batch_request(records: Iterable[bytes], *, want_receipts: bool) -> bytes:
    """Return the EmitBatchRequest with these records, which are serialised already."""
    parts: list[bytes] = []
    for record in records:
        parts += (_RECORDS_TAG, _varint(len(record)), record)
    if want_receipts:
        parts.append(_WANT_RECEIPTS)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """Return protobuf's form of a length."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


def channel_options() -> Sequence[tuple[str, Any]]:
    """Return the options of every channel to a server."""
    balanced: Mapping[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    return [
        ("grpc.service_config", json.dumps(balanced)),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", MIN_RECONNECT_MILLISECONDS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_MILLISECONDS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MILLISECONDS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ]


def channel_target(address: str) -> str:
    """Return grpc's target for one HOST:PORT, a URI such as `dns:///emitd:50051`, or several HOST:PORT with commas.

    It is of one of these forms, as ClientSettings are. Names among several are looked up once; raises NoChannel for one
    that is not known.
    """
    parts = [part.strip() for part in address.split(",") if part.strip()]
    if len(parts) == 1:
        return parts[0]
    found = list(dict.fromkeys(endpoint for part in parts for endpoint in _look_up(part)))
    families = {"ipv6" if endpoint.startswith("[") else "ipv4" for endpoint in found}
    if len(families) > 1:  # grpc takes one kind; an IPv4 address has a form among those of IPv6
        found = [_as_ipv6(endpoint) for endpoint in found]
        families = {"ipv6"}
    return f"{families.pop()}:{','.join(found)}"


def _look_up(endpoint: str) -> Iterator[str]:
    host, _, port = endpoint.rpartition(":")
    with suppress(ValueError):
        ip = ipaddress.ip_address(host.strip("[]"))
        yield f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
        return
    try:
        answers = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise NoChannel(f"address: '{host}' is not known: {error}") from None
    for *_, found in answers:
        yield f"{found[0]!s}:{port}"


def _as_ipv6(endpoint: str) -> str:
    host, _, port = endpoint.rpartition(":")
    return endpoint if endpoint.startswith("[") else f"[::ffff:{host}]:{port}"


os.register_at_fork(after_in_child=lambda: process_hooks.keep_for_ever(_kept))
