"""`DatabaseJobHandler`: reports on jobs, merged into a table, and the jobs to read, list and watch.

A report is acknowledged once the transaction that it is merged in is on the medium. Whatever arrives while
one transaction is under way shares the next. `job_merge` is the rule, `sqlite_jobs` the transaction,
`sqlite_schema` has the tables, `job_hub` tells the watchers.

There are two connections, each with a thread of its own: in WAL mode a reader never waits for the writer, so
that neither a long list delays acknowledgements nor a large group the answer to GetJob.
"""

import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Concatenate, ParamSpec, TypeVar

import msgspec

from emitd_handlers.base import BaseLogHandler, EmitResult
from emitd_handlers.database_url import DatabaseUrl
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.group_commit import GroupCommit
from emitd_handlers.job import Job, JobPage, JobQuery, JobUpdate
from emitd_handlers.job_hub import JobHistory, JobHub
from emitd_handlers.outcome import Outcome, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.sqlite_connection import SqliteConnection, make_database_file
from emitd_handlers.sqlite_job_queries import get_job, list_jobs, load_history
from emitd_handlers.sqlite_jobs import SqliteJobs
from emitd_handlers.sqlite_schema import migrate

__all__ = ["DatabaseJobHandler", "DatabaseJobSettings"]

#: Reports in one transaction, unless a single batch has more.
MAX_GROUP_RECORDS = 4096

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseJobSettings(HandlerSettings, frozen=True, kw_only=True):
    """What an entry of type `database_job` takes beside the common keys."""

    #: The database: `sqlite:///` and a path relative to the configuration file, or `sqlite:////` and an
    #: absolute one. Folders and the file are made where they are missing, with modes 0700 and 0600.
    database: DatabaseUrl = DatabaseUrl(Path("logs/jobs.db"))
    #: How many jobs are kept in memory, about 1 kB each, so that a report need not read its job first.
    cache_size: Annotated[int, msgspec.Meta(ge=0)] = 16_384


class DatabaseJobHandler(BaseLogHandler):
    """Keeps jobs in a database. Its receipts say what a report did to its job; a `JobSource`.

    Other programs may read the tables at any time, and also write to them; but who watches a job is told only
    what comes through this handler.
    """

    Settings: ClassVar[type[HandlerSettings]] = DatabaseJobSettings
    settings: DatabaseJobSettings
    default_levels = frozenset({Level.JOB_STATUS})
    default_delivery = Delivery.COMMITTED

    def __init__(self, settings: DatabaseJobSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings, name=name)
        self._path = self.settings.database.path
        self._writer: SqliteConnection | None = None
        self._reader: SqliteConnection | None = None
        self._jobs = SqliteJobs(cache_size=self.settings.cache_size)
        self._commits = GroupCommit(self._commit, max_size=MAX_GROUP_RECORDS)
        self._hub = JobHub(self._load_history)

    async def start(self) -> None:
        """Open the database, and make or migrate its tables.

        Raises HandlerUnavailable, saying in one line what is wrong and what to do.
        """
        await super().start()
        if self._writer is not None:
            return
        try:
            await self._open()
        except BaseException as error:
            await self._close()
            if isinstance(error, (OSError, sqlite3.Error, HandlerUnavailable)):
                raise HandlerUnavailable(
                    f"database '{self._path}' cannot be opened: {_reason(error)}"
                ) from error
            raise

    async def stop(self) -> None:
        """End the watches, commit what has been taken, and close the database."""
        self._stopped = True
        self._hub.close(f"handler '{self.name}' is stopped")
        await self._commits.drain()
        await self._close()
        await super().stop()

    async def emit(self, record: LogRecord) -> EmitResult:
        """Merge one report."""
        (outcome,) = await self.emit_batch([record])
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome.receipt

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Merge the reports, in order, in one transaction with those of other calls."""
        self.refuse_if_stopped()
        return await self._commits.submit(records, len(records))

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Return the last reports with a record_id, as far as the database has them."""
        return await self._run(self._writer, self._jobs.recent_commits, limit)

    async def get(self, job_id: str) -> Job | None:
        """Return the job as it stands, or None."""
        return await self._run(self._reader, get_job, job_id)

    async def list(self, query: JobQuery) -> JobPage:
        """Return a page of jobs, newest first; see `JobSource.list`."""
        return await self._run(self._reader, list_jobs, query)

    def watch(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[JobUpdate | None, None]:
        """Yield the job's state, then every change; see `JobSource.watch`."""
        return self._hub.watch(
            job_id,
            after_revision=after_revision,
            min_interval_seconds=min_interval_seconds,
            idle_seconds=idle_seconds,
        )

    async def _open(self) -> None:
        self._jobs = SqliteJobs(cache_size=self.settings.cache_size)
        self._hub = JobHub(self._load_history)
        make_database_file(self._path)
        self._writer = await SqliteConnection.open(self._path)
        await self._writer.run(migrate)
        await self._writer.run(_settle)
        self._reader = await SqliteConnection.open(self._path)
        await self._reader.run(_forbid_writes)

    async def _commit(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        applied = await self._run(self._writer, self._jobs.apply, records, self._hub.watched)
        for change in applied.changes:
            self._hub.publish(change.job, change.transitions, after_revision=change.after_revision)
        return applied.outcomes

    async def _load_history(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        return await self._run(self._reader, load_history, job_id, after_revision)

    async def _run(
        self,
        connection: SqliteConnection | None,
        call: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if connection is None:
            raise HandlerUnavailable(f"handler '{self.name}' is not running")
        try:
            return await connection.run(call, *args, **kwargs)
        except sqlite3.Error as error:
            raise HandlerUnavailable(f"database '{self._path}' failed: {error}") from error

    async def _close(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        for connection in (reader, writer):  # the last one to close tidies up
            if connection is not None:
                await connection.close()


def _settle(connection: sqlite3.Connection) -> None:
    """Bring to the medium what a killed process had committed but not synced: from here on it counts."""
    connection.execute("PRAGMA wal_checkpoint").fetchone()


def _forbid_writes(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")


def _reason(error: OSError | sqlite3.Error | HandlerUnavailable) -> str:
    if isinstance(error, HandlerUnavailable):
        return str(error)
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return f"{reason}; expected a new file or an SQLite database that this user may write to"
