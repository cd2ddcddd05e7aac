"""`ClockWatch`: reports that the machine's clock was set, and writes it into the audit trail."""

import asyncio

from emitd_handlers.clock import NANOS_A_SECOND, STEP_NANOS, Clock, StepWatch
from emitd_handlers.diagnostics import Report
from emitd_server.dispatch.own_events import OwnEvents

LOOK_SECONDS = 0.5


class ClockWatch:
    """Started and stopped by its dispatcher."""

    def __init__(self, clock: Clock, report: Report, events: OwnEvents) -> None:
        self._clock = clock
        self._report = report
        self._events = events
        self._steps = StepWatch(clock)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, in the running event loop."""
        self._steps.look()
        behind = self._clock.now() - self._clock.wall()
        if behind >= STEP_NANOS:
            self._report(
                f"the clock is {_seconds(behind)} s behind the last time of receipt: until it has caught up, "
                "times of receipt run at half speed"
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
            old_offset = self._steps.offset
            if step := self._steps.look():
                self._note(step, old_offset)
            await asyncio.sleep(LOOK_SECONDS)

    def _note(self, step: int, old_offset: int) -> None:
        message = f"the clock was set by {_seconds(step):+} s"
        self._report(f"{message}: times of receipt never go back, and leases are set right")
        details = {
            "step_seconds": _seconds(step),
            "old_offset_seconds": _seconds(old_offset),
            "new_offset_seconds": _seconds(self._steps.offset),
        }
        self._events.add("emitd.clock.step", message, details)


def _seconds(nanos: int) -> float:
    return round(nanos / NANOS_A_SECOND, 3)
