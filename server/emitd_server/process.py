"""The life of the server process: start, wait for a signal, stop. A watchdog names what blocks its event loop."""

import asyncio
import os
import signal
import sys
import threading
import time
import traceback

from emitd_handlers.diagnostics import Report, report
from emitd_server.config.loader import Config
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.errors import StartError
from emitd_server.rpc.audit_servicer import AuditServicer
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.rpc.server import GrpcServer, Servicer
from emitd_server.service import LoggingService

EXIT_GOOD = 0
EXIT_CANNOT_RUN = 5


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0, or 5 when the service could not start.

    A second signal ends the process at once.
    """
    try:
        return asyncio.run(_serve(config))
    except StartError as error:
        report(f"could not start: {error}")
        return EXIT_CANNOT_RUN


async def _serve(config: Config) -> int:
    stop = _stop_on_signals()
    service = LoggingService.from_config(config)
    await service.start()
    for line in filter(None, (handler.introduction() for handler in service.handlers)):
        report(line)
    server = make_grpc_server(service)
    watchdog = Watchdog(config.server.watchdog_seconds, report)
    try:
        report(f"listening on {await server.start()}")
        watchdog.start()
        await stop.wait()
        report("stopping")
    finally:
        watchdog.stop()
        await service.stop(await server.stop())
    report("stopped")
    return EXIT_GOOD


def make_grpc_server(dispatcher: Dispatcher) -> GrpcServer:
    """Return a server with every service of the contract."""
    streams = OpenStreams(dispatcher.memory, dispatcher.settings.watch.stall_seconds)
    servicers: list[Servicer] = [LogServicer(dispatcher, streams), AuditServicer(dispatcher, streams)]
    return GrpcServer(servicers, dispatcher.handlers, streams, dispatcher.settings, dispatcher.memory)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(name: str) -> None:
        if stop.is_set():
            report(f"{name} again: ending at once")
            os._exit(EXIT_CANNOT_RUN)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    return stop


class Watchdog:
    """Reports each time that the running event loop is blocked for longer than `limit_seconds`.

    The loop stamps the time from a timer; a daemon thread compares. The report says which line the loop's
    thread was executing.
    """

    def __init__(self, limit_seconds: float, report: Report) -> None:
        self._limit_seconds = limit_seconds
        self._report = report
        self._interval = limit_seconds / 2
        self._stamp = 0.0
        self._loop_thread_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop_thread_id = threading.get_ident()
        self._tick(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._watch, name="emitd-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. Idempotent."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stamp = time.monotonic()
        self._timer = loop.call_later(self._interval, self._tick, loop)

    def _watch(self) -> None:
        reported = 0.0
        while not self._stopped.wait(self._interval):
            stamp = self._stamp
            still_seconds = time.monotonic() - stamp
            if still_seconds > self._limit_seconds + self._interval and stamp != reported:
                reported = stamp
                self._report(f"event loop blocked for {still_seconds:.1f} s, in {self._culprit()}")

    def _culprit(self) -> str:
        """Return the line that the loop's thread executes, and the functions that called it."""
        frame = sys._current_frames().get(self._loop_thread_id)
        if frame is None:
            return "a thread that has ended"
        stack = traceback.extract_stack(frame)
        innermost = stack[-1]
        callers = " > ".join(entry.name for entry in stack[-5:])
        return f"{innermost.filename}:{innermost.lineno} ({callers})"
