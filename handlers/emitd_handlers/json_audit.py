"""`JsonAuditHandler`: audit events, in an append-only file with one JSON object a line.

    {"timestamp":"2026-11-23T03:39:00.000000000Z","event_id":"...","event_name":"user.login.success",...}

An event is acknowledged once its line is on the medium. Whatever arrives while one sync is under way shares
the next: one write and one sync for all of it. `audit_line` makes the lines, `audit_file` keeps them.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from msgspec.structs import replace

from emitd_handlers.audit_completion import complete_record
from emitd_handlers.audit_file import AuditFile, AuditStats
from emitd_handlers.audit_line import (
    MAX_LINE_BYTES,
    encode_line,
    encode_lines,
    leaf_hash,
    recent_commit,
)
from emitd_handlers.audit_recovery import MAX_GROUP_BYTES, damaged_beyond_repair
from emitd_handlers.base import BaseLogHandler, EmitResult
from emitd_handlers.diagnostics import Report
from emitd_handlers.diagnostics import report as report_to_operator
from emitd_handlers.disk import Disk, RealDisk
from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.group_commit import GroupCommit
from emitd_handlers.outcome import AllCommitted, AuditReceipt, Committed, Outcome, RecentCommit, Refused
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings

__all__ = ["JsonAuditHandler", "JsonAuditSettings"]


class JsonAuditSettings(HandlerSettings, frozen=True, kw_only=True):
    """What an entry of type `json_audit` takes beside the common keys."""

    #: The log. Folders that are missing are made, with mode 0700.
    path: Path = Path("logs/audit.json.log")
    #: The log's name in receipts; empty: one is made at the first start, and kept in `<path>.log_id`.
    log_id: str = ""
    #: The longest line, without its newline; a record that would make a longer one is refused.
    max_line_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MAX_LINE_BYTES)] = MAX_LINE_BYTES
    #: The most that is written with one sync.
    max_group_bytes: Annotated[int, msgspec.Meta(ge=MAX_LINE_BYTES + 1, le=MAX_GROUP_BYTES)] = MAX_GROUP_BYTES


_UNANSWERED = Refused(HandlerUnavailable("nothing became of the record"))


class _Chunk(msgspec.Struct):
    """Lines of one batch that go into one group; mostly all of them."""

    #: The lines, each with its newline, in pieces.
    texts: list[bytes] = []
    #: For each line: its record's place in the batch, its event's id, its leaf.
    places: Sequence[int] = []
    event_ids: list[str] = []
    leaves: list[bytes] = []
    #: Bytes, with a newline for each line.
    size: int = 0


class JsonAuditHandler(BaseLogHandler):
    """Appends audit events to its log, and answers each with its place there."""

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
        self._file: AuditFile | None = None
        #: None while records are refused.
        self._commits: GroupCommit[_Chunk, int] | None = None
        self._log_id = ""
        self._last_received = 0

    async def start(self) -> None:
        """Open the log, which may take a while: its lines are counted.

        Raises HandlerUnavailable if that cannot be, if another process has it, or if it is damaged in a way
        that no crash explains.
        """
        await super().start()
        settings = self.settings
        file = AuditFile(settings.path, self._disk, self._report, log_id=settings.log_id)
        try:
            await self.run_in_thread(file.open)
        except BaseException:  # also if the start itself is given up: the lock must not stay
            await self.run_in_thread(file.close)
            await super().stop()
            raise
        self._file = file
        self.stats = file.stats
        self._log_id = file.log_id
        self._last_received = file.last_received_unix_nano
        self._commits = GroupCommit(
            lambda chunks: self.run_in_thread(_append, file, chunks), max_size=settings.max_group_bytes
        )

    async def stop(self) -> None:
        """Commit what was accepted, and close the log."""
        commits, self._commits = self._commits, None
        if commits is not None and self._file is not None:
            await commits.drain()
            await self.run_in_thread(self._file.close)
        await super().stop()

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Read the last `limit` lines; those whose sender gave no id at all are left out.

        Raises HandlerUnavailable for a damaged line: a crash does not reach so far back.
        """
        if self._file is None:
            return ()
        return await self.run_in_thread(_read_recent, self._file, limit)

    async def emit(self, record: LogRecord) -> EmitResult:
        """Commit one event; `emit_batch` is cheaper for several."""
        (outcome,) = await self.emit_batch([record])
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome.receipt

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Commit events in order, together with whatever else waits for the next sync."""
        commits = self._commits
        if commits is None:
            return [Refused(HandlerUnavailable(f"handler '{self.name}' is not running"))] * len(records)
        whole = self._encode_whole(records)
        if whole is not None:
            return await self._commit_whole(commits, whole)
        outcomes: list[Outcome] = [_UNANSWERED] * len(records)
        chunks = self._encode(records, outcomes)
        waiting = [commits.submit([chunk], chunk.size) for chunk in chunks]
        for chunk, committed in zip(chunks, waiting, strict=True):
            try:
                (first_index,) = await committed
            except Exception as error:
                refused = self._refused(error)
                for place in chunk.places:
                    outcomes[place] = refused
            else:
                receipt = self._receipts(chunk, first_index)
                for index, place in enumerate(chunk.places):
                    outcomes[place] = Committed(receipt(index))
        return outcomes

    def format(self, record: LogRecord) -> bytes:
        """Return the record's line, without its newline. Raises RecordInvalid."""
        return encode_line(record)

    def _encode_whole(self, records: Sequence[LogRecord]) -> _Chunk | None:
        """Return a batch's lines where all of its records are good, complete, in order, and fit one group.

        That is nearly every batch, and the hot path; what it passes over, `_encode` looks at one by one.
        """
        received = [record.received_unix_nano for record in records]
        if (
            type(self).format is not JsonAuditHandler.format  # a derived class makes lines of its own
            or not all([record.fingerprint for record in records])
            or received != sorted(received)
            or received[0] < self._last_received  # a clock went back
        ):
            return None
        text = encode_lines(records)
        if text is None or len(text) > self.settings.max_group_bytes:
            return None
        lines = text[:-1].split(b"\n")
        if max(map(len, lines)) > self.settings.max_line_bytes:
            return None
        self._last_received = received[-1]
        event_ids = [record.payload.event_id for record in records]  # type: ignore[union-attr]
        return _Chunk([text], range(len(lines)), event_ids, list(map(leaf_hash, lines)), len(text))

    async def _commit_whole(self, commits: "GroupCommit[_Chunk, int]", chunk: _Chunk) -> Sequence[Outcome]:
        try:
            (first_index,) = await commits.submit([chunk], chunk.size)
        except Exception as error:
            return [self._refused(error)] * len(chunk.leaves)
        return AllCommitted(len(chunk.leaves), self._receipts(chunk, first_index))

    def _receipts(self, chunk: _Chunk, first_index: int) -> Callable[[int], AuditReceipt]:
        """Return what makes the receipt of a chunk's line; it does not hold on to the lines."""
        log_id, event_ids, leaves = self._log_id, chunk.event_ids, chunk.leaves
        return lambda index: AuditReceipt(log_id, event_ids[index], first_index + index, leaves[index])

    def _encode(self, records: Sequence[LogRecord], outcomes: list[Outcome]) -> list[_Chunk]:
        """Return the records' lines; put the refusals of those that make none into `outcomes`."""
        places: list[int] = []
        chunk = _Chunk(places=places)
        chunks = [chunk]
        max_line_bytes = self.settings.max_line_bytes
        max_group_bytes = self.settings.max_group_bytes
        for place, record in enumerate(records):
            try:
                if not record.fingerprint:
                    record = complete_record(record)
                if record.received_unix_nano < self._last_received:  # a clock went back
                    record = replace(record, received_unix_nano=self._last_received)
                line = self.format(record)
                size = len(line) + 1
                if size > max_line_bytes + 1:
                    raise _too_long(record, line, max_line_bytes)
            except RecordInvalid as error:
                outcomes[place] = Refused(error)
                continue
            self._last_received = record.received_unix_nano
            if chunk.size + size > max_group_bytes:
                places = []
                chunk = _Chunk(places=places)
                chunks.append(chunk)
            chunk.size += size
            chunk.texts += (line, b"\n")
            places.append(place)
            chunk.event_ids.append(record.payload.event_id)  # type: ignore[union-attr]
            chunk.leaves.append(leaf_hash(line))
        return chunks if chunk.texts else []


def _append(file: AuditFile, chunks: Sequence[_Chunk]) -> Sequence[int]:
    """Append a group, and return the index of each chunk's first line."""
    counts = [len(chunk.leaves) for chunk in chunks]
    text = b"".join([text for chunk in chunks for text in chunk.texts])
    first = file.append(text, sum(counts))
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


def _too_long(record: LogRecord, line: bytes, max_line_bytes: int) -> RecordInvalid:
    event = record.payload
    assert isinstance(event, AuditEvent)
    is_by_details = len(event.details_json.encode()) * 2 > len(line)
    return RecordInvalid(
        "audit.details_json" if is_by_details else "",
        f"makes an audit line of {len(line)} bytes, more than {max_line_bytes}",
    )
