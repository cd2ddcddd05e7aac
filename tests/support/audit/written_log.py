"""A sealed log that grows while it is read, without the handler that writes real ones."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.read.reader import AuditReader, CommittedLog
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
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.durable.worker_thread import WorkerThread
from emitd_handlers.record import Level, LogRecord
from support.audit.sealed_log import LOG_ID, SealedLog, make_line

T = TypeVar("T")


class WrittenLog:
    """A log and a reader of it. What is appended counts only once it is committed."""

    def __init__(self, path: Path, *, log_id: str = LOG_ID) -> None:
        self.log = SealedLog(path, log_id=log_id)
        self.committed = (0, 0)
        self.worker = WorkerThread("test-audit-reader")
        self.grown = asyncio.Event()
        self.reader = _Reader(self, log_id)

    def append(self, lines: Sequence[bytes]) -> None:
        """Append lines that are not committed yet."""
        self.log.append(lines)

    def commit(self, lines: Sequence[bytes] = ()) -> None:
        """Append lines, and commit all that there are."""
        self.append(lines)
        self.committed = (len(self.log.lines), self.log.path.stat().st_size)
        self.grown.set()
        self.grown = asyncio.Event()

    def grow(self, count: int) -> None:
        """Commit so many made-up lines more."""
        first = len(self.log.lines)
        self.commit([make_line(number) for number in range(first, first + count)])


class _Reader(AuditReader):
    def __init__(self, log: WrittenLog, log_id: str) -> None:
        self.log_id = log_id
        self._log = log

    def committed_log(self) -> CommittedLog:
        notes = self._log.log.notes
        return CommittedLog(
            self._log.log.path, self.log_id, Entry(*self._log.committed), notes[-1] if notes else b""
        )

    async def wait_for_lines(self, count: int) -> None:
        while self._log.committed[0] <= count:
            await self._log.grown.wait()

    def run_reading(self, call: Callable[[], T]) -> Awaitable[T]:
        return self._log.worker.run(call)


@asynccontextmanager
async def written_log(path: Path, size: int = 0, *, log_id: str = LOG_ID) -> AsyncIterator[WrittenLog]:
    """Give a log with so many lines and a checkpoint over them, where there are any."""
    log = WrittenLog(path, log_id=log_id)
    log.grow(size)
    if size:
        log.log.checkpoint()
    try:
        yield log
    finally:
        await log.worker.stop()


class WrittenLogHandler(BaseLogHandler):
    """A handler that serves a log, and takes no records."""

    default_levels = frozenset({Level.AUDIT})

    def __init__(self, log: WrittenLog, name: str = "audit") -> None:
        super().__init__(name=name)
        self._reader = log.reader

    @property
    def log_id(self) -> str:
        return self._reader.log_id

    def emit(self, record: LogRecord) -> None:
        raise AssertionError("this log is only read")

    async def checkpoint(self) -> SignedCheckpoint | None:
        return await self._reader.checkpoint()

    async def inclusion_proof(self, leaf_index: int, tree_size: int | None = None) -> InclusionProof:
        return await self._reader.inclusion_proof(leaf_index, tree_size)

    async def consistency_proof(self, old_size: int, new_size: int | None = None) -> ConsistencyProof:
        return await self._reader.consistency_proof(old_size, new_size)

    async def find(self, event_id: str, source: str | None = None) -> AuditEntry | None:
        return await self._reader.find(event_id, source)

    async def list(self, query: AuditQuery) -> AuditPage:
        return await self._reader.list(query)

    def tail(
        self, wanted: AuditFilter, *, from_index: int | None = None, idle_seconds: float | None = None
    ) -> AsyncGenerator[AuditBatch, None]:
        return self._reader.tail(wanted, from_index=from_index, idle_seconds=idle_seconds)
