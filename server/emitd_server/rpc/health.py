"""`grpc.health.v1` for the server, for LogService, and for each handler."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from emitd_handlers.base import BaseLogHandler
from emitd_server.errors import ServiceStopping
from emitd_server.rpc.open_streams import OpenStreams

__all__ = ["HealthServicer"]


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc, name-defined]  # its stub lacks it
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

        handler.on_health_change = on_change
        await self._show(handler)

    async def _show(self, handler: BaseLogHandler) -> None:
        statuses = health_pb2.HealthCheckResponse
        status = statuses.NOT_SERVING if handler.health_problem else statuses.SERVING
        await self.set(f"handler/{handler.name}", status)

    async def set_serving(self, *services: str) -> None:
        """Report SERVING for each of the services."""
        for service in services:
            await self.set(service, health_pb2.HealthCheckResponse.SERVING)
