"""Which records a handler has taken lately: the memory that makes a retry harmless."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from emitd_handlers.errors import RecordConflict
from emitd_handlers.outcome import Committed, Outcome, Receipt, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord

__all__ = ["IdempotencyWindow"]

#: A record_id, or an event_id in a tuple of its own, so that the two never meet.
Key: TypeAlias = str | tuple[str]
#: The record's fingerprint and its receipt.
Entry: TypeAlias = tuple[int, Receipt | None]
Commit: TypeAlias = Callable[[Sequence[LogRecord]], Awaitable[Sequence[Outcome]]]


class IdempotencyWindow:
    """Remembers the last `capacity` ids given by senders, each with its record's fingerprint and receipt.

    Ids that the server assigned are not remembered: no sender can repeat one before it has the receipt. With
    ids of 36 characters an id takes about 0.5 kB of memory for an audit event, 0.4 kB for a job report and
    0.25 kB for a log line.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        #: An entry for what was taken, an event for what is being committed now.
        self._entries: dict[Key, Entry | asyncio.Event] = {}
        self._order: deque[Key] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def restore(self, commits: Iterable[RecentCommit]) -> None:
        """Take over what a handler committed before it was started, oldest first."""
        for commit in commits:
            keys: list[Key] = [commit.record_id] if commit.record_id else []
            if commit.event_id:
                keys.append((commit.event_id,))
            for key in keys:
                if key not in self._entries:
                    self._entries[key] = (commit.fingerprint, commit.receipt)
                    self._order.append(key)
        self._evict()

    async def commit_once(self, records: Sequence[LogRecord], commit: Commit) -> Sequence[Outcome]:
        """Give `commit` the records that are new, and answer the others from memory, in order.

        A copy of a record that is being committed, by this call or another, waits for that commit; if it
        fails, the copy is committed in its stead.
        """
        keys = _all_keys(records)
        if len(set(keys)) == len(keys) and self._entries.keys().isdisjoint(keys):
            # The common case, all new: a few calls whatever the size of the batch.
            done = asyncio.Event()
            self._entries.update(dict.fromkeys(keys, done))
            return await self._commit(records, commit, done)
        outcomes: dict[int, Outcome] = {}
        todo: Sequence[int] = range(len(records))
        while todo:
            todo = await self._commit_some(records, todo, commit, outcomes)
        return [outcomes[index] for index in range(len(records))]

    def take_new(self, records: Sequence[LogRecord]) -> Sequence[Outcome | None]:
        """Remember the records that are new, at once, and return None for each; for others the answer.

        For a queued handler, which has a record as soon as its queue has it.
        """
        keys = _all_keys(records)
        if len(set(keys)) == len(keys) and self._entries.keys().isdisjoint(keys):
            answers: list[Outcome | None] = [None] * len(records)
            for record in records:
                self._remember(record, None)
        else:
            answers = [self._take_one(record) for record in records]
        self._evict()
        return answers

    def _take_one(self, record: LogRecord) -> Outcome | None:
        known = self._find(record)
        assert not isinstance(known, asyncio.Event), "a queued handler has no commits under way"
        if known is None:
            self._remember(record, None)
        return known

    async def _commit_some(
        self, records: Sequence[LogRecord], todo: Sequence[int], commit: Commit, outcomes: dict[int, Outcome]
    ) -> Sequence[int]:
        """Settle what can be settled now; return the indexes of copies that waited for another commit."""
        done = asyncio.Event()
        fresh: list[int] = []
        under_way: list[tuple[int, asyncio.Event]] = []
        for index in todo:
            known = self._find(records[index])
            if known is None:
                fresh.append(index)
                self._entries.update(dict.fromkeys(_keys(records[index]), done))
            elif isinstance(known, asyncio.Event):
                under_way.append((index, known))
            else:
                outcomes[index] = known
        if fresh:
            committed = await self._commit([records[index] for index in fresh], commit, done)
            outcomes.update(zip(fresh, committed, strict=True))
        for _, other in under_way:
            await other.wait()
        return [index for index, _ in under_way]

    async def _commit(
        self, records: Sequence[LogRecord], commit: Commit, done: asyncio.Event
    ) -> Sequence[Outcome]:
        """Commit records whose keys are claimed with `done`, and turn the claims into entries."""
        try:
            outcomes = await commit(records)
        except BaseException:
            self._release(records)
            raise
        else:
            for record, outcome in zip(records, outcomes, strict=True):
                if type(outcome) is Committed:
                    self._remember(record, outcome.receipt)
                else:
                    self._release((record,))
            self._evict()
        finally:
            done.set()
        return outcomes

    def _find(self, record: LogRecord) -> Outcome | asyncio.Event | None:
        for key in _keys(record):
            entry = self._entries.get(key)
            if entry is None:
                continue
            if isinstance(entry, asyncio.Event):
                return entry
            if entry[0] == record.fingerprint:
                return Committed(entry[1], duplicate=True)
            if isinstance(key, str):
                return Refused(RecordConflict("record_id", key))
            return Refused(RecordConflict("audit.event_id", key[0]))
        return None

    def _remember(self, record: LogRecord, receipt: Receipt | None) -> None:
        entry = (record.fingerprint, receipt)
        for key in _keys(record):
            self._entries[key] = entry
            self._order.append(key)

    def _release(self, records: Sequence[LogRecord]) -> None:
        for key in _all_keys(records):
            del self._entries[key]

    def _evict(self) -> None:
        order, entries = self._order, self._entries
        for _ in range(len(order) - self._capacity):
            del entries[order.popleft()]


def _keys(record: LogRecord) -> tuple[Key, ...]:
    """The ids by which the sender can repeat this record."""
    record_id = record.record_id
    if record.level is not Level.AUDIT or "event_id" in record.assigned:
        return (record_id,) if record_id else ()
    event_key = (record.payload.event_id,)  # type: ignore[union-attr]  # AUDIT carries an AuditEvent
    return (record_id, event_key) if record_id else (event_key,)


def _all_keys(records: Sequence[LogRecord]) -> list[Key]:
    return [key for record in records for key in _keys(record)]
