"""Which records a handler has taken lately: the memory that makes a retry harmless."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import TypeAlias

from emitd_handlers.errors import RecordConflict
from emitd_handlers.outcome import Committed, Outcome, Outcomes, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord

__all__ = ["SMALL_BATCH_KEYS", "IdempotencyWindow"]

#: A record_id, or an event_id in a tuple of its own, so that the two never meet.
Key: TypeAlias = str | tuple[str]
Commit: TypeAlias = Callable[[Sequence[LogRecord]], Awaitable[Outcomes]]

_AUDIT = Level.AUDIT


class _Batch:
    """Records that were taken together: all that is known of them, in one object, however many they are."""

    __slots__ = ("done", "fingerprints", "keys", "outcomes", "owners")

    def __init__(
        self, keys: Sequence[Key], owners: Sequence[int], fingerprints: Sequence[int], *, pending: bool
    ) -> None:
        self.keys = keys
        #: For each key: which of the batch's records it names.
        self.owners = owners
        #: For each record.
        self.fingerprints = fingerprints
        #: For each record; empty until they are known, and where all are a plain `Committed`.
        self.outcomes: Sequence[Outcome] = ()
        #: Set when the outcomes are known; None: they are.
        self.done = asyncio.Event() if pending else None

    def answer(self, key: Key, record: LogRecord) -> Outcome:
        """What a record is answered that comes under a known key."""
        owner = self.owners[self.keys.index(key)]
        if self.fingerprints[owner] != record.fingerprint:
            if isinstance(key, str):
                return Refused(RecordConflict("record_id", key))
            return Refused(RecordConflict("audit.event_id", key[0]))
        first = self.outcomes[owner] if self.outcomes else _COMMITTED
        assert isinstance(first, Committed)
        return Committed(first.receipt, duplicate=True)

    def take_over(self, other: "_Batch") -> None:
        """Add another batch's records to this one; the outcomes of both are known."""
        first = len(self.fingerprints)
        self.keys = [*self.keys, *other.keys]
        self.owners = [*self.owners, *(first + owner for owner in other.owners)]
        self.fingerprints = [*self.fingerprints, *other.fingerprints]
        plain = [_COMMITTED] * len(other.fingerprints)
        self.outcomes = [*self.outcomes, *(other.outcomes or plain)]


_COMMITTED = Committed()
#: Batches smaller than this are put together, so that a record that came alone costs no more memory than others.
SMALL_BATCH_KEYS = 64
#: What was committed before the start is put into batches of so many.
RESTORED_AT_ONCE = 512


class IdempotencyWindow:
    """Remembers at least the last `capacity` ids given by senders, with their records' fingerprints and receipts.

    Ids that the server assigned are not remembered: no sender can repeat one before it has the receipt. With ids of
    36 characters an id takes about 0.5 kB of memory for an audit event, 0.4 kB for a job report and 0.2 kB for a log
    line.
    """

    def __init__(self, capacity: int) -> None:
        #: Records by what became of them: `committed`, `duplicate`, `refused`.
        self.counts: Counter[str] = Counter()
        self._capacity = capacity
        self._batch_of: dict[Key, _Batch] = {}
        #: The batches whose outcomes are known, oldest first, and how many keys they have.
        self._order: deque[_Batch] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def restore(self, commits: Iterable[RecentCommit]) -> None:
        """Take over what a handler committed before it was started, oldest first."""
        rest = iter(commits)
        while part := list(islice(rest, RESTORED_AT_ONCE)):
            keys: list[Key] = []
            owners: list[int] = []
            known: set[Key] = set()
            for owner, commit in enumerate(part):
                # An empty id is none: its record has another, or cannot be repeated.
                for key in (commit.record_id, (commit.event_id,)):
                    if key and key != ("",) and key not in self._batch_of and key not in known:
                        known.add(key)
                        keys.append(key)
                        owners.append(owner)
            batch = _Batch(keys, owners, [commit.fingerprint for commit in part], pending=False)
            batch.outcomes = [Committed(commit.receipt) for commit in part]
            self._claim(batch)
            self._keep(batch)

    async def commit_once(self, records: Sequence[LogRecord], commit: Commit) -> Outcomes:
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
        return Outcomes.of([outcomes[index] for index in range(len(records))])

    def take_new(self, records: Sequence[LogRecord]) -> Sequence[Outcome | None]:
        """Remember the records that are new, at once, and return None for each; for others the answer.

        Nothing at all where all are new. For a queued handler, which has a record as soon as its queue has it.
        """
        keys, owners = _keys_of_all(records)
        if self._are_new(keys):
            self._take(keys, owners, records)
            return ()
        return [self._take_one(record) for record in records]

    def _take(self, keys: Sequence[Key], owners: Sequence[int], records: Sequence[LogRecord]) -> None:
        batch = _Batch(keys, owners, [record.fingerprint for record in records], pending=False)
        self._claim(batch)
        self._keep(batch)

    def _take_one(self, record: LogRecord) -> Outcome | None:
        keys = _keys(record)
        for key in keys:
            batch = self._batch_of.get(key)
            if batch is not None:
                return batch.answer(key, record)
        self._take(keys, [0] * len(keys), [record])
        return None

    async def _commit_some(
        self, records: Sequence[LogRecord], todo: Sequence[int], commit: Commit, outcomes: dict[int, Outcome]
    ) -> Sequence[int]:
        """Settle what can be settled now; return the indexes of copies that waited for another commit."""
        fresh: dict[int, LogRecord] = {}
        claimed: set[Key] = set()
        copies: list[int] = []
        under_way: set[asyncio.Event] = set()
        for index in todo:
            record = records[index]
            known = self._find(record)
            if isinstance(known, asyncio.Event):
                copies.append(index)
                under_way.add(known)
            elif known is not None:
                outcomes[index] = known
                self.counts["duplicate" if type(known) is Committed else "refused"] += 1
            elif claimed.isdisjoint(_keys(record)):
                fresh[index] = record
                claimed.update(_keys(record))
            else:
                copies.append(index)
        if fresh:
            new = list(fresh.values())
            outcomes.update(zip(fresh, await self._commit(new, *_keys_of_all(new), commit), strict=True))
        for done in under_way:
            await done.wait()
        return copies

    async def _commit(
        self, records: Sequence[LogRecord], keys: Sequence[Key], owners: Sequence[int], commit: Commit
    ) -> Outcomes:
        """Commit new records: claim their keys, then remember those committed and free the others."""
        batch = _Batch(keys, owners, [record.fingerprint for record in records], pending=True)
        self._claim(batch)
        outcomes: Outcomes | None = None
        try:
            outcomes = await commit(records)
            return outcomes
        finally:
            self._close_batch(batch, outcomes)

    def _close_batch(self, batch: _Batch, outcomes: Outcomes | None) -> None:
        """Take over a batch's outcomes; None: the commit failed as a whole, and all its keys are free again."""
        assert batch.done is not None
        batch.done.set()
        batch.done = None
        refused = set(batch.owners)
        if outcomes is not None:
            batch.outcomes = outcomes
            refused = {place for place, outcome in outcomes.exceptional.items() if type(outcome) is Refused}
            self.counts["committed"] += len(outcomes) - len(refused)
            self.counts["refused"] += len(refused)
        if refused:
            kept = []
            for key, owner in zip(batch.keys, batch.owners, strict=True):
                if owner in refused:
                    del self._batch_of[key]
                else:
                    kept.append((key, owner))
            batch.keys = [key for key, _ in kept]
            batch.owners = [owner for _, owner in kept]
        self._keep(batch)

    def _claim(self, batch: _Batch) -> None:
        self._batch_of.update(dict.fromkeys(batch.keys, batch))

    def _keep(self, batch: _Batch) -> None:
        """Count a batch whose outcomes are known, and forget the oldest ones that are not needed any more."""
        self._size += len(batch.keys)
        if len(batch.keys) >= SMALL_BATCH_KEYS:
            self._order.append(batch)
        else:
            if not self._order or len(self._order[-1].keys) >= SMALL_BATCH_KEYS:
                self._order.append(_Batch([], [], [], pending=False))
            self._order[-1].take_over(batch)
            self._batch_of.update(dict.fromkeys(batch.keys, self._order[-1]))
        while self._size - len(self._order[0].keys) >= self._capacity:
            oldest = self._order.popleft()
            self._size -= len(oldest.keys)
            for key in oldest.keys:
                del self._batch_of[key]

    def _are_new(self, keys: Sequence[Key]) -> bool:
        """Whether no key is known and none comes twice; a few calls, whatever the size of the batch."""
        return self._batch_of.keys().isdisjoint(keys) and len(set(keys)) == len(keys)

    def _find(self, record: LogRecord) -> Outcome | asyncio.Event | None:
        for key in _keys(record):
            batch = self._batch_of.get(key)
            if batch is not None:
                return batch.done or batch.answer(key, record)
        return None


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
