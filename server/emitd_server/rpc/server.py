"""The gRPC server: the servicers that it is given, health, reflection, and an orderly end."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.diagnostics import report
from emitd_server.errors import ServiceStopping, StartError
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.rpc.unix_socket import SCHEME, UnixSocket
from emitd_server.settings import ServerSettings

#: How often a socket's path is checked: a change by another process must be noticed within a second.
SOCKET_CHECK_SECONDS = 0.5


class Servicer(Protocol):
    """Serves one service of a contract."""

    #: The service's full name, for health and reflection.
    service_name: str

    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
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
    ) -> None:
        self._servicers = servicers
        self._handlers = handlers
        self._streams = streams
        self._settings = settings
        self._health = _HealthServicer(streams)
        self._server: grpc.aio.Server | None = None
        self._socket = UnixSocket(settings.listen) if settings.listen.startswith(SCHEME) else None
        self._socket_watch: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start serving; return the address, with the port that was picked if 0 was asked for.

        Raises StartError when the address cannot be used.
        """
        self._server = grpc.aio.server(
            options=[
                # Otherwise a second server starts happily on a busy port and takes half the calls.
                ("grpc.so_reuseport", 0),
                # Somewhat above our own limit, whose error names it.
                ("grpc.max_receive_message_length", 2 * self._settings.limits.max_request_bytes),
            ]
        )
        names = [servicer.service_name for servicer in self._servicers]
        self._server.add_generic_rpc_handlers(tuple(servicer.handler() for servicer in self._servicers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            _ReflectionServicer(names, self._streams), self._server
        )
        address = self._bind(self._server, self._settings.listen)
        await self._server.start()
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        for handler in self._handlers:
            await self._health.follow(handler)
        if self._socket is not None:
            self._socket_watch = asyncio.create_task(self._watch_socket(self._socket), name="socket")
        return address

    async def stop(self) -> float:
        """End in order: NOT_SERVING, a moment, end the streams, drain the calls. Idempotent.

        Returns how many seconds of `drain_seconds` are left for the handlers.
        """
        shutdown = self._settings.shutdown
        if self._server is None:
            return shutdown.drain_seconds
        if self._socket_watch is not None:
            self._socket_watch.cancel()
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(shutdown.not_serving_seconds)
        self._streams.close()
        deadline = asyncio.get_running_loop().time() + shutdown.drain_seconds
        await self._server.stop(grace=shutdown.drain_seconds)
        self._server = None
        if self._socket is not None:
            self._socket.remove()
        return max(0.0, deadline - asyncio.get_running_loop().time())

    def _bind(self, server: grpc.aio.Server, listen: str) -> str:
        try:
            if self._socket is not None:
                self._socket.bind(server.add_insecure_port)
                return listen
            port = server.add_insecure_port(listen)
        except OSError as error:
            raise StartError(f"cannot listen on {listen}: {error.strerror or error}") from error
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {listen}: the address is in use or not of this machine; "
                "stop the other server, or choose another with --listen"
            ) from error
        host, _, asked = listen.rpartition(":")
        return f"{host}:{port}" if asked == "0" else listen

    async def _watch_socket(self, unix_socket: UnixSocket) -> None:
        """Report, and show in the health of the whole, whether clients can connect by the socket's path."""
        known = ""
        while True:
            await asyncio.sleep(SOCKET_CHECK_SECONDS)
            problem = unix_socket.problem()
            if problem != known:
                known = problem
                report(problem or f"clients can connect to socket '{unix_socket.path}' again")
                statuses = health_pb2.HealthCheckResponse
                await self._health.set("", statuses.NOT_SERVING if problem else statuses.SERVING)


class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc, name-defined]  # its stub lacks it
    """The health service of the grpc library, whose Watch streams also end when the server goes down."""

    def __init__(self, streams: OpenStreams) -> None:
        super().__init__()
        self._streams = streams
        self._tasks: set[asyncio.Task[None]] = set()

    async def Watch(  # noqa: N802  # the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        """Stream the status of one service until the server goes down."""
        try:
            with self._streams.waiting():
                await super().Watch(request, context)
        except ServiceStopping as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

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
    """The reflection service of the grpc library, whose streams also end when the server goes down."""

    def __init__(self, names: Sequence[str], streams: OpenStreams) -> None:
        super().__init__((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
        self._streams = streams

    async def ServerReflectionInfo(  # noqa: N802  # the RPC's name
        self,
        request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        replies = super().ServerReflectionInfo(request_iterator, context)
        try:
            async for reply in self._streams.iterate(replies):
                yield reply
        except ServiceStopping as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
