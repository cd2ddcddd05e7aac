"""`SqliteJobStore`: jobs in one SQLite file, which other programs may read.

It has two connections, each with its own thread: in WAL mode a reader never waits for the writer, so a long list does
not delay acknowledgements, and a large batch does not delay GetJob.
"""

import asyncio
import shlex
import sqlite3
import time
from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

from emitd_handlers.clock import Clock
from emitd_handlers.durable.file_identity import FileIdentity, Recovery
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, TransitionPage, TransitionQuery
from emitd_handlers.jobs.sqlite.database import SqliteConnection, make_database_file, save_database
from emitd_handlers.jobs.sqlite.queries import get_job, list_jobs, list_transitions, load_history
from emitd_handlers.jobs.sqlite.schema import migrate
from emitd_handlers.jobs.sqlite.writer import SqliteJobs
from emitd_handlers.jobs.store import Applied, JobHistory, Removed, Retention
from emitd_handlers.jobs.transaction import DEFAULT_RULES, Rules
from emitd_handlers.outcome import RecentCommit
from emitd_handlers.record import LogRecord

P = ParamSpec("P")
T = TypeVar("T")


class SqliteJobStore:
    """A `JobStore`, whose methods are described there. Time is the server's clock."""

    def __init__(
        self, path: Path, *, cache_size: int, rules: Rules = DEFAULT_RULES, clock: Clock | None = None
    ) -> None:
        """`cache_size`: how many jobs are kept in memory."""
        self._path = path
        self._cache_size = cache_size
        self._rules = rules
        self._clock = clock
        self._writer: SqliteConnection | None = None
        self._reader: SqliteConnection | None = None
        self._reading = asyncio.Lock()
        #: How many receipts to keep.
        self._receipt_limit = 100_000
        self._jobs = self._make_jobs()
        #: The database's files, as they were opened.
        self._files: Sequence[FileIdentity] = ()
        self._recovery = Recovery(f"database '{path}'", _files_of(path))
        #: Why a database that was displaced, saved and closed takes no reports; empty: that was not so.
        self._displaced = ""

    async def open(self) -> None:
        self._recovery.refuse_if_pending()
        try:
            await self._open()
        except BaseException as error:
            await self.close()
            if isinstance(error, (OSError, sqlite3.Error, HandlerUnavailable)):
                raise HandlerUnavailable(
                    f"database '{self._path}' cannot be opened: {_reason(error, self._path)}"
                ) from error
            raise

    async def close(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        for connection in (reader, writer):  # the last one to close tidies up
            if connection is not None:
                await connection.close()

    async def check(self) -> str:
        """Look whether the database's files still have their names; return why it takes no reports, empty: it does.

        A displaced database is saved and closed; it is opened again once the operator has put it back.
        """
        try:
            if self._displaced:
                if self._recovery.pending() is None:
                    await self.open()
            elif self._writer is not None and (problem := self._find_displaced()):
                folder = await self._writer.run(save_database, self._path, self._recovery)
                self._displaced = problem
                await self.close()  # which removes files of SQLite, so the advice comes after it
                self._displaced = f"{problem}. {self._recovery.advice(folder)}"
        except HandlerUnavailable as error:
            return str(error)
        except (OSError, sqlite3.Error) as error:
            return f"database '{self._path}' takes no reports: its files cannot be checked and saved: {error}"
        return self._displaced

    async def apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        return await self._write(self._jobs.apply, records, interest)

    async def end_expired(
        self, interval_seconds: float, waited_seconds: float, interest: Container[str]
    ) -> Sequence[JobHistory]:
        asked_at = time.monotonic()

        def end_expired(connection: sqlite3.Connection) -> Sequence[JobHistory]:
            # A report may also have arrived while the thread was busy.
            waited = waited_seconds + time.monotonic() - asked_at
            return self._jobs.end_expired(connection, interval_seconds, waited, interest)

        return await self._write(end_expired)

    async def request_cancel(
        self, job_id: str, reason: str, interest: Container[str]
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        return await self._write(self._jobs.request_cancel, job_id, reason, interest)

    async def remove_ended(self, retention: Retention, limit: int) -> Removed:
        return await self._write(self._jobs.remove_ended, retention, limit)

    async def get(self, job_id: str) -> Job | None:
        return await self._read(get_job, job_id)

    async def list(self, query: JobQuery) -> JobPage:
        return await self._read(list_jobs, query)

    async def list_transitions(self, query: TransitionQuery) -> TransitionPage | None:
        return await self._read(list_transitions, query)

    async def load_history(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        return await self._read(load_history, job_id, after_revision)

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        self._receipt_limit = limit
        return await self._write(self._jobs.recent_commits, limit)

    def _make_jobs(self) -> SqliteJobs:
        return SqliteJobs(
            cache_size=self._cache_size,
            rules=self._rules,
            clock=self._clock,
            receipt_limit=self._receipt_limit,
        )

    async def _open(self) -> None:
        self._jobs = self._make_jobs()
        make_database_file(self._path)
        self._writer = await SqliteConnection.open(self._path)
        await self._writer.run(migrate)
        # What a killed process had committed but not synced is on the medium after this, and counts from here on.
        await self._writer.execute_fetchall("PRAGMA wal_checkpoint")
        await self._writer.run(self._jobs.resume_clock)
        self._reader = await SqliteConnection.open(self._path)
        await self._reader.execute_fetchall("PRAGMA query_only = ON")
        found = [FileIdentity.of(path) for path in _files_of(self._path.resolve())]
        self._files = [identity for identity in found if identity is not None]
        self._displaced = ""

    def _find_displaced(self) -> str:
        """Return what has happened to the database's files, if another process has displaced one; empty: none has."""
        for identity in self._files:
            displacement = identity.displacement()
            if displacement is not None:
                return f"database '{self._path}' takes no reports: {displacement.value} ('{identity.path}')"
        return ""

    async def _write(
        self, call: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def checked(connection: sqlite3.Connection) -> T:
            result = call(connection, *args, **kwargs)
            if problem := self._find_displaced():  # what was committed is in a file that no restart finds
                raise HandlerUnavailable(problem)
            return result

        with self._use(self._writer) as connection:
            return await connection.run(checked)

    async def _read(
        self,
        query: Callable[Concatenate[aiosqlite.Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        # One at a time: a query that begins before another has ended would get the same snapshot, which may be older
        # than an acknowledged report.
        async with self._reading:
            with self._use(self._reader) as connection:
                return await query(connection, *args, **kwargs)

    @contextmanager
    def _use(self, connection: SqliteConnection | None) -> Iterator[SqliteConnection]:
        """Raise HandlerUnavailable for whatever goes wrong with the database in the block."""
        if connection is None:
            raise HandlerUnavailable(self._displaced or f"database '{self._path}' is not open")
        try:
            yield connection
        except (sqlite3.Error, OSError, ValueError) as error:
            advice = _advice(error, self._path)
            raise HandlerUnavailable(f"database '{self._path}' failed: {error}{advice}") from error


def _files_of(path: Path) -> Sequence[Path]:
    """Return where SQLite keeps the files of a database."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def _reason(error: OSError | sqlite3.Error | HandlerUnavailable, path: Path) -> str:
    if isinstance(error, HandlerUnavailable):
        return str(error)
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
    expected = "expected a new file or an SQLite database that this user may write to"
    return f"{reason}; {expected}{_advice(error, path)}"


def _advice(error: Exception, path: Path) -> str:
    """Return how to set a damaged database aside; only people do that, never the service."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ""
    folder = shlex.quote(str(path.parent / f"damaged-{path.name}"))
    command = f"mkdir {folder} && mv {shlex.quote(str(path))}* {folder}/"
    return f". Put a good copy in its place, or set it aside to begin with an empty one: {command}"
