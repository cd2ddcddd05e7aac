"""The gRPC server: the servicers that it is given, health, reflection, and an orderly end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from emitd_handlers.diagnostics import report
from emitd_handlers.errors import EmitdError
from emitd_handlers.text.address import UNIX
from emitd_server.dispatch.handler_life import HandlerLife
from emitd_server.errors import RequestInvalid
from emitd_server.memory import MemoryAccount
from emitd_server.rpc.intake import Intake
from emitd_server.rpc.listening import UnixSocket, listen
from emitd_server.rpc.methods import abort
from emitd_server.rpc.open_streams import OpenStreams, StreamLimit
from emitd_server.rpc.status import status_of
from emitd_server.settings import ServerSettings

#: How often to look whether health has changed, for those that watch it.
HEALTH_SECONDS = 0.5
_STATUSES = health_pb2.HealthCheckResponse
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

    def handler(self, intake: Intake, streams: OpenStreams) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what a grpc server needs to route calls to this servicer."""


class GrpcServer:
    """Serves `servicers` at one address, and reports the health of handlers, of which it gets the `lives`.

    `listen_key` is the setting or flag that gave the address, for errors.
    """

    def __init__(
        self,
        servicers: Sequence[Servicer],
        lives: Sequence[HandlerLife],
        settings: ServerSettings,
        memory: MemoryAccount,
        listen_key: str,
    ) -> None:
        self._servicers = servicers
        self._streams = OpenStreams(memory, settings.watch.stall_seconds)
        self._settings = settings
        self._listen_key = listen_key
        self._socket = UnixSocket(settings.listen) if settings.listen.startswith(UNIX) else None
        #: Of health and of reflection.
        self._limit = StreamLimit(settings.watch.max_watchers, "server.watch.max_watchers")
        names = ["", *(servicer.service_name for servicer in servicers)]
        self._health = _HealthServicer(names, lives, self._streams, self._limit, self._socket)
        self._intake = Intake(settings.limits, memory)
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
            tuple(servicer.handler(self._intake, self._streams) for servicer in self._servicers)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            _ReflectionServicer(names, self._streams, self._limit), self._server
        )
        address = await listen(
            self._server,
            self._settings.listen,
            key=self._listen_key,
            socket_mode=int(self._settings.socket_mode, 8),
            unix_socket=self._socket,
        )
        await self._health.start()
        await self._server.start()
        return address

    async def stop(self) -> float:
        """End in order: NOT_SERVING, a moment, end the streams, drain the calls. Idempotent.

        Returns how many seconds of `drain_seconds` are left for the handlers.
        """
        shutdown = self._settings.shutdown
        if self._server is None:
            return shutdown.drain_seconds
        await self._health.stop()
        await asyncio.sleep(shutdown.not_serving_seconds)
        self._streams.close()
        deadline = asyncio.get_running_loop().time() + shutdown.drain_seconds
        await self._server.stop(grace=shutdown.drain_seconds)
        self._server = None
        if self._socket is not None:
            self._socket.remove()
        return max(0.0, deadline - asyncio.get_running_loop().time())


class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc, name-defined]  # its stub lacks it
    """The health service of the grpc library, with a Watch that has the bounds of every stream.

    The library's Watch sends while it holds a lock, so that one reader that takes nothing would stop all changes.

    `handler/NAME` is the health of a handler. The names in `readiness` are SERVING while every required handler is
    ready and clients can connect by the socket's path, and `live` is while the process runs.
    """

    def __init__(
        self,
        readiness: Sequence[str],
        lives: Sequence[HandlerLife],
        streams: OpenStreams,
        limit: StreamLimit,
        unix_socket: UnixSocket | None,
    ) -> None:
        super().__init__()
        self._readiness = readiness
        self._lives = lives
        self._streams = streams
        self._socket = unix_socket
        self._socket_problem = ""
        self._is_stopping = False
        self._shown: dict[str, bool] = {}
        self._task: asyncio.Task[None] | None = None
        self._limit = limit
        self._changed = asyncio.Event()

    async def Watch(  # noqa: N802  # the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        """Stream the status of one service until the server goes down."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        sent: int | None = None
        try:
            _refuse_large("service", request)
            with self._limit.counted(), self._streams.ending():
                while True:
                    changed = self._changed
                    status = self._server_status.get(request.service, unknown)
                    if status != sent:
                        message = health_pb2.HealthCheckResponse(status=status)
                        await self._streams.send(context, message, message.ByteSize())
                        sent = status
                    await changed.wait()
        except EmitdError as error:
            await abort(context, status_of(error))

    async def set(self, service: str, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        """Set the status of a service."""
        await super().set(service, status)
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802  # the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of one service as it is now."""
        await self._show()
        return await super().Check(request, context)

    async def start(self) -> None:
        """Show the health of everything, now and whenever it changes."""
        await self._show()
        self._task = asyncio.create_task(self._follow(), name="health")

    async def stop(self) -> None:
        """Show NOT_SERVING for everything but `live`, for good."""
        self._is_stopping = True
        await self._show()
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            await self._show()

    async def _show(self) -> None:
        works = {f"handler/{life.handler.name}": not life.health_problem for life in self._lives}
        is_ready = all(life.is_ready for life in self._lives if life.handler.is_required)
        if self._socket is not None:
            problem = self._socket.problem()
            if problem != self._socket_problem:
                self._socket_problem = problem
                report(problem or f"clients can connect to socket '{self._socket.path}' again")
            is_ready = is_ready and not problem
        works |= dict.fromkeys(self._readiness, is_ready)
        if self._is_stopping:
            works = dict.fromkeys(works, False)
        works["live"] = True
        changed = [name for name, value in works.items() if self._shown.get(name) is not value]
        self._shown = works
        for name in changed:  # a `set` may wait: then another call knows better
            await self.set(name, _STATUSES.SERVING if self._shown[name] else _STATUSES.NOT_SERVING)


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
            with self._limit.counted(), self._streams.ending():
                async with aclosing(replies):
                    async for reply in replies:
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
