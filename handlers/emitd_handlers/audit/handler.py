"""`JsonAuditHandler`: audit events, in an append-only file with one JSON object a line.

    {"timestamp":"2026-11-23T03:39:00.000000000Z","event_id":"...","event_name":"user.login.success",...}

An event is acknowledged once its line is on the medium; a batch is one write and one sync. `write.encoder` makes the
lines, `write.log` stores and proves them. In the background `write.maintenance` signs new lines, and checks whether
another process touched the file. `read.reader` shows them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import msgspec

from emitd_handlers.audit.format.files import FIRST
from emitd_handlers.audit.format.line import MAX_LINE_BYTES, encode_line, recent_commit
from emitd_handlers.audit.read.reader import AuditReader, CommittedLog
from emitd_handlers.audit.write.encoder import AuditEncoder, EncodedLines
from emitd_handlers.audit.write.file import AuditFile, AuditStats
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.audit.write.maintenance import AuditMaintenance
from emitd_handlers.audit.write.recovery import MAX_GROUP_BYTES, damaged_beyond_repair
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.diagnostics import Report
from emitd_handlers.diagnostics import report as report_to_operator
from emitd_handlers.durable.disk import Disk
from emitd_handlers.durable.worker_thread import WorkerThread
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, Outcomes, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings, PositiveInt, PositiveSeconds

T = TypeVar("T")


class JsonAuditSettings(HandlerSettings, frozen=True, kw_only=True):
    """The keys of an entry of type `json_audit`, besides the common ones."""

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


_UNANSWERED = Refused(HandlerUnavailable("the record was not processed"))


class _Open(msgspec.Struct, frozen=True):
    """The parts that exist between start and stop."""

    encoder: AuditEncoder
    maintenance: AuditMaintenance
    reading: WorkerThread


class JsonAuditHandler(AuditReader, BaseLogHandler):
    """Appends audit events to its log, and answers each with its place there. It is an AuditSource."""

    Settings: ClassVar[type[HandlerSettings]] = JsonAuditSettings
    settings: JsonAuditSettings
    emit = BaseLogHandler.emit_by_batch
    default_levels = frozenset({Level.AUDIT})
    default_delivery = Delivery.COMMITTED
    joins_calls = True
    default_required = True

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
        own = self.settings
        #: One for all starts: if it went down, it takes no files that lack what it has acknowledged.
        self._log = AuditLog(own.path, disk or Disk(), report, log_id=own.log_id, key=own.key)
        self._report = report
        #: None while records are refused.
        self._open: _Open | None = None
        #: The end of the lines on the medium, and a future that readers wait on for more.
        self._committed = FIRST
        self._more_lines: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Open the log. The time grows with the lines that a crash has left after the last checkpoint.

        Raises HandlerUnavailable if it cannot be opened, another process has it, or it is damaged as no crash does.
        """
        await super().start()
        try:
            await self.run_in_thread(self._log.open)
        except BaseException:  # also if the start itself is given up: the lock must not stay
            await self.run_in_thread(self._log.close)
            await super().stop()
            raise
        self._committed = self._log.file.end
        self._open = self._assemble()
        self._open.maintenance.start()

    def introduction(self) -> str:
        """Return a line with the public key, for an auditor to keep elsewhere."""
        return f"audit log '{self._log.file.path}' is signed as {self._log.vkey}"

    async def stop(self) -> None:
        """Commit and sign the accepted records, and close the log."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.maintenance.stop()
            await opened.reading.stop()
            await self.run_in_thread(self._log.close)
            if self._log.is_down and not self.restart_problem:  # found at this moment
                self._report(self._log.problem)
        await super().stop()

    async def write_checkpoint(self) -> None:
        """Sign all committed lines now."""
        await self._opened().maintenance.write_checkpoint()

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Read the last `limit` lines; those without an id from their sender are left out.

        Raises HandlerUnavailable for a damaged line.
        """
        if self._open is None:
            return ()
        return await self.run_in_thread(_read_recent, self._log.file, limit)

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Commit events in order."""
        try:
            opened = self._opened()
            self._refuse_if_unsigned()
        except HandlerUnavailable as error:
            return [Refused(error)] * len(records)
        outcomes: list[Outcome] = [_UNANSWERED] * len(records)
        groups = opened.encoder.encode(records, outcomes)
        append = self._log.append
        appended = [self.run_in_thread(append, b"".join(each.texts), each.leaves) for each in groups]
        for lines, first in zip(groups, appended, strict=True):
            try:
                first_index = await first
            except Exception as error:
                refused = self.refusal(error)
                for place in lines.places:
                    outcomes[place] = refused
            else:
                self._note_committed()
                receipt = _receipts(self._log.file.log_id, lines, first_index)
                if len(lines.places) == len(records):
                    return Outcomes(len(records), receipt)
                for index, place in enumerate(lines.places):
                    outcomes[place] = Committed(receipt(index))
        return outcomes

    def format(self, record: LogRecord) -> bytes:
        """Return the record's line, without its newline. Raises RecordInvalid."""
        return encode_line(record)

    # What AuditReader asks for, which makes this an AuditSource.

    @property
    def log_id(self) -> str:
        """The log's id; empty until it is known."""
        return self.settings.log_id if self._open is None else self._log.file.log_id

    def committed_log(self) -> CommittedLog:
        """Return the log as it is now. Raises HandlerUnavailable if the handler is not running."""
        self._opened()
        file = self._log.file
        return CommittedLog(file.path, file.log_id, self._committed, self._log.tree.note)

    async def wait_for_lines(self, count: int) -> None:
        """Return once there are more than `count` lines on the medium."""
        while self._committed.leaf_index <= count:
            if self._more_lines is None:
                self._more_lines = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._more_lines)

    def run_reading(self, call: Callable[[], T]) -> Awaitable[T]:
        """Run a call in the reading thread."""
        return self._opened().reading.run(call)

    def _opened(self) -> _Open:
        if self._open is None:
            raise HandlerUnavailable(f"handler '{self.name}' is not running")
        return self._open

    @property
    def stats(self) -> AuditStats:
        """Counts since the last start."""
        return self._log.file.stats

    def _assemble(self) -> _Open:
        settings = self.settings
        return _Open(
            encoder=AuditEncoder(
                settings.max_line_bytes,
                settings.max_group_bytes,
                self._log.file.last_received_unix_nano,
                encode_line if type(self).format is JsonAuditHandler.format else self.format,
                self.clock,
            ),
            maintenance=AuditMaintenance(
                self._log, self.run_in_thread, self._report, settings.checkpoint_seconds, self._on_check
            ),
            reading=WorkerThread(f"emitd-read-{self.name}"),
        )

    def _refuse_if_unsigned(self) -> None:
        """Raise HandlerUnavailable if too many lines wait to be signed."""
        count = self._log.tree.uncovered
        if count > self.settings.max_uncovered_lines:
            reason = self._log.tree.problem or "the disk does not keep up"
            raise HandlerUnavailable(f"{count} lines wait for a checkpoint (max_uncovered_lines): {reason}")

    def _on_check(self) -> None:
        self._note_committed()
        if self._log.is_down:
            self.request_restart(self._log.problem)
        else:
            self.report_health(self._log.problem)

    def _note_committed(self) -> None:
        """Let readers see the lines that the writer's thread has put on the medium."""
        committed = self._log.file.end
        if committed != self._committed:
            self._committed = committed
            if self._more_lines is not None:
                self._more_lines.set_result(None)
                self._more_lines = None


def _receipts(log_id: str, lines: EncodedLines, first_index: int) -> Callable[[int], AuditReceipt]:
    """Return what makes the receipt of one of some lines; it does not hold on to their text."""
    event_ids, leaves = lines.event_ids, lines.leaves
    return lambda index: AuditReceipt(log_id, event_ids[index], first_index + index, leaves[index])


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
