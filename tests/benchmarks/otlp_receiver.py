"""The least that takes log records over OTLP and counts them, in the file `arrived` of the folder it runs in.

Run as a program: prints `listening on ADDRESS` to standard error and serves until SIGTERM.
"""

import asyncio
import os
import signal
import sys

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest


class Counter:
    """Counts the records of each request."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._arrived = 0

    async def export(self, data: bytes, context: "grpc.aio.ServicerContext") -> bytes:
        """Count, and answer an empty ExportLogsServiceResponse, which says that all was accepted."""
        request = ExportLogsServiceRequest.FromString(data)
        for resource in request.resource_logs:
            self._arrived += sum(len(scope.log_records) for scope in resource.scope_logs)
        os.pwrite(self._descriptor, b"%020d" % self._arrived, 0)
        return b""


async def main() -> None:
    """Serve the call of LogsService until SIGTERM."""
    server = grpc.aio.server()
    counter = Counter(os.open("arrived", os.O_WRONLY | os.O_CREAT, 0o600))
    handler = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.logs.v1.LogsService",
        {"Export": grpc.unary_unary_rpc_method_handler(counter.export)},
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    await stop.wait()
    await server.stop(grace=0)


if __name__ == "__main__":
    asyncio.run(main())
