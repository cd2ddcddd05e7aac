"""`ClockWatch`: reports that the machine's clock was set, and writes it into the audit trail."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from emitd_handlers.clock import NANOS_A_SECOND, STEP_NANOS, Clock, StepWatch
from emitd_handlers.diagnostics import Report
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import UNKNOWN_ADDRESS, AuditEvent, Level, LogRecord
from emitd_handlers.text.uuid7 import uuid7
from emitd_server.errors import NoHandler, ServiceStopping

LOOK_SECONDS = 0.5

Dispatch = Callable[[Sequence[LogRecord]], Awaitable[Sequence[Outcome]]]


class ClockWatch:
    """Started and stopped by its dispatcher. A step that the trail cannot take now is tried again at each look."""

    def __init__(self, clock: Clock, report: Report, dispatch: Dispatch) -> None:
        self._clock = clock
        self._report = report
        self._dispatch = dispatch
        self._steps = StepWatch(clock)
        #: Steps that are not in the trail yet.
        self._events: list[LogRecord] = []
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
            await self._write()
            await asyncio.sleep(LOOK_SECONDS)

    def _note(self, step: int, old_offset: int) -> None:
        message = f"the clock was set by {_seconds(step):+} s"
        self._report(f"{message}: times of receipt never go back, and leases are set right")
        details = {
            "step_seconds": _seconds(step),
            "old_offset_seconds": _seconds(old_offset),
            "new_offset_seconds": _seconds(self._steps.offset),
        }
        details_json = msgspec.json.encode(details).decode()
        event = AuditEvent(uuid7(), "emitd.clock.step", "emitd", UNKNOWN_ADDRESS, details_json)
        now = self._clock.now()
        self._events.append(LogRecord(Level.AUDIT, message, event.event_id, now, now, "emitd", payload=event))

    async def _write(self) -> None:
        while self._events:
            try:
                (outcome,) = await self._dispatch(self._events[:1])
            except ServiceStopping:
                return
            if isinstance(outcome, Refused) and not isinstance(outcome.error, NoHandler):
                if outcome.error.retry_after_seconds is not None:
                    return
                self._report(f"the trail refused a step of the clock: {outcome.error}")
            del self._events[0]


def _seconds(nanos: int) -> float:
    return round(nanos / NANOS_A_SECOND, 3)
