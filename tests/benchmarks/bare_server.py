"""The yardstick: a bare grpc.aio server that takes the same bytes and answers an empty reply.

Run as a program: prints `listening on ADDRESS` to standard error and serves until SIGTERM.
"""

import asyncio
import signal
import sys

import grpc


async def answer(data: bytes, context: "grpc.aio.ServicerContext") -> bytes:
    """Take the request's bytes as they are; an empty message has no bytes."""
    return b""


async def main() -> None:
    """Serve the unary calls of LogService until SIGTERM."""
    server = grpc.aio.server(
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 32 * 1024 * 1024)]
    )
    methods = {name: grpc.unary_unary_rpc_method_handler(answer) for name in ("Emit", "EmitBatch")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("emitd.v1.LogService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    await stop.wait()
    await server.stop(grace=1)


if __name__ == "__main__":
    asyncio.run(main())
