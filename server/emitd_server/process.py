"""The life of the server process: start, wait for a signal, stop. A watchdog names what blocks its event loop."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module, util
from types import FrameType

from emitd_handlers.diagnostics import Report, report
from emitd_server.access.trail import AccessTrail
from emitd_server.config.loader import Config
from emitd_server.dispatch.dispatcher import CLOSE_SECONDS, Dispatcher
from emitd_server.errors import ConfigError, StartError
from emitd_server.rpc.audit_servicer import AuditServicer
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.rpc.server import GrpcServer, Servicer
from emitd_server.service import LoggingService
from emitd_server.settings import LoopKind, ShutdownSettings

EXIT_GOOD = 0
EXIT_BAD_CONFIGURATION = 3
EXIT_CANNOT_RUN = 5

#: The signals that do not stop the service: a process cannot catch them, they report a fault in it, or they do not
#: end it (Python ignores SIGPIPE and SIGXFSZ). Every other signal stops it; this is the only place that decides.
HARMLESS_SIGNALS = frozenset(
    getattr(signal, name)
    for name in (
        *("SIGKILL", "SIGSTOP"),
        *("SIGABRT", "SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"),
        *("SIGCHLD", "SIGCONT", "SIGINFO", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"),
        *("SIGPIPE", "SIGXFSZ"),
    )
    if hasattr(signal, name)
)
#: Signals within this time of the first are one request: a supervisor signals make and the service, and make passes
#: its signal on. A later one forces the end.
ONE_REQUEST_SECONDS = 1.0
#: Two SIGINT further apart than this are two presses of Ctrl-C.
ONE_PRESS_SECONDS = 0.1
#: How much longer than its settings allow a stop may take before it is forced.
MARGIN_SECONDS = CLOSE_SECONDS + 3.0
#: How long a forced end waits until its report is written.
LAST_REPORT_SECONDS = 1.0


def run(config: Config) -> int:
    """Serve until a signal; return the exit code: 0, 3 or 5 when the service could not start.

    The first signal drains. Another one at least a second later, or a second Ctrl-C, ends the process at once.
    """
    signals = StopSignals(config.server.shutdown)
    is_uvloop = config.server.loop is not LoopKind.ASYNCIO and util.find_spec("uvloop")
    loop_factory = import_module("uvloop").new_event_loop if is_uvloop else None
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(_serve(config, signals))
    except ConfigError as error:  # what an address is may be known only now
        for problem in error.problems:
            report(f"configuration: {problem}")
        return EXIT_BAD_CONFIGURATION
    except StartError as error:
        report(f"could not start: {error}")
        return EXIT_CANNOT_RUN


async def _serve(config: Config, signals: "StopSignals") -> int:
    service = LoggingService.from_config(config)
    server = make_grpc_server(service, config.listen_key)
    watchdog = Watchdog(config.server.watchdog_seconds, report)
    signals.attach(service)
    starting = asyncio.create_task(_start(service, server, watchdog), name="start")
    asked = asyncio.create_task(signals.stop.wait(), name="stop")
    drain_seconds = config.server.shutdown.drain_seconds
    try:
        await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await asked
        report("stopping")
    finally:
        signals.limit()
        asked.cancel()
        starting.cancel()
        await asyncio.wait((starting, asked))
        watchdog.stop()
        try:
            drain_seconds = await server.stop()
        finally:
            await service.stop(drain_seconds)
    report("stopped")
    return EXIT_GOOD


async def _start(service: LoggingService, server: GrpcServer, watchdog: "Watchdog") -> None:
    watchdog.start()
    await service.start(keep_trying=True)
    for address in await server.start():
        report(f"listening on {address}")


def make_grpc_server(dispatcher: Dispatcher, listen_key: str = "server.listen") -> GrpcServer:
    """Return a server with every service of the contract; `listen_key` is what an error calls the listeners."""
    trail = AccessTrail(dispatcher.own_events)
    servicers: list[Servicer] = [LogServicer(dispatcher, trail), AuditServicer(dispatcher, trail)]
    return GrpcServer(servicers, dispatcher.lives, dispatcher.settings, dispatcher.memory, trail, listen_key)


class StopSignals:
    """Sets `stop` at the first signal; forces the end at a second one, or when the stop takes too long.

    Its handlers are Python's, not the event loop's, and its limit is a thread's: both work while a handler blocks
    the loop.
    """

    def __init__(self, shutdown: ShutdownSettings) -> None:
        self.stop = asyncio.Event()
        self._limit_seconds = shutdown.not_serving_seconds + shutdown.drain_seconds + MARGIN_SECONDS
        self._limit: threading.Timer | None = None
        #: When each signal came first.
        self._first: dict[int, float] = {}
        self._forced = False
        self._service: LoggingService | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        for number in signal.valid_signals() - HARMLESS_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started by nohup
            signal.signal(number, self._on_signal)

    def attach(self, service: LoggingService) -> None:
        """Set `stop` in the running loop from now on, and report what `service` leaves if the end is forced."""
        self._service = service
        self._loop = asyncio.get_running_loop()

    def limit(self) -> None:
        """Force the end when the time for a stop, counted from the first call, has passed."""
        if self._limit is None:
            why = f"not stopped after {self._limit_seconds:g} s"
            self._limit = threading.Timer(self._limit_seconds, self._force, [why])
            self._limit.daemon = True
            self._limit.start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self._first.setdefault(number, now)
        if now - min(self._first.values()) >= ONE_REQUEST_SECONDS:
            self._force("second signal")
        elif number == signal.SIGINT and now - self._first[number] >= ONE_PRESS_SECONDS:
            self._force("second Ctrl-C")
        elif self._loop is None:
            self.stop.set()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: stopped already
                self._loop.call_soon_threadsafe(self.stop.set)
            self.limit()

    def _force(self, why: str) -> None:
        """End the process. A thread reports what is left: standard error may block for ever."""
        if self._forced:
            return
        self._forced = True
        last_words = threading.Thread(target=self._report_force, args=[why], daemon=True)
        last_words.start()
        last_words.join(LAST_REPORT_SECONDS)
        os._exit(EXIT_CANNOT_RUN)

    def _report_force(self, why: str) -> None:
        report(f"{why}: ending at once")
        if self._service is not None:
            self._service.report_left()


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
