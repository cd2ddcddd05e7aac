"""`JsonAuditHandler`: audit events, in an append-only file with one JSON object a line.

    {"timestamp":"2026-11-23T03:39:00.000000000Z","event_id":"...","event_name":"user.login.success",...}

An event is acknowledged once its line is on the medium. Whatever arrives while one sync is under way shares
the next: one write and one sync for all of it. `audit.encoder` makes the lines, `audit.log` keeps and proves them. In
the background `audit.maintenance` has signed what was written, and looks whether somebody else touched the file;
`audit.reader` shows it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from emitd_handlers.audit.format.line import MAX_LINE_BYTES, encode_line, recent_commit
from emitd_handlers.audit.format.line_index import FIRST
from emitd_handlers.audit.read.reader import AuditReader
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
from emitd_handlers.audit.write.encoder import AuditEncoder, Chunk
from emitd_handlers.audit.write.file import AuditFile, AuditStats
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.audit.write.maintenance import AuditMaintenance
from emitd_handlers.audit.write.recovery import MAX_GROUP_BYTES, damaged_beyond_repair
from emitd_handlers.base import BaseLogHandler, EmitResult
from emitd_handlers.diagnostics import Report
from emitd_handlers.diagnostics import report as report_to_operator
from emitd_handlers.durable.disk import Disk, RealDisk
from emitd_handlers.durable.group_commit import GroupCommit
from emitd_handlers.durable.worker_thread import WorkerThread
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, Outcomes, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings, PositiveInt, PositiveSeconds

__all__ = ["JsonAuditHandler", "JsonAuditSettings"]


class JsonAuditSettings(HandlerSettings, frozen=True, kw_only=True):
    """What an entry of type `json_audit` takes beside the common keys."""

    #: The log. Folders that are missing are made, with mode 0700.
    path: Path = Path("logs/audit.json.log")
    #: The log's name in receipts and checkpoints; empty: one is made at the first start, and kept in `<path>.log_id`.
    log_id: str = ""
    #: The private key that signs checkpoints, PEM; None: one is made at the first start, in `<path>.key`.
    key: Path | None = None
    #: How long a line waits for the checkpoint that covers it, at most; one takes about 250 bytes on disk.
    checkpoint_seconds: PositiveSeconds = 0.8
    #: Lines that wait for a checkpoint, because none can be written, before records are refused.
    max_uncovered_lines: PositiveInt = 250_000
    #: The longest line, without its newline; a record that would make a longer one is refused.
    max_line_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MAX_LINE_BYTES)] = MAX_LINE_BYTES
    #: The most that is written with one sync.
    max_group_bytes: Annotated[int, msgspec.Meta(ge=MAX_LINE_BYTES + 1, le=MAX_GROUP_BYTES)] = MAX_GROUP_BYTES


_UNANSWERED = Refused(HandlerUnavailable("nothing became of the record"))


class _Open(msgspec.Struct, frozen=True):
    """What there is between start and stop."""

    log: AuditLog
    encoder: AuditEncoder
    commits: "GroupCommit[Chunk, int]"
    maintenance: AuditMaintenance
    reader: AuditReader
    reading: WorkerThread


class JsonAuditHandler(BaseLogHandler):
    """Appends audit events to its log, and answers each with its place there. Its log can be read: an AuditSource."""

    Settings: ClassVar[type[HandlerSettings]] = JsonAuditSettings
    settings: JsonAuditSettings
    default_levels = frozenset({Level.AUDIT})
    default_delivery = Delivery.COMMITTED

    def __init__(
        self,
        settings: JsonAuditSettings | None = None,
        *,
        name: str = "",
        disk: Disk | None = None,
        report: Report = report_to_operator,
    ) -> None:
        """Use `disk` (None: the real one), and `report` for lines to the operator (by default on standard error)."""
        super().__init__(settings, name=name)
        #: What has happened to the log since the last start.
        self.stats = AuditStats()
        self._disk = disk or RealDisk()
        self._report = report
        #: None while records are refused.
        self._open: _Open | None = None
        #: Lines and bytes on the medium, and who waits for more.
        self._committed = FIRST
        self._more_lines: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Open the log. Takes the longer, the more lines a crash has left behind the last checkpoint.

        Raises HandlerUnavailable if that cannot be, if another process has it, or if it is damaged in a way
        that no crash explains.
        """
        await super().start()
        settings = self.settings
        log = AuditLog(settings.path, self._disk, self._report, log_id=settings.log_id, key=settings.key)
        try:
            await self.run_in_thread(log.open)
        except BaseException:  # also if the start itself is given up: the lock must not stay
            await self.run_in_thread(log.close)
            await super().stop()
            raise
        self.stats = log.file.stats
        self._committed = log.file.end
        self._open = self._assemble(log)
        self._open.maintenance.start()

    def introduction(self) -> str:
        """Tell the public key: whoever wants to verify the log later keeps it elsewhere."""
        log = self._opened().log
        return f"audit log '{log.file.path}' is signed as {log.vkey}"

    async def stop(self) -> None:
        """Commit what was accepted, have it signed, and close the log."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.commits.drain()
            await opened.maintenance.stop()
            await opened.reading.stop()
            await self.run_in_thread(opened.log.close)
        await super().stop()

    async def write_checkpoint(self) -> None:
        """Have all that was committed signed now, rather than in a moment."""
        await self._opened().maintenance.write_checkpoint()

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Read the last `limit` lines; those whose sender gave no id at all are left out.

        Raises HandlerUnavailable for a damaged line: a crash does not reach so far back.
        """
        if self._open is None:
            return ()
        return await self.run_in_thread(_read_recent, self._open.log.file, limit)

    async def emit(self, record: LogRecord) -> EmitResult:
        """Commit one event; `emit_batch` is cheaper for several."""
        (outcome,) = await self.emit_batch([record])
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome.receipt

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Commit events in order, together with whatever else waits for the next sync."""
        try:
            opened = self._opened()
            self._refuse_if_unsigned(opened.log)
        except HandlerUnavailable as error:
            return [Refused(error)] * len(records)
        whole = opened.encoder.encode_whole(records)
        if whole is not None:
            return await self._commit_whole(opened, whole)
        outcomes: list[Outcome] = [_UNANSWERED] * len(records)
        chunks = opened.encoder.encode(records, outcomes)
        waiting = [opened.commits.submit([chunk], chunk.size) for chunk in chunks]
        for chunk, committed in zip(chunks, waiting, strict=True):
            try:
                (first_index,) = await committed
            except Exception as error:
                refused = self.refusal(error)
                for place in chunk.places:
                    outcomes[place] = refused
            else:
                receipt = _receipts(opened.log.file.log_id, chunk, first_index)
                for index, place in enumerate(chunk.places):
                    outcomes[place] = Committed(receipt(index))
        return outcomes

    def format(self, record: LogRecord) -> bytes:
        """Return the record's line, without its newline. Raises RecordInvalid."""
        return encode_line(record)

    # What makes it an AuditSource: see there.

    @property
    def log_id(self) -> str:
        """The log's name; empty until it is known."""
        return self.settings.log_id if self._open is None else self._open.log.file.log_id

    @property
    def checkpoint_note(self) -> bytes:
        """The newest checkpoint on the medium, as a signed note; empty before the first."""
        return b"" if self._open is None else self._open.log.tree.note

    async def checkpoint(self) -> SignedCheckpoint | None:
        """Return the newest checkpoint."""
        return await self._opened().reader.checkpoint()

    async def inclusion_proof(self, leaf_index: int, tree_size: int | None = None) -> InclusionProof:
        """Prove that a line is in the log."""
        return await self._opened().reader.inclusion_proof(leaf_index, tree_size)

    async def consistency_proof(self, old_size: int, new_size: int | None = None) -> ConsistencyProof:
        """Prove that the log only grew."""
        return await self._opened().reader.consistency_proof(old_size, new_size)

    async def find(self, event_id: str) -> AuditEntry | None:
        """Return the event of this id."""
        return await self._opened().reader.find(event_id)

    async def list(self, query: AuditQuery) -> AuditPage:
        """Return a page of events."""
        return await self._opened().reader.list(query)

    def tail(
        self, wanted: AuditFilter, *, from_index: int | None = None, idle_seconds: float | None = None
    ) -> AsyncGenerator[AuditBatch, None]:
        """Yield events as they are committed."""
        return self._opened().reader.tail(wanted, from_index=from_index, idle_seconds=idle_seconds)

    def _opened(self) -> _Open:
        if self._open is None:
            raise HandlerUnavailable(f"handler '{self.name}' is not running")
        return self._open

    def _assemble(self, log: AuditLog) -> _Open:
        settings = self.settings
        is_plain = type(self).format is JsonAuditHandler.format
        reading = WorkerThread(f"emitd-read-{self.name}")
        reader = AuditReader(
            log.file.path,
            log.file.log_id,
            committed=lambda: self._committed,
            newest_checkpoint=lambda: log.tree.note or None,
            wait_for_lines=self._wait_for_lines,
            run=reading.run,
        )
        return _Open(
            log=log,
            encoder=AuditEncoder(
                settings.max_line_bytes,
                settings.max_group_bytes,
                log.file.last_received_unix_nano,
                None if is_plain else self.format,
            ),
            commits=GroupCommit(
                lambda chunks: self._commit_group(log, chunks), max_size=settings.max_group_bytes
            ),
            maintenance=AuditMaintenance(
                log,
                self.run_in_thread,
                self._report,
                settings.checkpoint_seconds,
                lambda: self._on_check(log, reader),
            ),
            reader=reader,
            reading=reading,
        )

    def _refuse_if_unsigned(self, log: AuditLog) -> None:
        """Raise HandlerUnavailable where more lines wait to be signed than may be."""
        count = log.tree.uncovered
        if count > self.settings.max_uncovered_lines:
            reason = log.tree.problem or "the disk does not keep up"
            raise HandlerUnavailable(f"{count} lines wait for a checkpoint (max_uncovered_lines): {reason}")

    async def _commit_group(self, log: AuditLog, chunks: Sequence[Chunk]) -> Sequence[int]:
        firsts = await self.run_in_thread(_append, log, chunks)
        self._note_committed(log)
        return firsts

    async def _commit_whole(self, opened: _Open, chunk: Chunk) -> Sequence[Outcome]:
        try:
            (first_index,) = await opened.commits.submit([chunk], chunk.size)
        except Exception as error:
            return [self.refusal(error)] * len(chunk.leaves)
        return Outcomes(len(chunk.leaves), _receipts(opened.log.file.log_id, chunk, first_index))

    def _on_check(self, log: AuditLog, reader: AuditReader) -> None:
        self.report_health(log.problem)
        reader.log_id = log.file.log_id  # another log may have been begun in its place
        self._note_committed(log)

    def _note_committed(self, log: AuditLog) -> None:
        """Tell readers what is on the medium now, after the writer's thread was heard of."""
        committed = log.file.end
        if committed != self._committed:
            self._committed = committed
            if self._more_lines is not None:
                self._more_lines.set_result(None)
                self._more_lines = None

    async def _wait_for_lines(self, count: int) -> None:
        while self._committed[0] <= count:
            if self._more_lines is None:
                self._more_lines = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._more_lines)


def _receipts(log_id: str, chunk: Chunk, first_index: int) -> Callable[[int], AuditReceipt]:
    """Return what makes the receipt of a chunk's line; it does not hold on to the lines."""
    event_ids, leaves = chunk.event_ids, chunk.leaves
    return lambda index: AuditReceipt(log_id, event_ids[index], first_index + index, leaves[index])


def _append(log: AuditLog, chunks: Sequence[Chunk]) -> Sequence[int]:
    """Append a group, and return the index of each chunk's first line."""
    counts = [len(chunk.leaves) for chunk in chunks]
    text = b"".join([text for chunk in chunks for text in chunk.texts])
    first = log.append(text, [leaf for chunk in chunks for leaf in chunk.leaves])
    return [first + before for before in accumulate(counts[:-1], initial=0)]


def _read_recent(file: AuditFile, limit: int) -> list[RecentCommit]:
    commits = []
    for index, offset, line in file.last_lines(limit):
        try:
            commit = recent_commit(line, file.log_id, index)
        except ValueError:
            raise damaged_beyond_repair(file.path, offset) from None
        if commit.record_id or commit.event_id:
            commits.append(commit)
    commits.reverse()
    return commits
