"""`Transport`: the channel of one process and its blocking calls, each within the fork guard.

The channel is made for the first call, and again after `interrupt`. A request to emit is joined from the bytes of its
records, so that a record is serialised once, however often it is sent.
"""

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import grpc
import grpc._channel  # now, not with the first call: a fork during an import leaves it undone in the child
from grpc.experimental import ChannelOptions

from emitd.credentials import Certificates, Credentials, Metadata
from emitd.errors import RecordRejected
from emitd.runtime import process_hooks
from emitd.runtime.fork_guards import GrpcForkGuard
from emitd.transport.channel import CallFailed, NoChannel, make_channel, may_have_moved
from emitd.transport.reply import Reply, read_failure, read_response
from emitd.v1 import log_service_pb2

#: The service of a method that names none.
SERVICE = "/emitd.v1.LogService/"
#: The tag of `EmitBatchRequest.records`, and `want_receipts` set.
_RECORDS_TAG = b"\x0a"
_WANT_RECEIPTS = b"\x10\x01"
#: What a service takes in one request, unless it is configured otherwise.
MAX_REQUEST_BYTES = 4 * 1024 * 1024

#: A stream is read by the thread that wants it, and not by a thread of grpc, which no fork could wait for.
_READ_BY_THEIR_READERS = (ChannelOptions.SingleThreadedUnaryStream, 1)

#: One channel, never connected, until the end of the process. When its last channel is closed, grpc ends its threads,
#: and a fork at that moment can hang: under stress 1 in 300 did.
_kept: list[grpc.Channel] = []

Response = TypeVar("Response")


class Transport:
    """For any thread.

    Each call is made and freed within the guard: a thread that is inside grpc for an instant can harm a child that is
    forked in that instant.
    """

    def __init__(self, credentials: Credentials) -> None:
        _adapt_to_gevent()
        self._credentials = credentials
        self.fork_guard = GrpcForkGuard()
        # Reentrant: a signal handler may close the client in the thread that it interrupts.
        self._lock = threading.RLock()
        self._channel: grpc.Channel | None = None
        #: What it was made with.
        self._certificates: Certificates | None = None
        self._was_connected = False
        #: On which calls may be under way, but no new one is made.
        self._left: weakref.WeakSet[grpc.Channel] = weakref.WeakSet()
        #: One for each stream; without TLS they share a connection. A stream that is cancelled without its channel
        #: leaves something in the channel for ever, and under GRPC_ENABLE_FORK_SUPPORT=1 a child waits for that.
        self._stream_channels: set[grpc.Channel] = set()

    def prepare(self) -> None:
        """Make the channel now, because an interpreter that is ending can import nothing for it."""
        with self.fork_guard, suppress(NoChannel):
            self._open()

    def emit(self, records: Sequence[bytes], timeout: float, *, want_receipts: bool) -> Reply:
        """Send records, each a serialised LogRecord, in one call. Never raises grpc.RpcError.

        Records that are too large for one request are not sent: the reply says that they should be divided.
        """
        request = batch_request(records, want_receipts=want_receipts)
        if len(request) > MAX_REQUEST_BYTES and len(records) > 1:
            too_large = f"the batch has {len(request)} bytes, more than {MAX_REQUEST_BYTES}"
            return Reply(divide=RecordRejected(too_large))
        with self.fork_guard:
            was_connected = self._is_connected()
            answer = self._ask("EmitBatch", request, log_service_pb2.EmitBatchResponse, timeout)
            # Before or after: a call that is under way while its server stops outlives the channel's connection.
            was_connected |= self._is_connected()
        if isinstance(answer, CallFailed):
            return read_failure(answer, len(records), was_connected=was_connected)
        return read_response(answer)

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
        metadata = self._credentials.metadata()
        try:
            with self.fork_guard, _channel_closed_under_us():
                messages = multi_callable(channel.unary_stream, method, request, response)(
                    request, metadata=metadata
                )
            while (message := self._next(messages, metadata)) is not None:
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
        channel, metadata = None, self._credentials.metadata()
        try:
            channel = self._open()
            ask = multi_callable(channel.unary_unary, method, request, response)
            with _channel_closed_under_us():
                return ask(request, timeout=timeout, metadata=metadata)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            failed = CallFailed.copy_of(error, self._credentials, metadata)
            with self._lock:
                if channel and channel is self._channel and may_have_moved(self._credentials.address, failed):
                    self._left.add(channel)
                    self._channel = None
            return failed

    def _next(
        self, messages: Iterator[Response], metadata: Metadata | None
    ) -> "Response | CallFailed | None":
        with self.fork_guard:
            try:
                with _channel_closed_under_us():
                    return next(messages, None)
            except grpc.RpcError as error:  # it is the call itself, and its frames hold it too
                return CallFailed.copy_of(error.with_traceback(None), self._credentials, metadata)

    def cancel_streams(self) -> None:
        """End the streams that are open. Their readers get CANCELLED."""
        for channel in list(self._stream_channels):
            channel.close()

    def interrupt(self) -> None:
        """End all calls under way. The next one has a new channel."""
        self.cancel_streams()
        with self.fork_guard:
            self._is_connected()  # remembered for the calls that this ends
            with self._lock:
                channels, self._channel = [self._channel, *self._left], None
            while channels:
                if (channel := channels.pop()) is not None:
                    channel.close()
                del channel

    def _is_connected(self) -> bool:
        """Return whether the channel has a connection; if there is no channel, whether the last one had.

        This asks grpc's core: the public `subscribe` has a thread for it, which no fork could wait for.
        """
        with suppress(AttributeError, ValueError):  # there is no channel, or it is closed
            state = self._channel._channel.check_connectivity_state(False)  # type: ignore[union-attr]
            self._was_connected = state == grpc.ChannelConnectivity.READY.value[0]
        return self._was_connected

    def _open(self) -> grpc.Channel:
        """Return the channel: another one if there are new certificates. Raises NoChannel."""
        certificates = self._credentials.certificates()
        with self._lock:
            if self._channel is not None and certificates is not self._certificates:
                self._left.add(self._channel)
                self._channel = None
            if self._channel is None:
                self._channel = self._make_channel()
                self._certificates = certificates
            return self._channel

    def _make_channel(self) -> grpc.Channel:
        channel = make_channel(self._credentials, _READ_BY_THEIR_READERS)
        if not _kept:
            _kept.append(grpc.insecure_channel("127.0.0.1:1"))
        return channel


@cache
def _adapt_to_gevent() -> None:
    """Have grpc wait as gevent does, if gevent has patched threads: else a call stops all greenlets until it ends."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        from grpc.experimental import gevent  # type: ignore[attr-defined]

        gevent.init_gevent()


def multi_callable(kind: Callable[..., Any], method: str, request: Any, response: type[Any]) -> Any:
    """Return what makes calls of a method; `kind` is `unary_unary` or `unary_stream` of a channel.

    A request is a message, or bytes.
    """
    return kind(
        f"/emitd.v1.{method}" if "/" in method else SERVICE + method,
        request_serializer=None if isinstance(request, bytes) else type(request).SerializeToString,
        response_deserializer=response.FromString,
    )


@contextmanager
def _channel_closed_under_us() -> Iterator[None]:
    """Raise NoChannel instead of grpc's error for a channel that another thread has closed."""
    try:
        yield
    except ValueError as error:
        raise NoChannel(str(error)) from None


def batch_request(records: Iterable[bytes], *, want_receipts: bool) -> bytes:
    """Return the serialised EmitBatchRequest of serialised records."""
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
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


os.register_at_fork(after_in_child=lambda: process_hooks.keep_for_ever(_kept))
