"""A service and its gRPC server in a thread with a loop of its own, for tests of clients that block."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from emitd_handlers.base import BaseLogHandler
from emitd_server.settings import ServerSettings
from support.client.in_process import running


@contextmanager
def threaded_server(
    handlers: Sequence[BaseLogHandler], settings: ServerSettings | None = None
) -> Iterator[str]:
    """Serve the handlers on a free port until the end of the block; yield the address."""
    is_up, is_over = threading.Event(), asyncio.Event()
    addresses: list[str] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with running(handlers, settings) as server:
            addresses.append(server.address)
            is_up.set()
            await is_over.wait()

    def main() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            is_up.set()
            loop.close()

    thread = threading.Thread(target=main, name="threaded-server")
    thread.start()
    is_up.wait()
    try:
        yield addresses[0]
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(is_over.set)
        thread.join()
