"""Remembers which records a handler has taken lately, so that a retry is harmless."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from emitd_handlers.errors import RecordConflict
from emitd_handlers.outcome import Committed, Outcome, Outcomes, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord

__all__ = ["IdempotencyWindow"]

#: A record_id, or an event_id in a tuple of its own, so that the two never meet.
Key: TypeAlias = str | tuple[str]
Commit: TypeAlias = Callable[[Sequence[LogRecord]], Awaitable[Outcomes]]

_AUDIT = Level.AUDIT
_COMMITTED = Committed()
#: Smaller batches keep their outcomes themselves, which takes less memory than the means to make them later.
SMALL_BATCH_RECORDS = 64


class _Batch(msgspec.Struct, gc=False):
    """A batch of records that was taken."""

    #: None: not known yet, or each is a plain `Committed`.
    outcomes: Sequence[Outcome] | None = None
    #: Set when the outcomes are known; None: they are.
    done: asyncio.Event | None = None


class _Taken(msgspec.Struct, gc=False, frozen=True):
    """A record of a batch."""

    batch: _Batch
    place: int
    fingerprint: int

    def answer(self, key: Key, record: LogRecord) -> Outcome:
        """Return the outcome of a record that comes under a known key."""
        if self.fingerprint != record.fingerprint:
            field, text = ("record_id", key) if isinstance(key, str) else ("audit.event_id", key[0])
            return Refused(RecordConflict(field, text))
        first = _COMMITTED if self.batch.outcomes is None else self.batch.outcomes[self.place]
        assert isinstance(first, Committed)
        return Committed(first.receipt, duplicate=True)


class IdempotencyWindow:
    """Remembers at least the last `capacity` ids given by senders, with their records' fingerprints and receipts.

    Ids that the server assigned are not remembered: no sender can repeat one before it has the receipt. With ids of
    36 characters an id takes about 0.5 kB of memory for an audit event, 0.4 kB for a job report and 0.2 kB for a log
    line.
    """

    def __init__(self, capacity: int) -> None:
        #: Records by outcome: `committed`, `duplicate`, `refused`.
        self.counts: Counter[str] = Counter()
        self._capacity = capacity
        self._taken: dict[Key, _Taken] = {}
        #: The keys of those whose outcomes are known, oldest first.
        self._order: deque[Key] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def restore(self, commits: Iterable[RecentCommit]) -> None:
        """Remember what a handler committed before it was started, oldest first."""
        for commit in commits:
            taken = _Taken(_Batch([Committed(commit.receipt)]), 0, commit.fingerprint)
            keys: list[Key] = [commit.record_id] if commit.record_id else []
            if commit.event_id:
                keys.append((commit.event_id,))
            new = [key for key in keys if key not in self._taken]
            self._taken.update(dict.fromkeys(new, taken))
            self._keep(new)

    async def commit_once(self, records: Sequence[LogRecord], commit: Commit) -> Outcomes:
        """Give `commit` the records that are new, and answer the others from memory, in order.

        A copy of a record that is being committed, by this call or another, waits for that commit; if it
        fails, the copy is committed instead.
        """
        keys, places = _keys_of_all(records)
        if self._are_new(keys):
            return await self._commit(records, keys, places, commit)
        outcomes: dict[int, Outcome] = {}
        todo: Sequence[int] = range(len(records))
        while todo:
            todo = await self._commit_some(records, todo, commit, outcomes)
        return Outcomes.of([outcomes[index] for index in range(len(records))])

    def take_new(self, records: Sequence[LogRecord]) -> Sequence[Outcome | None]:
        """Remember the records that are new, at once, and return None for each; for others the answer.

        Returns nothing at all if all are new. For a queued handler, which has a record as soon as its queue has it.
        """
        keys, places = _keys_of_all(records)
        if self._are_new(keys):
            self._claim(_Batch(), records, keys, places)
            self._keep(keys)
            return ()
        answers: list[Outcome | None] = []
        for record in records:
            found = self._find(record)
            answers.append(found and found[1].answer(found[0], record))
            if found is None:
                own = _keys(record)
                self._claim(_Batch(), [record], own, [0] * len(own))
                self._keep(own)
        return answers

    async def _commit_some(
        self, records: Sequence[LogRecord], todo: Sequence[int], commit: Commit, outcomes: dict[int, Outcome]
    ) -> Sequence[int]:
        """Answer the records that can be answered now; return the indexes of copies that waited for another commit."""
        fresh: dict[int, LogRecord] = {}
        claimed: set[Key] = set()
        copies: list[int] = []
        under_way: set[asyncio.Event] = set()
        for index in todo:
            record = records[index]
            found = self._find(record)
            if found is not None and found[1].batch.done is not None:
                copies.append(index)
                under_way.add(found[1].batch.done)
            elif found is not None:
                outcomes[index] = known = found[1].answer(found[0], record)
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
        self, records: Sequence[LogRecord], keys: Sequence[Key], places: Sequence[int], commit: Commit
    ) -> Outcomes:
        """Commit new records: claim their keys, then remember those committed and free the others."""
        batch = _Batch(done=asyncio.Event())
        self._claim(batch, records, keys, places)
        outcomes: Outcomes | None = None
        try:
            outcomes = await commit(records)
            return outcomes
        finally:
            self._close_batch(batch, keys, places, outcomes)

    def _close_batch(
        self, batch: _Batch, keys: Sequence[Key], places: Sequence[int], outcomes: Outcomes | None
    ) -> None:
        """Keep a batch's outcomes; None: the commit failed as a whole, and all its keys are free again."""
        assert batch.done is not None
        batch.done.set()
        batch.done = None
        refused = set(places)
        if outcomes is not None:
            batch.outcomes = list(outcomes) if len(outcomes) < SMALL_BATCH_RECORDS else outcomes
            refused = {place for place, outcome in outcomes.exceptional.items() if type(outcome) is Refused}
            self.counts["committed"] += len(outcomes) - len(refused)
            self.counts["refused"] += len(refused)
        if refused:
            for key in [key for key, place in zip(keys, places, strict=True) if place in refused]:
                del self._taken[key]
            keys = [key for key in keys if key in self._taken]
        self._keep(keys)

    def _claim(
        self, batch: _Batch, records: Sequence[LogRecord], keys: Sequence[Key], places: Sequence[int]
    ) -> None:
        taken = [_Taken(batch, place, record.fingerprint) for place, record in enumerate(records)]
        self._taken.update(zip(keys, [taken[place] for place in places], strict=True))

    def _keep(self, keys: Sequence[Key]) -> None:
        """Remember keys whose outcomes are known, and forget the oldest."""
        self._order.extend(keys)
        while len(self._order) > self._capacity:
            del self._taken[self._order.popleft()]

    def _are_new(self, keys: Sequence[Key]) -> bool:
        """Whether no key is known and none comes twice; a few calls, whatever the size of the batch.

        Measured: looking at one record after the other takes 1.1 µs each, a sixth of an audit record's whole way.
        """
        return self._taken.keys().isdisjoint(keys) and len(set(keys)) == len(keys)

    def _find(self, record: LogRecord) -> tuple[Key, _Taken] | None:
        for key in _keys(record):
            taken = self._taken.get(key)
            if taken is not None:
                return key, taken
        return None


def _keys(record: LogRecord) -> tuple[Key, ...]:
    """The ids by which the sender can repeat this record."""
    record_id = record.record_id
    if record.level is not _AUDIT or "event_id" in record.assigned:
        return (record_id,) if record_id else ()
    event_key = (record.payload.event_id,)  # type: ignore[union-attr]  # AUDIT carries an AuditEvent
    return (record_id, event_key) if record_id else (event_key,)


def _keys_of_all(records: Sequence[LogRecord]) -> tuple[Sequence[Key], Sequence[int]]:
    """The keys of a batch, and for each the place of its record."""
    ids = [record.record_id for record in records]
    if all(ids) and not any(
        [record.level is _AUDIT and "event_id" not in record.assigned for record in records]
    ):
        return ids, range(len(records))
    pairs = [(key, place) for place, record in enumerate(records) for key in _keys(record)]
    return [key for key, _ in pairs], [place for _, place in pairs]
