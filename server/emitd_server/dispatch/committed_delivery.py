"""`CommittedDelivery`: gives records to a handler directly, so that the sender waits for the commit.

The dispatcher starts a delivery, gives it records by `take`, and at the end calls `drain`, `abandon` and `stop`. A
delivery never raises for a handler's failure.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import inf

import msgspec

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.columns import columns_of
from emitd_handlers.diagnostics import Report, Throttle
from emitd_handlers.errors import (
    HandlerTimeout,
    HandlerUnavailable,
)
from emitd_handlers.outcome import Outcomes, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import CommittedSettings, Delivery
from emitd_server.dispatch.handler_life import HandlerLife
from emitd_server.dispatch.idempotency_window import IdempotencyWindow
from emitd_server.memory import Charge, MemoryAccount, records_bytes

#: The first failure is reported at once, the next ones together after this time.
REPORT_INTERVAL_SECONDS = 10.0


class _Call(msgspec.Struct, eq=False):
    """What a caller waits for."""

    records: Sequence[LogRecord]
    answer: asyncio.Future[Outcomes]
    #: By the loop's clock.
    came_at: float
    #: For its records, once the caller is gone while they are being committed.
    charge: Charge | None = None


class CommittedDelivery:
    """Gives records to one committed handler, each once, and waits for its outcomes up to a timeout.

    If the handler `joins_calls`, those that come while a group of calls is under way are the next group, one batch. A
    full group begins at once. A call that is large goes by itself and overlaps; so does one with copies, which may take
    several commits, and each call of another handler. None overtakes one that came before it.

    A commit runs in its own task and is never cancelled: when the timeout passes or the caller goes away, only the
    waiting ends, and the outcome still enters the window. From then on its records are charged to `memory`; before,
    they are its caller's. A call that ends before its group has begun is not committed.
    """

    kind = Delivery.COMMITTED

    def __init__(
        self,
        handler: BaseLogHandler,
        settings: CommittedSettings,
        window_capacity: int,
        report: Report,
        memory: MemoryAccount,
    ) -> None:
        self.handler = handler
        self.life = HandlerLife(handler, report, self._restore)
        self.levels = frozenset(level for level in Level if handler.can_handle(level))
        self._settings = settings
        self._window = IdempotencyWindow(window_capacity)
        #: Records by outcome: `committed`, `duplicate`, `refused`, `timeout`.
        self.counts: Counter[str] = self._window.counts
        self._window_capacity = window_capacity
        self._report = report
        self._memory = memory
        self._throttle = Throttle(REPORT_INTERVAL_SECONDS)
        #: The calls that have no outcome yet, in order.
        self._calls: dict[_Call, None] = {}
        #: Those of them whose group has not begun, and how much of a group they fill.
        self._waiting: dict[_Call, None] = {}
        self._fill = 0.0
        self._tasks: set[asyncio.Task[Outcomes]] = set()
        #: The task of the last group that has begun, until it ends.
        self._group: asyncio.Task[Outcomes] | None = None
        #: What begins the next group at the latest, and the number of calls that it waits for.
        self._beginning: asyncio.Handle | None = None
        self._wanted = 0
        handler.longest_wait = self._longest_wait

    async def start(self, *, keep_trying: bool = False) -> None:
        """Start the handler, and restore the window from its last commits. `keep_trying`: as for its life."""
        await self.life.start(keep_trying=keep_trying)

    async def take(self, records: Sequence[LogRecord], size: float = inf) -> Outcomes:
        """Return the handler's outcome for each record, in order; never raises for a handler's failure.

        `size`: the bytes of their request; if it is infinite, they are not joined with others.
        """
        loop = asyncio.get_running_loop()
        call = _Call(records, loop.create_future(), loop.time())
        timer = loop.call_at(call.came_at + self._settings.timeout_seconds, self._time_out, call)
        self._calls[call] = None
        limits = self._settings
        share = max(len(records) / limits.max_group_records, size / limits.max_group_bytes)
        self._enqueue(call, share if self.handler.joins_calls else inf)
        try:
            return await call.answer
        finally:
            timer.cancel()
            if call in self._waiting:
                del self._waiting[call]
                self._forget(call)
            elif call in self._calls:
                call.charge = self._memory.add(sum(records_bytes(records)))

    async def drain(self) -> None:
        """Wait until no call waits and no commit is under way."""
        while self._tasks or self._waiting:
            self._begin()
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """End the commits still under way, then stop the handler."""
        self._begin()
        for task in self._tasks:
            task.cancel()
        await self.life.stop()

    def abandon(self) -> int:
        """Return how many records the calls hold that wait or are being committed. Any thread may call this."""
        return sum([len(call.records) for call in list(self._calls)])

    def _enqueue(self, call: _Call, share: float) -> None:
        """Have a call wait that takes this share of a group; if it takes more than one group, it goes by itself."""
        if self._fill + share > 1:
            self._begin()
        if share > 1:
            self._start([call])
            return
        self._fill += share
        self._waiting[call] = None
        if self._wanted and len(self._waiting) >= self._wanted:
            self._begin()
        elif self._group is None and self._beginning is None:
            self._beginning = asyncio.get_running_loop().call_soon(self._begin)  # first, others may come

    def _begin(self) -> None:
        """Begin a group of the calls that wait. One with copies may take several commits, so it goes by itself."""
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        calls, self._waiting = self._waiting, {}
        self._fill = self._wanted = 0
        seen: set[str] = set()
        for are_new, run in groupby(calls, lambda call: self._window.are_new(call.records, seen)):
            if are_new:
                self._group = self._start(list(run))
            else:
                for call in run:
                    self._start([call])

    def _start(self, calls: Sequence[_Call]) -> asyncio.Task[Outcomes]:
        first, *rest = [columns_of(call.records) for call in calls]
        records = first.joined_with(rest)
        task = asyncio.get_running_loop().create_task(self._window.commit_once(records, self._emit_batch))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._on_end(task, calls))
        return task

    def _on_end(self, task: asyncio.Task[Outcomes], calls: Sequence[_Call]) -> None:
        """Answer the calls, and let the next group gather."""
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        end = 0
        for call in calls:
            start, end = end, end + len(call.records)
            self._forget(call)
            if error is None and not call.answer.done():
                call.answer.set_result(task.result().part(start, end))
            elif error and not call.answer.done():  # a bug, or the delivery is stopped
                call.answer.set_exception(error)
        if task is self._group:
            self._group = None
            self._wanted = len(calls) + len(self._waiting)
            linger_seconds = self._settings.linger_ms / 1000
            self._beginning = asyncio.get_running_loop().call_later(linger_seconds, self._begin)

    def _forget(self, call: _Call) -> None:
        del self._calls[call]
        if call.charge is not None:
            call.charge.release()

    def _time_out(self, call: _Call) -> None:
        if call.answer.done():
            return
        self.counts["timeout"] += len(call.records)
        late = HandlerTimeout(
            f"handler '{self.handler.name}' did not answer within {self._settings.timeout_seconds:g} s"
        )
        self.life.note_failure(str(late))
        call.answer.set_result(Outcomes.of([Refused(late)] * len(call.records)))

    def _longest_wait(self) -> float:
        oldest = next(iter(self._calls), None)
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest.came_at

    async def _restore(self) -> None:
        self._window.restore(await self.handler.recent_commits(self._window_capacity))

    async def _emit_batch(self, records: Sequence[LogRecord]) -> Outcomes:
        outcomes = await self.life.emit_batch(records)
        last = outcomes.exceptional.get(len(outcomes) - 1)
        if (
            isinstance(last, Refused)
            and isinstance(last.error, HandlerUnavailable)
            and not self.life.down_problem  # which was reported
            and self._throttle.is_due()
        ):
            self._report(str(last.error))
        return outcomes
