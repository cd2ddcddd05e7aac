"""Shared by the servicers: request bytes in, reply bytes out, errors as google.rpc status.

Requests are parsed here, so that one that does not parse is INVALID_ARGUMENT (grpc would say UNKNOWN), and so that
its size is known before it is parsed.
"""

import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, status_pb2

from emitd_handlers.diagnostics import Report
from emitd_handlers.errors import EmitdError
from emitd_server.errors import RequestInvalid
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.rpc.status import status_of

M = TypeVar("M", bound=Message)
#: In quotes, because grpc's classes take parameters only in their stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Unary: TypeAlias = Callable[[bytes], Awaitable[bytes]]
Stream: TypeAlias = Callable[[bytes], AsyncGenerator[bytes, None]]


class Rpcs:
    """Makes grpc's method handlers from methods that take a request's bytes and return or yield a reply's bytes."""

    def __init__(
        self, service_name: str, max_request_bytes: int, report: Report, streams: OpenStreams
    ) -> None:
        self._streams = streams
        self._service_name = service_name
        self._max_request_bytes = max_request_bytes
        self._report = report

    def parse(self, message_type: type[M], data: bytes) -> M:
        """Return the message of a request. Raises RequestInvalid."""
        if len(data) > self._max_request_bytes:
            limit = self._max_request_bytes
            raise RequestInvalid("", f"the request has {len(data)} bytes, more than {limit}")
        try:
            return message_type.FromString(data)
        except DecodeError:
            problem = f"the request does not parse as {message_type.DESCRIPTOR.full_name}"
            raise RequestInvalid("", f"{problem}; every string must be UTF-8") from None

    def unary(self, method: Unary, prefix: str = "") -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Serve a method that returns one reply; `prefix` is the path of the record in its errors."""

        async def answer(data: bytes, context: Context) -> bytes:
            try:
                return await method(data)
            except EmitdError as error:
                await _abort(context, status_of(error, prefix))
            except Exception:
                await self._abort_internal(context)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(answer)

    def stream(self, method: Stream) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Serve a method that yields replies."""

        async def answer(data: bytes, context: Context) -> None:
            try:
                async with aclosing(method(data)) as messages:
                    async for message in messages:
                        await self._streams.send(context, message, len(message))
            except EmitdError as error:
                await _abort(context, status_of(error))
            except Exception:
                await self._abort_internal(context)

        return grpc.unary_stream_rpc_method_handler(answer)

    def page(self, method: Unary) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Serve a method whose one reply may be large, as a stream of one message: callers see no difference."""

        async def messages(data: bytes) -> AsyncGenerator[bytes, None]:
            yield await method(data)

        return self.stream(messages)

    async def _abort_internal(self, context: Context) -> None:
        """Report an unexpected exception with its traceback, and tell the caller only INTERNAL."""
        self._report(f"internal error in {self._service_name}: {traceback.format_exc()}")
        await _abort(context, status_pb2.Status(code=code_pb2.INTERNAL, message="internal error"))


async def _abort(context: Context, status: status_pb2.Status) -> None:
    code: Any = GRPC_CODES[status.code]
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, status.message, details)


GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
