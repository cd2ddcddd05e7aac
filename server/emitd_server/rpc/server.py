"""The gRPC server around a `LoggingService`: its RPCs, health, reflection, and an orderly end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from emitd_server.diagnostics import Report
from emitd_server.errors import ServiceStopping, StartError
from emitd_server.rpc import audit_servicer, log_servicer
from emitd_server.rpc.audit_servicer import AuditServicer
from emitd_server.rpc.health import HealthServicer
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.service import LoggingService

__all__ = ["GrpcServer"]

#: The services of the contract, for health and reflection.
SERVICE_NAMES = (log_servicer.SERVICE_NAME, audit_servicer.SERVICE_NAME)


class GrpcServer:
    """Serves a started service at one address."""

    def __init__(self, service: LoggingService, report: Report) -> None:
        self._service = service
        self._report = report
        self._streams = OpenStreams()
        self._health = HealthServicer(self._streams)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Start serving; return the address, with the port that was picked where 0 was asked for.

        Raises StartError when the address cannot be used.
        """
        settings = self._service.settings
        self._server = grpc.aio.server(
            options=[
                # Otherwise a second server starts happily on a busy port and takes half the calls.
                ("grpc.so_reuseport", 0),
                # Somewhat above our own limit, whose error names it.
                ("grpc.max_receive_message_length", 2 * settings.limits.max_request_bytes),
            ]
        )
        self._server.add_generic_rpc_handlers(
            (
                LogServicer(self._service, self._streams, self._report).handler(),
                AuditServicer(self._service, self._streams, self._report).handler(),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            _ReflectionServicer(self._streams), self._server
        )
        address = self._bind(self._server, settings.listen)
        await self._server.start()
        await self._health.set_serving("", *SERVICE_NAMES)
        for handler in self._service.handlers:
            await self._health.follow(handler)
        return address

    async def stop(self) -> None:
        """End in order: NOT_SERVING, a moment, end the streams, drain the calls, then the service itself."""
        if self._server is None:
            return
        shutdown = self._service.settings.shutdown
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(shutdown.not_serving_seconds)
        self._streams.close()
        deadline = asyncio.get_running_loop().time() + shutdown.drain_seconds
        await self._server.stop(grace=shutdown.drain_seconds)
        self._server = None
        await self._service.stop(max(0.0, deadline - asyncio.get_running_loop().time()))

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


class _ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc, name-defined]  # grpc ships no types
    """The reflection service of the grpc library, whose streams also end when the server goes down."""

    def __init__(self, streams: OpenStreams) -> None:
        super().__init__((*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME))
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
