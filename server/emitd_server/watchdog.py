"""Names what holds up the event loop: an `async def` handler that blocks it harms every other."""

import asyncio
import sys
import threading
import time
import traceback

from emitd_server.diagnostics import Report

__all__ = ["Watchdog"]


class Watchdog:
    """Reports when the running event loop has stood still for longer than `limit_seconds`, once each time.

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
        """The innermost line that the loop's thread executes, and the chain of functions that led there."""
        frame = sys._current_frames().get(self._loop_thread_id)
        if frame is None:
            return "a thread that has ended"
        stack = traceback.extract_stack(frame)
        innermost = stack[-1]
        callers = " > ".join(entry.name for entry in stack[-5:])
        return f"{innermost.filename}:{innermost.lineno} ({callers})"
