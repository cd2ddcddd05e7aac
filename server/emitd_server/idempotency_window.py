"""Which records a handler has taken lately: the memory that makes a retry harmless."""

import asyncio
from collections import Counter, deque
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
_AUDIT = Level.AUDIT

Commit: TypeAlias = Callable[[Sequence[LogRecord]], Awaitable[Sequence[Outcome]]]


class IdempotencyWindow:
    """Remembers the last `capacity` ids given by senders, each with its record's fingerprint and receipt.

    Ids that the server assigned are not remembered: no sender can repeat one before it has the receipt. With
    ids of 36 characters an id takes about 0.5 kB of memory for an audit event, 0.4 kB for a job report and
    0.25 kB for a log line.
    """

    def __init__(self, capacity: int) -> None:
        #: Records by what became of them: `committed`, `duplicate`, `refused`.
        self.counts: Counter[str] = Counter()
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
        keys, owners = _keys_of_all(records)
        if self._are_new(keys):
            return await self._commit(records, keys, owners, commit)
        outcomes: dict[int, Outcome] = {}
        todo: Sequence[int] = range(len(records))
        while todo:
            todo = await self._commit_some(records, todo, commit, outcomes)
        return [outcomes[index] for index in range(len(records))]

    def take_new(self, records: Sequence[LogRecord]) -> Sequence[Outcome | None]:
        """Remember the records that are new, at once, and return None for each; for others the answer.

        For a queued handler, which has a record as soon as its queue has it.
        """
        keys, owners = _keys_of_all(records)
        if self._are_new(keys):
            self._entries.update(
                zip(keys, [(records[owner].fingerprint, None) for owner in owners], strict=True)
            )
            self._order.extend(keys)
            self._evict()
            return [None] * len(records)
        answers = [self._take_one(record) for record in records]
        self._evict()
        return answers

    def _take_one(self, record: LogRecord) -> Outcome | None:
        known = self._find(record)
        assert not isinstance(known, asyncio.Event), "a queued handler has no commits under way"
        if known is None:
            keys = _keys(record)
            self._entries.update(dict.fromkeys(keys, (record.fingerprint, None)))
            self._order.extend(keys)
        return known

    async def _commit_some(
        self, records: Sequence[LogRecord], todo: Sequence[int], commit: Commit, outcomes: dict[int, Outcome]
    ) -> Sequence[int]:
        """Settle what can be settled now; return the indexes of copies that waited for another commit."""
        fresh: dict[int, LogRecord] = {}
        claimed: set[Key] = set()
        copies: list[int] = []
        under_way: list[asyncio.Event] = []
        for index in todo:
            record = records[index]
            known = self._find(record)
            if isinstance(known, asyncio.Event):
                copies.append(index)
                under_way.append(known)
            elif known is not None:
                outcomes[index] = known
                self.counts["duplicate" if type(known) is Committed else "refused"] += 1
            elif claimed.isdisjoint(_keys(record)):
                fresh[index] = record
                claimed.update(_keys(record))
            else:
                copies.append(index)
        if fresh:
            batch = list(fresh.values())
            committed = await self._commit(batch, *_keys_of_all(batch), commit)
            outcomes.update(zip(fresh, committed, strict=True))
        for done in under_way:
            await done.wait()
        return copies

    async def _commit(
        self, records: Sequence[LogRecord], keys: Sequence[Key], owners: Sequence[int], commit: Commit
    ) -> Sequence[Outcome]:
        """Commit new records: claim their keys, then remember those committed and free the others.

        `owners` has for each key the index of its record.
        """
        entries = self._entries
        done = asyncio.Event()
        entries.update(dict.fromkeys(keys, done))
        outcomes: Sequence[Outcome] = ()
        try:
            outcomes = await commit(records)
        finally:
            # The hot path: once for each record.
            freed: set[Key] = set()
            for key, owner in zip(keys, owners, strict=True):
                outcome = outcomes[owner] if outcomes else None
                if type(outcome) is Committed:
                    entries[key] = (records[owner].fingerprint, outcome.receipt)
                else:
                    del entries[key]
                    freed.add(key)
            self._order.extend([key for key in keys if key not in freed] if freed else keys)
            self._evict()
            done.set()
        refused = sum([type(outcome) is Refused for outcome in outcomes])
        self.counts["committed"] += len(outcomes) - refused
        self.counts["refused"] += refused
        return outcomes

    def _are_new(self, keys: Sequence[Key]) -> bool:
        """Whether no key is known and none comes twice; a few calls, whatever the size of the batch."""
        return self._entries.keys().isdisjoint(keys) and len(set(keys)) == len(keys)

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

    def _evict(self) -> None:
        order, entries = self._order, self._entries
        for _ in range(len(order) - self._capacity):
            del entries[order.popleft()]


def _keys(record: LogRecord) -> tuple[Key, ...]:
    """The ids by which the sender can repeat this record."""
    record_id = record.record_id
    if record.level is not _AUDIT or "event_id" in record.assigned:
        return (record_id,) if record_id else ()
    event_key = (record.payload.event_id,)  # type: ignore[union-attr]  # AUDIT carries an AuditEvent
    return (record_id, event_key) if record_id else (event_key,)


def _keys_of_all(records: Sequence[LogRecord]) -> tuple[Sequence[Key], Sequence[int]]:
    """The keys of a batch, and for each the index of its record."""
    ids = [record.record_id for record in records]
    if all(ids) and not any(
        [record.level is _AUDIT and "event_id" not in record.assigned for record in records]
    ):
        return ids, range(len(records))
    keys: list[Key] = []
    owners: list[int] = []
    for index, record in enumerate(records):
        for key in _keys(record):
            keys.append(key)
            owners.append(index)
    return keys, owners
