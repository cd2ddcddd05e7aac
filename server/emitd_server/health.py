"""`grpc.health.v1` for the server, for LogService, and for each handler."""

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from emitd_server.errors import ServiceStopping
from emitd_server.open_streams import OpenStreams

__all__ = ["HealthServicer"]


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc, name-defined]  # its stub lacks it
    """The health service of the grpc library, whose Watch streams also end when the server goes down."""

    def __init__(self, streams: OpenStreams) -> None:
        super().__init__()
        self._streams = streams

    async def Watch(  # noqa: N802  # the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        """Stream the status of one service until the server goes down."""
        try:
            with self._streams.waiting():
                await super().Watch(request, context)
        except ServiceStopping as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def set_serving(self, *services: str) -> None:
        """Report SERVING for each of the services."""
        for service in services:
            await self.set(service, health_pb2.HealthCheckResponse.SERVING)
