"""The gRPC server: the servicers that it is given, health, reflection, and an orderly end."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import EmitdError
from emitd_server.errors import RequestInvalid, StartError
from emitd_server.memory import MemoryAccount
from emitd_server.rpc.intake import Intake
from emitd_server.rpc.methods import abort
from emitd_server.rpc.open_streams import OpenStreams, StreamLimit
from emitd_server.rpc.status import status_of
from emitd_server.settings import ServerSettings

#: What grpc takes beyond our own limit, whose error names the setting.
ABOVE_OUR_LIMIT_BYTES = 1024 * 1024
#: A peer that does not answer a ping is dead, and found within 40 s.
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
#: Clients may ping this often, also without a call: ours do every 30 s.
MIN_CLIENT_PING_MS = 20_000
#: The longest name that health is asked for, and the largest question of reflection.
MAX_NAME_BYTES = 4096


class Servicer(Protocol):
    """Serves one service of a contract."""

    #: The service's full name, for health and reflection.
    service_name: str

    def handler(self, intake: Intake) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what a grpc server needs to route calls to this servicer."""


class GrpcServer:
    """Serves `servicers` at one address, and reports the health of `handlers`.

    `streams` are those of the servicers: they are ended when the server stops.
    """

    def __init__(
        self,
        servicers: Sequence[Servicer],
        handlers: Iterable[BaseLogHandler],
        streams: OpenStreams,
        settings: ServerSettings,
        memory: MemoryAccount,
    ) -> None:
        self._servicers = servicers
        self._handlers = handlers
        self._streams = streams
        self._settings = settings
        self._intake = Intake(settings.limits, memory)
        #: Of health and of reflection.
        self._limit = StreamLimit(settings.watch.max_watchers, "server.watch.max_watchers")
        self._health = _HealthServicer(streams, self._limit)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Start serving; return the address, with the port that was picked if 0 was asked for.

        Raises StartError when the address cannot be used.
        """
        self._server = grpc.aio.server(
            options=[
                # Otherwise a second server starts happily on a busy port and takes half the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
                (
                    "grpc.max_receive_message_length",
                    self._settings.limits.max_request_bytes + ABOVE_OUR_LIMIT_BYTES,
                ),
            ]
        )
        names = [servicer.service_name for servicer in self._servicers]
        self._server.add_generic_rpc_handlers(
            tuple(servicer.handler(self._intake) for servicer in self._servicers)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            _ReflectionServicer(names, self._streams, self._limit), self._server
        )
        address = self._bind(self._server, self._settings.listen)
        await self._server.start()
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        for handler in self._handlers:
            await self._health.follow(handler)
        return address

    async def stop(self) -> float:
        """End in order: NOT_SERVING, a moment, end the streams, drain the calls. Idempotent.

        Returns how many seconds of `drain_seconds` are left for the handlers.
        """
        shutdown = self._settings.shutdown
        if self._server is None:
            return shutdown.drain_seconds
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(shutdown.not_serving_seconds)
        self._streams.close()
        deadline = asyncio.get_running_loop().time() + shutdown.drain_seconds
        await self._server.stop(grace=shutdown.drain_seconds)
        self._server = None
        return max(0.0, deadline - asyncio.get_running_loop().time())

    def _bind(self, server: grpc.aio.Server, listen: str) -> str:
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {listen}: the address is in use or not of this machine; "
                "stop the other server, or choose another with --listen"
            ) from error
        host, _, asked = listen.rpartition(":")
        return f"{host}:{port}" if asked == "0" else listen


class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc, name-defined]  # its stub lacks it
    """The health service of the grpc library, with a Watch that has the bounds of every stream.

    The library's Watch sends while it holds a lock, so that one reader that takes nothing would stop all changes.
    """

    def __init__(self, streams: OpenStreams, limit: StreamLimit) -> None:
        super().__init__()
        self._streams = streams
        self._limit = limit
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def Watch(  # noqa: N802  # the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        """Stream the status of one service until the server goes down."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        sent: int | None = None
        try:
            _refuse_large("service", request)
            with self._limit.counted():
                while True:
                    changed = self._changed
                    status = self._server_status.get(request.service, unknown)
                    if status != sent:
                        message = health_pb2.HealthCheckResponse(status=status)
                        await self._streams.send(context, message, message.ByteSize())
                        sent = status
                    with self._streams.waiting():
                        await changed.wait()
        except EmitdError as error:
            await abort(context, status_of(error))

    async def set(self, service: str, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        """Set the status of a service."""
        await super().set(service, status)
        self._wake()

    async def enter_graceful_shutdown(self) -> None:
        """Set every service to NOT_SERVING, for good."""
        await super().enter_graceful_shutdown()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, handler: BaseLogHandler) -> None:
        """Report a handler's health as `handler/NAME`, now and whenever it changes."""

        def on_change() -> None:
            task = asyncio.get_running_loop().create_task(self._show(handler), name="health")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        handler.add_health_listener(on_change)
        await self._show(handler)

    async def _show(self, handler: BaseLogHandler) -> None:
        statuses = health_pb2.HealthCheckResponse
        status = statuses.NOT_SERVING if handler.health_problem else statuses.SERVING
        await self.set(f"handler/{handler.name}", status)


class _ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc, name-defined]  # grpc ships no types
    """The reflection service of the grpc library, whose streams have the bounds of every stream."""

    def __init__(self, names: Sequence[str], streams: OpenStreams, limit: StreamLimit) -> None:
        super().__init__((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
        self._streams = streams
        self._limit = limit

    async def ServerReflectionInfo(  # noqa: N802  # the RPC's name
        self,
        request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        """Answer questions until there are no more, or the server goes down."""
        replies = super().ServerReflectionInfo(_small(request_iterator), context)
        try:
            with self._limit.counted():
                async for reply in self._streams.iterate(replies):
                    await self._streams.send(context, reply, reply.ByteSize())
        except EmitdError as error:
            await abort(context, status_of(error))


async def _small(
    requests: AsyncIterator[reflection_pb2.ServerReflectionRequest],
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for request in requests:
        _refuse_large("", request)  # a reply repeats it
        yield request


def _refuse_large(field: str, request: Message) -> None:
    if request.ByteSize() > MAX_NAME_BYTES:
        raise RequestInvalid(field, f"has {request.ByteSize()} bytes, more than {MAX_NAME_BYTES}")
