"""For tests of programs that use emitd: a real server in the test's process, and what it was sent.

    def test_login(emitd_server: RunningServer) -> None:
        with LogClient(emitd_server.address) as client:
            client.audit("user.login.success", user_id="u1", source_ip="192.0.2.7", details={})
        assert emitd_server.events[0].user_id == "u1"

`emitd_server` is a fixture of the pytest plugin that comes with emitd. Needs the extra [server].
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emitd_handlers.base import BaseLogHandler
    from emitd_handlers.record import AuditEvent, JobStatus, LogRecord
    from emitd_handlers.testing import InMemoryHandler
    from emitd_server.settings import ServerSettings

__all__ = ["RunningServer", "running_server", "serving"]

POLL_SECONDS = 0.005


class RunningServer:
    """A server on a free port of loopback, with one handler that takes every record and keeps it in memory.

    The handler is committed: what a client's `audit` or `flush` has waited for is here.
    """

    def __init__(self, address: str, handler: "InMemoryHandler") -> None:
        #: HOST:PORT.
        self.address = address
        #: Keeps the records; `handler.fail_next(3)` makes it refuse some.
        self.handler = handler

    @property
    def lines(self) -> "Sequence[LogRecord]":
        """The log lines so far, in the order of their arrival."""
        return [record for record in self.handler.records if record.payload is None]

    @property
    def events(self) -> "Sequence[AuditEvent]":
        """The audit events so far."""
        from emitd_handlers.record import AuditEvent

        return [each.payload for each in self.handler.records if isinstance(each.payload, AuditEvent)]

    @property
    def jobs(self) -> "Sequence[JobStatus]":
        """The reports on jobs so far, each as it was sent."""
        from emitd_handlers.record import JobStatus

        return [each.payload for each in self.handler.records if isinstance(each.payload, JobStatus)]

    def wait_for(self, *, lines: int = 0, events: int = 0, jobs: int = 0, timeout: float = 5.0) -> None:
        """Wait until at least these numbers of each have come, for at most `timeout` seconds.

        Raises TimeoutError, saying how many there are.
        """
        give_up_at = time.monotonic() + timeout
        while (found := (len(self.lines), len(self.events), len(self.jobs))) and any(
            count < wanted for count, wanted in zip(found, (lines, events, jobs), strict=True)
        ):
            if time.monotonic() >= give_up_at:
                raise TimeoutError("{} lines, {} events and {} reports on jobs came".format(*found))
            time.sleep(POLL_SECONDS)


@contextmanager
def running_server() -> Iterator[RunningServer]:
    """Run a server until the end of the block."""
    from emitd_handlers.record import Level
    from emitd_handlers.settings import Delivery, HandlerSettings
    from emitd_handlers.testing import InMemoryHandler

    handler = InMemoryHandler(
        HandlerSettings(levels=tuple(Level), delivery=Delivery.COMMITTED), name="memory"
    )
    with serving([handler]) as address:
        yield RunningServer(address, handler)


@contextmanager
def serving(handlers: "Sequence[BaseLogHandler]", settings: "ServerSettings | None" = None) -> Iterator[str]:
    """Serve the handlers, in a thread with an event loop of its own; yield the address. Raises what a start raises."""
    from emitd_server.process import make_grpc_server
    from emitd_server.service import LoggingService
    from emitd_server.settings import ServerSettings

    loop = asyncio.new_event_loop()
    is_over = asyncio.Event()
    started: Future[str] = Future()

    async def serve() -> None:
        async with LoggingService(
            handlers, settings=settings or ServerSettings(listen="127.0.0.1:0")
        ) as service:
            server = make_grpc_server(service)
            started.set_result((await server.start())[0])
            await is_over.wait()
            await server.stop()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="emitd-testing", daemon=True)
    thread.start()
    try:
        yield started.result()
    finally:
        with suppress(RuntimeError):  # the loop is closed: it could not start
            loop.call_soon_threadsafe(is_over.set)
        thread.join()
