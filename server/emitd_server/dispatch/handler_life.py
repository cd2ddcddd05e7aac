"""`HandlerLife`: a handler is up, or down and tried again; and one place decides whether it works.

A handler that cannot start, or asked for a restart, is down: its records are refused, and `start` is tried with growing
pauses. A handler that is up shows by its outcomes whether it works; it may also report its own health.
"""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.diagnostics import Report
from emitd_handlers.errors import (
    EmitdError,
    HandlerBusy,
    HandlerUnavailable,
    RecordConflict,
    RecordInvalid,
)
from emitd_handlers.outcome import Outcomes, Refused
from emitd_handlers.record import LogRecord
from emitd_handlers.text.escape import escape
from emitd_server.errors import describe

#: The pause before the second try to start a handler; it doubles up to the longest.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
#: How long the service waits for its handlers to start before it takes records.
START_SECONDS = 5.0
#: How long a failure counts against readiness, and a full queue against health.
FAULT_SECONDS = 10.0
#: Refusals that say nothing against the handler.
_NO_FAULT = (RecordInvalid, RecordConflict, HandlerBusy)


class HandlerLife:
    """Starts and stops one handler, calls it, and knows its health. `on_start` prepares what depends on the handler."""

    def __init__(
        self, handler: BaseLogHandler, report: Report, on_start: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.handler = handler
        #: Set while the handler is up.
        self.is_up = asyncio.Event()
        #: Set after the first try to start it, however that went.
        self.is_tried = asyncio.Event()
        self._report = report
        self._on_start = on_start
        #: Why it is down, and its records are refused; empty: it is not.
        self.down_problem = ""
        self._pause = FIRST_PAUSE_SECONDS
        self._up_since = 0.0
        self._task: asyncio.Task[None] | None = None
        #: Why it failed, since it last took a record.
        self._failure = ""
        self._failed_at = self._failed_until = self._full_until = 0.0
        handler.add_health_listener(self._on_handler)

    @property
    def health_problem(self) -> str:
        """Why the handler does not do its work now; empty: it does."""
        full = "its queue is full, and records are dropped" if time.monotonic() < self._full_until else ""
        # A handler may also find out by itself that it works again.
        failure = self._failure if self._failed_at >= self.handler.well_at else ""
        return self.down_problem or self.handler.health_problem or failure or full

    @property
    def is_ready(self) -> bool:
        """Whether records should be sent here: as for `health_problem`, but a failure counts for FAULT_SECONDS only.

        Else a replica that gets no records because it is not ready could never show that it works again.
        """
        fault = time.monotonic() < max(self._failed_until, self._full_until)
        return not (self.health_problem and (self.down_problem or self.handler.health_problem or fault))

    async def start(self, *, keep_trying: bool = False) -> None:
        """Start the handler. Raises what its `start` does; with `keep_trying` a task tries until it is up."""
        self._pause = FIRST_PAUSE_SECONDS
        self.is_tried.clear()
        if keep_trying:
            self.down_problem = "it is still starting"
            self._task = asyncio.create_task(self._bring_up(), name=f"emitd-start-{self.handler.name}")
        else:
            await self._start()

    async def stop(self) -> None:
        """Stop the handler, or the tries to start it."""
        task, self._task = self._task, None
        self.is_up.clear()
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        await self.handler.stop()

    def refuse_if_down(self) -> None:
        """Raise HandlerUnavailable if the handler is down."""
        if self.down_problem:
            problem = f"handler '{self.handler.name}' is down: {self.down_problem}"
            raise HandlerUnavailable(problem, retry_after_seconds=max(1.0, self._pause))

    async def emit_batch(self, records: Sequence[LogRecord]) -> Outcomes:
        """Return the handler's outcomes. An exception, or a wrong number of outcomes, refuses all records.

        Only the cancellation of the calling task itself is passed on.
        """
        try:
            self.refuse_if_down()
            outcomes = Outcomes.of(await self.handler.emit_batch(records))
            if len(outcomes) != len(records):
                raise HandlerUnavailable(
                    f"handler '{self.handler.name}' gave {len(outcomes)} outcomes for {len(records)} records"
                )
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            _pass_on_own_cancellation(error)
            outcomes = Outcomes.of([self.handler.refusal(error)] * len(records))
        if (outcomes.exceptional or self._failure) and not self.down_problem:
            self._judge(outcomes)
        return outcomes

    def note_failure(self, problem: str, seconds: float = 0.0) -> None:
        """Take note that the handler failed, and that it will not be called for `seconds`."""
        self._failure, self._failed_at = problem, time.monotonic()
        self._failed_until = time.monotonic() + seconds + FAULT_SECONDS

    def note_full_queue(self) -> None:
        """Take note that a record was dropped because the handler's queue is full."""
        self._full_until = time.monotonic() + FAULT_SECONDS

    def _judge(self, outcomes: Outcomes) -> None:
        """Decide from the outcomes of a batch whether the handler works: it does if it has taken a record."""
        errors = [each.error for each in outcomes.exceptional.values() if isinstance(each, Refused)]
        if len(errors) < len(outcomes):
            self._failure, self._failed_until = "", 0.0
        elif faults := [error for error in errors if not isinstance(error, _NO_FAULT)]:
            self.note_failure(str(faults[-1]))

    async def _start(self) -> None:
        self.handler.restart_problem = ""
        self.handler.report_health("")
        await self.handler.start()
        if self._on_start is not None:
            await self._on_start()
        if self.handler.restart_problem:
            raise HandlerUnavailable(self.handler.restart_problem)
        self.down_problem = self._failure = ""
        self._failed_until, self._up_since = 0.0, time.monotonic()
        self.is_up.set()
        self.is_tried.set()

    async def _bring_up(self, was_up: bool = False) -> None:
        """Start the handler until that succeeds; before each further try, stop it and pause."""
        begun, is_again = time.monotonic(), was_up
        while not self.is_up.is_set():
            if is_again:
                await self._stop_handler()
                pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause)
            try:
                await self._start()
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                _pass_on_own_cancellation(error)
                self._go_down(words_of(error) + _advice(error))
                is_again = True
                self.is_tried.set()
        if is_again or time.monotonic() - begun > START_SECONDS:
            self._report(f"handler '{self.handler.name}' is up")
        with suppress(Exception):  # the handler is up, whatever it says
            if line := self.handler.introduction():
                self._report(line)

    async def _stop_handler(self) -> None:
        """Stop the handler, however long it takes: it may hold what the next start needs."""
        try:
            await self.handler.stop()
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            _pass_on_own_cancellation(error)
            self._report(f"handler '{self.handler.name}' failed while closing: {escape(words_of(error))}")

    def _on_handler(self) -> None:
        if self.handler.restart_problem and self.is_up.is_set():
            if time.monotonic() - self._up_since > LONGEST_PAUSE_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self._go_down(self.handler.restart_problem)
            name = f"emitd-restart-{self.handler.name}"
            self._task = asyncio.create_task(self._bring_up(was_up=True), name=name)

    def _go_down(self, problem: str) -> None:
        if problem != self.down_problem:
            self._report(f"handler '{self.handler.name}' is down, and will be tried again: {escape(problem)}")
        self.down_problem = problem
        self.is_up.clear()


def _pass_on_own_cancellation(error: BaseException) -> None:
    """Raise `error` again if it is the cancellation of the current task itself."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error


def _advice(error: BaseException) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    if (
        isinstance(cause, OSError)
        and cause.filename
        and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    ):
        return "; give a path that this user may write to, such as ${STATE_DIRECTORY:-.}/logs/FILE"
    return ""


def words_of(error: BaseException) -> str:
    """Return the text of an error that was made for people, and the type too of any other."""
    return str(error) if isinstance(error, (EmitdError, OSError)) and str(error) else describe(error)
