"""`Transport`: the channel of one process, and its blocking calls, each within the gate.

The channel is made for the first call, and again after `interrupt`. Requests to emit are put together from the bytes of
their records, so that a record is serialised once, however often it is sent.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc._channel  # now, not for the first call: a fork in the midst of an import leaves it undone in the child
from grpc.experimental import ChannelOptions

from emitd.runtime import process_hooks
from emitd.runtime.grpc_fork_guard import GrpcForkGuard
from emitd.settings import ClientSettings
from emitd.transport.channel import CallFailed, NoChannel, make_channel
from emitd.transport.reply import Reply, load_details, read_failure, read_response
from emitd.v1 import log_service_pb2

__all__ = ["Transport", "multi_callable"]

SERVICE = "/emitd.v1.LogService/"
#: The tag of `EmitBatchRequest.records`, and `want_receipts` set.
_RECORDS_TAG = b"\x0a"
_WANT_RECEIPTS = b"\x10\x01"

#: Streams are read by the threads that want them, and by no thread of grpc's own, which no fork could wait for.
_READ_BY_THEIR_READERS = (ChannelOptions.SingleThreadedUnaryStream, 1)

#: See `_keep_grpc_running`.
_kept: list[grpc.Channel] = []

Response = TypeVar("Response")
EmitBatch: TypeAlias = Callable[..., log_service_pb2.EmitBatchResponse]


class Transport:
    """For any thread. The stubs of grpc come in here and nowhere else.

    Within the gate each call is made, and freed too: that a thread is inside grpc for an instant is enough to harm a
    child that is forked in it.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.fork_guard = GrpcForkGuard()
        # Reentrant: a signal handler may close the client in the thread that it interrupts.
        self._lock = threading.RLock()
        #: The channel, and what makes the call that is made most.
        self._opened: tuple[grpc.Channel, EmitBatch] | None = None
        #: One for each stream. They share their connection; but a stream that is cancelled by itself, not with its
        #: channel, leaves something in that for ever, for which a child waits under GRPC_ENABLE_FORK_SUPPORT=1.
        self._stream_channels: set[grpc.Channel] = set()

    def prepare(self) -> None:
        """Make the channel now: when the interpreter is being torn down, nothing can be imported for it any more."""
        with self.fork_guard, suppress(NoChannel):
            self._open()

    def emit(self, records: Sequence[bytes], timeout: float, *, want_receipts: bool) -> Reply:
        """Send records, each a serialised LogRecord, in one call. Never raises."""
        request = batch_request(records, want_receipts=want_receipts)
        with self.fork_guard:
            try:
                emit_batch = (self._opened or self._open())[1]
                with _channel_closed_under_us():
                    return read_response(emit_batch(request, timeout=timeout))
            except grpc.RpcError as error:
                return read_failure(error, len(records))

    def call(self, method: str, request: Any, response: type[Response], timeout: float) -> Response:
        """Ask something. Raises grpc.RpcError."""
        with self.fork_guard:
            answer = self._ask(method, request, response, timeout)
        if isinstance(answer, CallFailed):
            raise answer
        return answer

    def stream(self, method: str, request: Any, response: type[Response]) -> Iterator[Response]:
        """Yield the messages of a stream. Raises grpc.RpcError: CANCELLED after `interrupt` and `cancel_streams`."""
        with self.fork_guard:
            channel = self._make_channel()
            self._stream_channels.add(channel)
        messages: Iterator[Response] = iter(())
        try:
            with self.fork_guard, _channel_closed_under_us():
                messages = multi_callable(channel.unary_stream, method, request, response)(request)
            while (message := self._next(messages)) is not None:
                if isinstance(message, CallFailed):
                    raise message
                yield message
        finally:
            with self.fork_guard:
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
            return CallFailed.copy_of(error)

    def _next(self, messages: Iterator[Response]) -> "Response | CallFailed | None":
        with self.fork_guard:
            try:
                with _channel_closed_under_us():
                    return next(messages, None)
            except grpc.RpcError as error:  # it is the call, and its frames have it too
                return CallFailed.copy_of(error.with_traceback(None))

    def cancel_streams(self) -> None:
        """End the streams that are open; who reads them gets CANCELLED."""
        for channel in list(self._stream_channels):
            channel.close()

    def interrupt(self) -> None:
        """End all calls under way. The next one has a new channel."""
        self.cancel_streams()
        with self._lock:
            opened, self._opened = self._opened, None
        with self.fork_guard:
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
        return make_channel(self._settings.address, _READ_BY_THEIR_READERS)


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


os.register_at_fork(after_in_child=lambda: process_hooks.keep_for_ever(_kept))
