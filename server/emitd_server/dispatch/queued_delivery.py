"""`QueuedDelivery`: gives records to a handler through a bounded queue; see `committed_delivery` for how it lives."""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from math import inf

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.diagnostics import Report, Throttle
from emitd_handlers.errors import (
    HandlerError,
    RetryableError,
)
from emitd_handlers.outcome import Committed, Outcomes
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, OverflowPolicy, QueuedSettings
from emitd_handlers.text.escape import escape
from emitd_server.dispatch.handler_life import HandlerLife
from emitd_server.dispatch.idempotency_window import IdempotencyWindow
from emitd_server.memory import MemoryAccount, records_bytes

#: The first failure or drop is reported at once, the next ones together after this time.
REPORT_INTERVAL_SECONDS = 10.0
#: A queued handler gets no more than this at once, or one record.
MAX_OFFERED_BYTES = 4 * 1024 * 1024


class QueuedDelivery:
    """Keeps records for one queued handler and offers them in batches, in order, with retries.

    A record that the queue cannot hold, or that the handler refuses for good, is dropped and counted by cause.
    """

    kind = Delivery.QUEUED

    def __init__(
        self,
        handler: BaseLogHandler,
        settings: QueuedSettings,
        window_capacity: int,
        report: Report,
        memory: MemoryAccount,
    ) -> None:
        self.handler = handler
        self.life = HandlerLife(handler, report)
        self.levels = frozenset(level for level in Level if handler.can_handle(level))
        self._settings = settings
        #: Records by outcome: `accepted`, `duplicate`, `delivered`, `retried`, and for those
        #: dropped `dropped_queue_full`, `dropped_refused`, `dropped_retries_exhausted`, `dropped_at_stop`.
        self.counts: Counter[str] = Counter()
        self._window = IdempotencyWindow(window_capacity)
        self._report = report
        #: Charged for every record from when it is queued to when the handler has answered for it.
        self._memory = memory
        self._queue: deque[LogRecord] = deque()
        #: The size of each record of the queue. Not in one tuple with it, which the garbage collector would track.
        self._sizes: deque[int] = deque()
        #: What the queued and the offered records take.
        self._bytes = 0
        self._offered = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unreported: Counter[str] = Counter()
        #: Why the handler refused what was last dropped, by cause.
        self._reasons: dict[str, str] = {}
        self._throttle = Throttle(REPORT_INTERVAL_SECONDS)

    async def start(self, *, keep_trying: bool = False) -> None:
        """Start the handler and the task that feeds it. `keep_trying`: as for its life."""
        await self.life.start(keep_trying=keep_trying)
        self._task = asyncio.create_task(self._feed(), name=f"emitd-queue-{self.handler.name}")

    async def take(self, records: Sequence[LogRecord], size: float = inf) -> Outcomes:
        """Queue the records that are new; return `Committed` for each, and the first outcome for the others.

        Waits for room only if the handler's `overflow` is `block`. A dropped record is not refused: the sender
        could not do anything about it.
        """
        answers = self._window.take_new(records)
        new = records
        if answers:
            new = [record for record, answer in zip(records, answers, strict=True) if answer is None]
        self.counts["accepted"] += len(new)
        self.counts["duplicate"] += len(records) - len(new)
        await self._put(new)
        known = {place: answer for place, answer in enumerate(answers) if answer is not None}
        return Outcomes(len(records), lambda place: None, known)

    async def drain(self) -> None:
        """Wait until the queue is empty and the handler has answered for all of it."""
        while self._queue or self._offered:
            self._idle.clear()
            await self._idle.wait()

    async def stop(self) -> None:
        """End the feeding task, then stop the handler."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self.life.stop()

    def abandon(self) -> int:
        """Drop and count the queued records; return how many they were. Report the drops not reported yet.

        Any thread may call this.
        """
        left = len(self._queue) + self._offered
        self._queue.clear()
        self._offered = 0
        self._sizes.clear()
        self._hold(-self._bytes)
        if left:
            self.counts["dropped_at_stop"] += left
        self._report_drops()
        return left

    async def _put(self, records: Sequence[LogRecord]) -> None:
        """Queue records, in order; the policy says what happens to each that finds no room."""
        sizes = records_bytes(records)
        total = sum(sizes)
        if (
            len(self._queue) + len(records) <= self._settings.max_records
            and self._bytes + total <= self._settings.max_bytes
        ):
            self._queue.extend(records)
            self._sizes.extend(sizes)
            self._hold(total)
            self._more.set()
            return
        policy = self._settings.overflow
        give_up_at = asyncio.get_running_loop().time() + self._settings.block_seconds
        dropped = 0
        for record, size in zip(records, sizes, strict=True):
            while not self._has_room(size):
                if policy is OverflowPolicy.DROP_OLDEST:
                    self._queue.popleft()
                    self._hold(-self._sizes.popleft())
                    dropped += 1
                elif policy is OverflowPolicy.DROP_NEWEST or not await self._room_comes(give_up_at):
                    dropped += 1
                    break
            else:
                self._queue.append(record)
                self._sizes.append(size)
                self._hold(size)
        self._more.set()
        if dropped:
            self.life.note_full_queue()
        self._drop("queue_full", dropped)

    def _has_room(self, size: int) -> bool:
        if not self._queue:
            return True
        return (
            len(self._queue) < self._settings.max_records and self._bytes + size <= self._settings.max_bytes
        )

    async def _room_comes(self, give_up_at: float) -> bool:
        """Wait for records to leave the queue; return whether some did by `give_up_at`."""
        self._more.set()
        self._room.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(give_up_at):
                return await self._room.wait()
        return False

    def _hold(self, size: int) -> None:
        self._bytes += size
        self._memory.held_more(size)

    async def _feed(self) -> None:
        while True:
            if not self._queue:
                self._idle.set()
                self._more.clear()
                await self._more.wait()
            batch, size = self._next_batch()
            self._room.set()
            self._offered = len(batch)
            await self._deliver(batch)
            self._offered = 0
            self._hold(-size)
            self._room.set()

    def _next_batch(self) -> tuple[Sequence[LogRecord], int]:
        """Return the records to offer next, and their size."""
        count = min(len(self._queue), self._settings.batch_size)
        size = sum(islice(self._sizes, count))
        while size > MAX_OFFERED_BYTES and count > 1:
            count -= 1
            size -= self._sizes[count]
        for _ in range(count):
            self._sizes.popleft()
        return [self._queue.popleft() for _ in range(count)], size

    async def _deliver(self, batch: Sequence[LogRecord]) -> None:
        """Offer a batch until the handler has taken or finally refused each of its records."""
        settings = self._settings
        pause = settings.retry_initial_seconds
        for attempt in range(settings.max_retries + 1):
            await self.life.is_up.wait()
            outcomes = await self.life.emit_batch(batch)
            batch, error = self._resolve(batch, outcomes)
            if error is None:
                return
            if attempt < settings.max_retries:
                self.counts["retried"] += len(batch)
                wait = min(max(pause, error.wanted_wait_seconds), settings.retry_max_seconds)
                self.life.note_failure(str(error), wait)
                await asyncio.sleep(wait)
                pause = min(pause * 2, settings.retry_max_seconds)
        self._drop("retries_exhausted", len(batch), error)

    def _resolve(
        self, batch: Sequence[LogRecord], outcomes: Outcomes
    ) -> tuple[Sequence[LogRecord], RetryableError | None]:
        """Count the final outcomes; return the records to offer again, and the last one's error."""
        again: list[LogRecord] = []
        error: RetryableError | None = None
        reason: HandlerError | None = None
        refused = 0
        for index, outcome in outcomes.exceptional.items():
            if isinstance(outcome, Committed):
                continue
            if isinstance(outcome.error, RetryableError):
                again.append(batch[index])
                error = outcome.error
            else:
                refused += 1
                reason = outcome.error
        self.counts["delivered"] += len(batch) - refused - len(again)
        self._drop("refused", refused, reason)
        return again, error

    def _drop(self, cause: str, count: int, error: HandlerError | None = None) -> None:
        if not count:
            return
        if error is not None:
            self._reasons[cause] = f" (last: {escape(str(error))})"
        self.counts[f"dropped_{cause}"] += count
        self._unreported[cause] += count
        if self._throttle.is_due():
            self._report_drops()

    def _report_drops(self) -> None:
        """Report the drops not reported yet."""
        for cause, count in self._unreported.items():
            reason = self._reasons.pop(cause, "")
            self._report(f"handler '{self.handler.name}' dropped {count} records: {cause}{reason}")
        self._unreported.clear()
