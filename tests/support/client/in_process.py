"""A service and its gRPC server inside the test's own event loop."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from emitd.v1 import log_service_pb2_grpc
from emitd_handlers.audit.handler import JsonAuditHandler
from emitd_handlers.base import COMMON_LEVELS, BaseLogHandler
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.testing import InMemoryHandler
from emitd_server.process import make_grpc_server
from emitd_server.rpc.server import GrpcServer
from emitd_server.service import LoggingService
from emitd_server.settings import ServerSettings

#: Keeps grpc from sending calls through a proxy that the environment names.
CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]


@dataclass
class Running:
    """A running server and a stub to call it."""

    service: LoggingService
    server: GrpcServer
    address: str
    channel: grpc.aio.Channel
    stub: log_service_pb2_grpc.LogServiceStub
    #: What it told the operator.
    lines: list[str] = field(default_factory=list)


@asynccontextmanager
async def running(
    handlers: Sequence[BaseLogHandler], settings: ServerSettings | None = None
) -> AsyncIterator[Running]:
    """Serve the handlers on a free port until the end of the block."""
    lines: list[str] = []
    settings = settings or ServerSettings(listen="127.0.0.1:0")
    service = LoggingService(handlers, settings=settings, report=lines.append)
    await service.start()
    server = make_grpc_server(service)
    (address,) = await server.start()
    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    try:
        yield Running(service, server, address, channel, log_service_pb2_grpc.LogServiceStub(channel), lines)
    finally:
        await channel.close()
        await service.stop(await server.stop())


def in_memory() -> InMemoryHandler:
    """A handler that keeps log lines in memory."""
    return InMemoryHandler(InMemoryHandler.Settings(levels=tuple(COMMON_LEVELS)), name="memory")


def three_handlers(folder: Path, **jobs: Any) -> list[BaseLogHandler]:
    """The handlers of a newcomer's configuration, with log lines kept in memory; `jobs` are settings of theirs."""
    return [
        in_memory(),
        JsonAuditHandler(JsonAuditHandler.Settings(path=folder / "audit.json.log"), name="audit"),
        DatabaseJobHandler(
            DatabaseJobHandler.Settings(database=DatabaseUrl.resolve("sqlite:///jobs.db", folder), **jobs),
            name="jobs",
        ),
    ]


def status_details(error: grpc.RpcError) -> status_pb2.Status:
    """Return the google.rpc.Status that came with an error."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    raise AssertionError("the error has no google.rpc details")


def bad_fields(status: status_pb2.Status) -> list[str]:
    """Return the field paths that a status's BadRequest names."""
    for packed in status.details:
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(bad):
            return [violation.field for violation in bad.field_violations]
    return []


def retry_seconds(status: status_pb2.Status) -> float | None:
    """Return the delay of a status's RetryInfo, or None."""
    for packed in status.details:
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(retry):
            return retry.retry_delay.ToNanoseconds() / 1e9
    return None
