"""Answers questions about one audit log: its pages, its new lines, its proofs.

Each question is answered from the files, up to the lines committed by then, in a thread of the reader's own: a long
scan holds up neither a commit nor a proof that is asked for at the same time.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.read.scan import Scan, newest_event, scan_block
from emitd_handlers.audit.read.trail import AuditTrail, CommittedTrail
from emitd_handlers.audit.source import (
    AuditBatch,
    AuditEntry,
    AuditFilter,
    AuditPage,
    AuditQuery,
    ConsistencyProof,
    InclusionProof,
    SignedCheckpoint,
)
from emitd_handlers.durable.append_file import reason_of
from emitd_handlers.errors import AuditNotFound, AuditQueryInvalid, HandlerUnavailable
from emitd_handlers.page_token import make_token, read_token
from emitd_handlers.room import MAX_PAGE_BYTES, MAX_PART_BYTES, Room
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_hash,
    root_of_inclusion,
)
from emitd_handlers.tlog.note import Note

#: The most that a tail yields at once, because a batch is handled in the event loop.
MAX_BATCH_ENTRIES = 200
#: A tail that has caught up waits this long: a busy log commits many times a second.
MIN_INTERVAL_SECONDS = 0.05

P = ParamSpec("P")
T = TypeVar("T")


class CommittedLog(msgspec.Struct, frozen=True):
    """A log as its writer knows it at one moment."""

    path: Path
    log_id: str
    #: Where the lines on the medium end.
    end: Entry
    #: The newest checkpoint on the medium, a signed note; empty before the first.
    note: bytes


class AuditReader(ABC):
    """Answers as an `AuditSource`, which describes it, from a log's files. A subclass knows what is committed."""

    @abstractmethod
    def committed_log(self) -> CommittedLog:
        """Return the log as it is now. Raises HandlerUnavailable if it is not open."""

    @abstractmethod
    async def wait_for_lines(self, count: int) -> None:
        """Return once there are more than `count` lines on the medium."""

    @abstractmethod
    def run_reading(self, call: Callable[[], T]) -> Awaitable[T]:
        """Run a blocking call in a thread that is not the writer's."""

    async def checkpoint(self) -> SignedCheckpoint | None:
        log = self.committed_log()
        if not log.note:
            return None
        checkpoint = _newest(log)
        verifiers = await self._in_thread(log, AuditTrail.verifiers)
        vkeys = [verifier.vkey for verifier in verifiers]
        return SignedCheckpoint(log.note, checkpoint.size, checkpoint.root, vkeys)

    async def inclusion_proof(self, leaf_index: int, tree_size: int | None = None) -> InclusionProof:
        log = self.committed_log()
        if leaf_index >= log.end.leaf_index:
            raise AuditNotFound(f"the log has {log.end.leaf_index} lines, and so no line {leaf_index}")
        newest = _newest(log)
        size = newest.size if tree_size is None else tree_size
        _check_size("tree_size", size, newest, log.end)
        if leaf_index >= size:
            if tree_size is None:
                problem = f"line {leaf_index} is not signed yet: the newest checkpoint is of {size}"
                raise HandlerUnavailable(problem)
            raise AuditQueryInvalid("tree_size", f"a tree of {size} leaves has no leaf {leaf_index}")
        line, hashes = await self._in_thread(log, _prove_inclusion, leaf_index, size, newest)
        checkpoint = log.note if size == newest.size else b""
        return InclusionProof(leaf_index, line, leaf_hash(line), size, hashes, checkpoint)

    async def consistency_proof(self, old_size: int, new_size: int | None = None) -> ConsistencyProof:
        log = self.committed_log()
        newest = _newest(log)
        size = newest.size if new_size is None else new_size
        _check_size("new_size", size, newest, log.end)
        if old_size > size:
            problem = f"{old_size} is more than the {size} leaves of the later tree"
            raise AuditQueryInvalid("old_size", problem)
        hashes = await self._in_thread(log, _prove_consistency, old_size, size, newest)
        return ConsistencyProof(old_size, size, hashes, log.note if size == newest.size else b"")

    async def find(self, event_id: str, source: str | None = None) -> AuditEntry | None:
        if not event_id:  # which would mean any
            return None
        log = self.committed_log()
        scan = Scan(AuditFilter(event_id=event_id, source=source), stop=0, backward=True)
        position, found = log.end, None
        while position.offset > 0 and (found is None or source is None):
            room = Room(MAX_BATCH_ENTRIES, MAX_PAGE_BYTES)
            step = await self._in_thread(log, scan_block, scan, position, room)
            position, found = step.position, newest_event(found, step.entries)
        return found

    async def list(self, query: AuditQuery) -> AuditPage:
        log = self.committed_log()
        from_index = _read_token(log.log_id, query, log.end.leaf_index)
        position, stop = await self._in_thread(log, _bounds_of_page, query, from_index)
        scan = Scan(query.filter, stop, query.newest_first)
        room, scanned = Room(query.page_size, MAX_PAGE_BYTES), 0
        entries: list[AuditEntry] = []
        while position.offset != stop and not room.is_full and scanned < query.max_scan_bytes:
            step = await self._in_thread(log, scan_block, scan, position, room)
            entries += step.entries
            position, scanned = step.position, scanned + step.size
        if position.offset == stop:
            return AuditPage(entries, "")
        return AuditPage(entries, make_token(_made_for(log.log_id, query), position.leaf_index))

    async def tail(
        self,
        wanted: AuditFilter,
        *,
        from_index: int | None = None,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[AuditBatch, None]:
        position = await self._tail_start(from_index)
        yield AuditBatch((), position.leaf_index)
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while True:
            log = self.committed_log()
            end = log.end
            if end.leaf_index < position.leaf_index:
                raise HandlerUnavailable("the log has fewer lines than before: another was put in its place")
            if end == position:
                left = None if idle_seconds is None else sent_at + idle_seconds - clock()
                try:
                    async with asyncio.timeout(left):
                        await self.wait_for_lines(position.leaf_index)
                except TimeoutError:
                    yield AuditBatch((), position.leaf_index)
                    sent_at = clock()
                continue
            scan = Scan(wanted, stop=end.offset)
            room = Room(MAX_BATCH_ENTRIES, MAX_PART_BYTES)
            step = await self._in_thread(log, scan_block, scan, position, room)
            position = step.position
            if step.entries or (idle_seconds is not None and clock() >= sent_at + idle_seconds):
                yield AuditBatch(step.entries, position.leaf_index)
                sent_at = clock()
            if position == end:
                await asyncio.sleep(MIN_INTERVAL_SECONDS)

    async def _tail_start(self, from_index: int | None) -> Entry:
        log = self.committed_log()
        if from_index is None:
            return log.end
        if from_index > log.end.leaf_index:
            problem = f"the log has {log.end.leaf_index} lines, and so none to begin with at {from_index}"
            raise AuditNotFound(problem)
        return await self._in_thread(log, CommittedTrail.position_of, from_index)

    async def _in_thread(
        self,
        log: CommittedLog,
        call: Callable[Concatenate[CommittedTrail, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what `call` does with the log's files."""

        def read() -> T:
            with CommittedTrail(log.path, log.end) as trail:
                return call(trail, *args, **kwargs)

        try:
            return await self.run_reading(read)
        except OSError as error:
            raise HandlerUnavailable(f"audit log '{log.path}' cannot be read: {reason_of(error)}") from error
        except EOFError as error:
            raise HandlerUnavailable(f"audit log '{log.path}' cannot prove anything now: {error}") from error


def _newest(log: CommittedLog) -> Checkpoint:
    if not log.note:
        raise HandlerUnavailable(f"audit log '{log.path}' is not signed yet")
    return Checkpoint.parse(Note.parse(log.note).text)


def _check_size(field: str, size: int, newest: Checkpoint, end: Entry) -> None:
    if size > max(end.leaf_index, newest.size):
        raise AuditQueryInvalid(field, f"{size} is more than the {end.leaf_index} lines of the log")
    if size > newest.size:
        raise HandlerUnavailable(f"the newest checkpoint is of {newest.size} lines, fewer than {size}")


def _prove_inclusion(
    trail: CommittedTrail, index: int, size: int, newest: Checkpoint
) -> tuple[bytes, Sequence[bytes]]:
    """Return a line, and the proof that it is in the tree of `size` leaves. Raises AuditDamaged if it is not."""
    line = trail.line(index)
    trail.check_root(newest)
    hashes = inclusion_proof(index, size, trail.read_hash)
    if root_of_inclusion(index, size, leaf_hash(line), hashes) != root_hash(size, trail.read_hash):
        raise trail.damaged(f"was changed: line {index} is not what was signed")
    return line, hashes


def _prove_consistency(
    trail: CommittedTrail, old_size: int, new_size: int, newest: Checkpoint
) -> Sequence[bytes]:
    trail.check_root(newest)
    return consistency_proof(old_size, new_size, trail.read_hash)


def _bounds_of_page(trail: CommittedTrail, query: AuditQuery, from_index: int | None) -> tuple[Entry, int]:
    """Return where a page begins to look, and the offset at which there is nothing more for the query."""
    after, before = query.received_after_unix_nano, query.received_before_unix_nano
    first = trail.first_received(after) if after else 0
    last = trail.first_received(before) if before else trail.end.offset
    start, stop = (last, first) if query.newest_first else (first, last)
    if first >= last:
        return Entry(0, stop), stop
    if from_index is None:
        return trail.position_at(start), stop
    position = trail.position_of(from_index)
    # A made-up token gets nothing that the query does not ask for.
    return (position, stop) if first <= position.offset <= last else (Entry(0, stop), stop)


def _read_token(log_id: str, query: AuditQuery, line_count: int) -> int | None:
    """Return the line that a query's token goes on with, or with the newest first the one after it; None: it has none.

    Raises AuditQueryInvalid for a token that was not made for this query.
    """
    if not query.page_token:
        return None
    foreign = "another log, other filters or the other direction"
    (index,) = read_token(
        query.page_token, _made_for(log_id, query), tuple[bytes, int], AuditQueryInvalid, foreign
    )
    if not 0 <= index <= line_count:
        raise AuditQueryInvalid("page_token", "is none that this server has made")
    return int(index)


def _made_for(log_id: str, query: AuditQuery) -> object:
    times = (query.received_after_unix_nano, query.received_before_unix_nano)
    return (log_id, query.filter, *times, query.newest_first)
