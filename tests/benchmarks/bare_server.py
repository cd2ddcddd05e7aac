"""The yardstick: a bare grpc.aio server that takes the same bytes and answers an empty reply.

Its WatchJob sends the bytes that the last Emit brought to everybody who watches. Run as a program: prints
`listening on ADDRESS` to standard error and serves until SIGTERM.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc


class Publisher:
    """The last change, and a shared future that the next one completes."""

    def __init__(self) -> None:
        self.last = b""
        self.next_change: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def emit(self, data: bytes, context: "grpc.aio.ServicerContext") -> bytes:
        """Take the request's bytes as they are; an empty message has no bytes."""
        self.last = data
        change, self.next_change = self.next_change, asyncio.get_running_loop().create_future()
        change.set_result(None)
        return b""

    async def watch(self, data: bytes, context: "grpc.aio.ServicerContext") -> AsyncIterator[bytes]:
        """Send the request back as a first message, then every change; the last one alone to who is slow."""
        yield data
        seen = data
        while True:
            if self.last is seen or not self.last:
                await asyncio.shield(self.next_change)
            seen = self.last
            yield seen


async def main() -> None:
    """Serve the calls of LogService until SIGTERM."""
    server = grpc.aio.server(
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 32 * 1024 * 1024)]
    )
    publisher = Publisher()
    methods = {
        "Emit": grpc.unary_unary_rpc_method_handler(publisher.emit),
        "EmitBatch": grpc.unary_unary_rpc_method_handler(publisher.emit),
        "WatchJob": grpc.unary_stream_rpc_method_handler(publisher.watch),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("emitd.v1.LogService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    await stop.wait()
    await server.stop(grace=0)


if __name__ == "__main__":
    asyncio.run(main())
