"""`OwnEvents`: writes what the service itself has to say into the audit trail."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from emitd_handlers.clock import Clock
from emitd_handlers.diagnostics import Report
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import UNKNOWN_ADDRESS, AuditEvent, Level, LogRecord
from emitd_handlers.text.uuid7 import uuid7
from emitd_server.errors import NoHandler, ServiceStopping

#: Events that wait while the trail cannot take them; more are counted and reported.
MAX_WAITING = 1000
RETRY_SECONDS = 0.5

Dispatch = Callable[[Sequence[LogRecord]], Awaitable[Sequence[Outcome]]]


class OwnEvents:
    """Started and stopped by its dispatcher. Without a handler for audit events there is no trail to write into."""

    def __init__(self, clock: Clock, report: Report, dispatch: Dispatch) -> None:
        self._clock = clock
        self._report = report
        self._dispatch = dispatch
        self._waiting: deque[LogRecord] = deque()
        #: Events that were lost because the trail could not take them.
        self.lost = 0
        self._added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, event_name: str, message: str, details: Mapping[str, object]) -> None:
        """Write an event soon, from the service's event loop. Never raises, never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._lose(f"{MAX_WAITING} wait already")
            return
        now = self._clock.now()
        details_json = msgspec.json.encode(details).decode()
        event = AuditEvent(uuid7(), event_name, "emitd", UNKNOWN_ADDRESS, details_json)
        record = LogRecord(Level.AUDIT, message, event.event_id, now, now, "emitd", payload=event)
        self._waiting.append(record)
        self._added.set()

    def start(self) -> None:
        """Begin to write, in the running event loop."""
        self._task = asyncio.create_task(self._run(), name="emitd-own-events")

    async def stop(self) -> None:
        """Write what waits, once more, and then no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not await self._write():
                self._lose(f"{len(self._waiting)} could not be written before the end", len(self._waiting))

    async def _run(self) -> None:
        while True:
            await self._added.wait()
            self._added.clear()
            if not await self._write():
                await asyncio.sleep(RETRY_SECONDS)
                self._added.set()

    async def _write(self) -> bool:
        """Return whether nothing is left to write."""
        while self._waiting:
            try:
                (outcome,) = await self._dispatch([self._waiting[0]])
            except ServiceStopping:
                return True
            if isinstance(outcome, Refused) and not isinstance(outcome.error, NoHandler):
                if outcome.error.retry_after_seconds is not None:
                    return False
                self._lose(str(outcome.error))
            self._waiting.popleft()
        return True

    def _lose(self, why: str, count: int = 1) -> None:
        self.lost += count
        if self.lost.bit_count() == 1 or count > 1:  # the 1st, 2nd, 4th, 8th
            self._report(f"the trail lacks {self.lost} of the service's own events: {why}")
