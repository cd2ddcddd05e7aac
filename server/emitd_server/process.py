"""The life of the server process: start, wait for a signal, stop."""

import asyncio
import os
import signal

from emitd_server.config.loader import Config
from emitd_server.diagnostics import report
from emitd_server.errors import StartError
from emitd_server.rpc.server import GrpcServer
from emitd_server.service import LoggingService
from emitd_server.watchdog import Watchdog

__all__ = ["EXIT_CANNOT_RUN", "EXIT_GOOD", "run"]

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
    server = GrpcServer(service, report)
    watchdog = Watchdog(config.server.watchdog_seconds, report)
    try:
        report(f"listening on {await server.start()}")
        watchdog.start()
        await stop.wait()
        report("stopping")
    finally:
        watchdog.stop()
        await server.stop()
        await service.stop()
    report("stopped")
    return EXIT_GOOD


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
