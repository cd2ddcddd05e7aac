"""`ClockWatch`: reports that the machine's clock was set, and writes it into the audit trail."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from emitd_handlers.clock import NANOS_A_SECOND, STEP_NANOS, Clock, StepWatch
from emitd_handlers.diagnostics import Report
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import UNKNOWN_ADDRESS, AuditEvent, Level, LogRecord
from emitd_handlers.text.uuid7 import uuid7

LOOK_SECONDS = 0.5


class ClockWatch:
    """Started and stopped by its dispatcher. A step that the trail cannot take now is tried again at each look."""

    def __init__(
        self,
        clock: Clock,
        report: Report,
        dispatch: Callable[[Sequence[LogRecord]], Awaitable[Sequence[Outcome]]],
        *,
        has_trail: Callable[[], bool],
    ) -> None:
        """`has_trail`: whether any handler takes audit events; without one a step is only reported."""
        self._clock = clock
        self._report = report
        self._dispatch = dispatch
        self._has_trail = has_trail
        self._steps = StepWatch(clock)
        self._events: deque[LogRecord] = deque()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, in the running event loop."""
        self._steps.look()
        behind = self._clock.now() - self._clock.wall()
        if behind >= STEP_NANOS:
            self._report(
                f"the clock is {_seconds(behind)} s behind the last time of receipt: until it has caught up, "
                "these times run at half speed"
            )
        self._task = asyncio.create_task(self._run(), name="emitd-clock-watch")

    async def stop(self) -> None:
        """Look no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            self._look()
            await self._write()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        old_offset = self._steps.offset
        step = self._steps.look()
        if not step:
            return
        seconds = _seconds(step)
        self._report(
            f"the clock was set by {seconds:+} s: times of receipt never go back, and leases are set right"
        )
        details = {
            "step_seconds": seconds,
            "old_offset_seconds": _seconds(old_offset),
            "new_offset_seconds": _seconds(self._steps.offset),
        }
        event_id, now = uuid7(), self._clock.now()
        event = AuditEvent(
            event_id, "emitd.clock.step", "emitd", UNKNOWN_ADDRESS, msgspec.json.encode(details).decode()
        )
        if self._has_trail():
            message = f"the clock was set by {seconds:+} s"
            self._events.append(LogRecord(Level.AUDIT, message, event_id, now, now, "emitd", payload=event))

    async def _write(self) -> None:
        while self._events:
            (outcome,) = await self._dispatch([self._events[0]])
            if isinstance(outcome, Refused):
                if outcome.error.retry_after_seconds is not None:
                    return
                self._report(f"the step of the clock could not be written into the trail: {outcome.error}")
            self._events.popleft()


def _seconds(nanos: int) -> float:
    return round(nanos / NANOS_A_SECOND, 3)
