"""The way of records to a handler that must commit them before the sender gets its reply."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerBusy, HandlerTimeout, HandlerUnavailable
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery
from emitd_server.diagnostics import Report
from emitd_server.dispatch.handler_call import call_handler
from emitd_server.dispatch.idempotency_window import IdempotencyWindow

__all__ = ["CommittedDelivery"]

REPORT_INTERVAL_SECONDS = 10.0


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Do not look for garbage among the hundred thousands of objects that are made now to stay: it takes a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CommittedDelivery:
    """Hands records to one committed handler, each once, and waits for its outcomes, but not for ever.

    A commit runs in a task of its own that nobody cancels: when the timeout passes or the caller goes away,
    only the waiting ends, and the outcome still enters the window.
    """

    kind = Delivery.COMMITTED

    def __init__(self, handler: BaseLogHandler, window_capacity: int, report: Report) -> None:
        self.handler = handler
        self.levels = frozenset(level for level in Level if handler.can_handle(level))
        self._window = IdempotencyWindow(window_capacity)
        #: Records by what became of them: `committed`, `duplicate`, `refused`, `busy`, `timeout`.
        self.counts: Counter[str] = self._window.counts
        self._window_capacity = window_capacity
        self._report = report
        self._last_report: float | None = None
        self._in_flight = 0
        self._tasks: set[asyncio.Task[Sequence[Outcome]]] = set()

    async def start(self) -> None:
        """Start the handler, and learn what it committed before."""
        await self.handler.start()
        with _no_garbage():
            self._window.restore(await self.handler.recent_commits(self._window_capacity))

    async def take(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Return the handler's outcome for each record, in order; never raises for a handler's failure."""
        settings = self.handler.settings
        if self._in_flight and self._in_flight + len(records) > settings.max_in_flight:
            self.counts["busy"] += len(records)
            busy = HandlerBusy(f"handler '{self.handler.name}' has {self._in_flight} records in flight")
            return [Refused(busy)] * len(records)
        task = asyncio.get_running_loop().create_task(self._commit_all(records))
        self._tasks.add(task)
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                return await asyncio.shield(task)
        except TimeoutError:
            self.counts["timeout"] += len(records)
            late = HandlerTimeout(
                f"handler '{self.handler.name}' did not answer within {settings.timeout_seconds:g} s"
            )
            return [Refused(late)] * len(records)

    async def drain(self) -> None:
        """Wait until no commit is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """Stop the handler. Commits still under way are abandoned."""
        await self.handler.stop()

    def abandon(self) -> int:
        """Give up on the commits under way; return how many records they hold."""
        for task in self._tasks:
            task.cancel()
        return self._in_flight

    async def _commit_all(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        self._in_flight += len(records)
        try:
            return await self._window.commit_once(records, self._emit_batch)
        finally:
            self._in_flight -= len(records)
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)

    async def _emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        outcomes = await call_handler(self.handler, records)
        last = outcomes[-1]
        if type(last) is Refused and isinstance(last.error, HandlerUnavailable):
            self._report_failure(str(last.error))
        return outcomes

    def _report_failure(self, what: str) -> None:
        """Tell the operator of a handler that does not commit, at once and then at most so often."""
        now = asyncio.get_running_loop().time()
        if self._last_report is None or now - self._last_report >= REPORT_INTERVAL_SECONDS:
            self._last_report = now
            self._report(what)
