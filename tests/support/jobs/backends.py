"""The databases that jobs can be kept in, so that one test runs over each of them.

    @pytest.fixture(params=BACKENDS)
    def backend(request: pytest.FixtureRequest) -> JobBackend:
        return make_backend(request)

Time is the database's own. A test moves it by moving what the database has noted: the ends of leases, the stamp of the
last pass over them, the ends of jobs.
"""

import asyncio
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler, DatabaseJobSettings
from emitd_handlers.jobs.source import Job, TransitionQuery
from emitd_handlers.jobs.sqlite.store import SqliteJobStore
from emitd_handlers.jobs.store import JobStore
from emitd_handlers.jobs.transaction import Rules
from emitd_handlers.outcome import Committed, JobReceipt, Outcome
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord

__all__ = [
    "BACKENDS",
    "JobBackend",
    "applied",
    "get",
    "history",
    "make_backend",
    "opened",
    "receipt",
    "report",
    "running",
    "start",
]

MICROSECOND = 1000
_clock = itertools.count(time.time_ns(), MICROSECOND)


class JobBackend(Protocol):
    """One empty database. Its methods may be called while a store or a handler is at work on it."""

    def make_store(self, *, keep_progress: bool = False) -> JobStore:
        """Return a store over the database, not open yet."""

    def make_handler(self, **settings: Any) -> DatabaseJobHandler:
        """Return a handler over the database, not started yet. Without settings it looks at leases at start alone."""

    async def shift_leases(self, seconds: float) -> None:
        """Move the end of every lease."""

    async def shift_last_pass(self, seconds: float) -> None:
        """Move the stamp of the last pass over the leases."""

    async def forget_passes(self) -> None:
        """Remove that stamp: as if no pass had ever been."""

    async def shift_ends(self, seconds: float) -> None:
        """Move the end of every job that has ended."""

    async def write_job(self, job_id: str, **columns: object) -> None:
        """Change a row of `job_logs`, as another program may."""

    async def fail_passes(self) -> None:
        """Let the database refuse every pass over the leases, saying `told to fail`."""

    async def mend_passes(self) -> None:
        """End what `fail_passes` began."""


class SqliteBackend:
    """A `JobBackend` in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make_store(self, *, keep_progress: bool = False) -> JobStore:
        return SqliteJobStore(self.path, cache_size=100, rules=Rules(keep_progress=keep_progress))

    def make_handler(self, **settings: Any) -> DatabaseJobHandler:
        settings.setdefault("lease_check_seconds", 3600.0)
        return DatabaseJobHandler(
            DatabaseJobSettings(database=DatabaseUrl(self.path), **settings), name="jobs"
        )

    async def shift_leases(self, seconds: float) -> None:
        self._shift("job_logs", "lease_expires_at", seconds)

    async def shift_last_pass(self, seconds: float) -> None:
        self._shift("job_lease_watch", "passed_at", seconds)

    async def forget_passes(self) -> None:
        self._execute("DELETE FROM job_lease_watch")

    async def shift_ends(self, seconds: float) -> None:
        self._shift("job_logs", "ended_at", seconds)

    async def write_job(self, job_id: str, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._execute(f"UPDATE job_logs SET {assignments} WHERE job_id = ?", *columns.values(), job_id)

    async def fail_passes(self) -> None:
        for event in ("INSERT", "UPDATE"):
            self._execute(
                f"CREATE TRIGGER failing_{event} BEFORE {event} ON job_lease_watch "
                "BEGIN SELECT raise(ABORT, 'told to fail'); END"
            )

    async def mend_passes(self) -> None:
        for event in ("INSERT", "UPDATE"):
            self._execute(f"DROP TRIGGER failing_{event}")

    def _shift(self, table: str, column: str, seconds: float) -> None:
        with closing(self._connect()) as connection:
            connection.create_function("shifted", 1, lambda text: _shifted(text, seconds))
            connection.execute(f"UPDATE {table} SET {column} = shifted({column}) WHERE {column} IS NOT NULL")

    def _execute(self, statement: str, *parameters: Any) -> None:
        with closing(self._connect()) as connection:
            connection.execute(statement, parameters)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=20, isolation_level=None)


def _shifted(text: str, seconds: float) -> str:
    moved = datetime.fromisoformat(text) + timedelta(seconds=seconds)
    return moved.isoformat(" ", "microseconds")


def _sqlite(request: pytest.FixtureRequest) -> JobBackend:
    folder: Path = request.getfixturevalue("tmp_path")
    return SqliteBackend(folder / "jobs.db")


#: By name, each with what makes an empty one for the test that asks.
BACKENDS: Mapping[str, Callable[[pytest.FixtureRequest], JobBackend]] = {
    "sqlite": _sqlite,
    "postgres": lambda request: request.getfixturevalue("postgres"),
}


def make_backend(request: pytest.FixtureRequest) -> JobBackend:
    """Return the backend that is named by a fixture's parameter."""
    return BACKENDS[request.param](request)


@asynccontextmanager
async def opened(store: JobStore) -> AsyncIterator[JobStore]:
    """Have the store open during the block."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def start(handler: DatabaseJobHandler) -> None:
    """Start the handler, and wait until its first pass over the leases is made: it puts them off."""
    await handler.start()
    await asyncio.sleep(0)
    await handler._turns.drain()


@asynccontextmanager
async def running(handler: DatabaseJobHandler) -> AsyncIterator[DatabaseJobHandler]:
    """Have the handler run during the block."""
    await start(handler)
    try:
        yield handler
    finally:
        await handler.stop()


def report(
    job_id: str = "j",
    status: JobState = JobState.RUNNING,
    *,
    record_id: str = "",
    message: str = "",
    **fields: Any,
) -> LogRecord:
    """Return a report, received a microsecond later than the one before."""
    now = next(_clock)
    return LogRecord(
        Level.JOB_STATUS,
        message,
        record_id,
        time_unix_nano=now,
        received_unix_nano=now,
        source="worker",
        payload=JobStatus(job_id, "t", status, **fields),
    )


def receipt(outcome: Outcome) -> JobReceipt:
    """Return the receipt of a report that was committed."""
    assert isinstance(outcome, Committed), outcome
    assert isinstance(outcome.receipt, JobReceipt)
    return outcome.receipt


async def applied(store: JobStore, *records: LogRecord) -> Sequence[JobReceipt]:
    """Apply reports that must all be committed, and return their receipts."""
    return [receipt(outcome) for outcome in (await store.apply(records, ())).outcomes]


async def get(source: JobStore | DatabaseJobHandler, job_id: str = "j") -> Job:
    """Return a job that must exist."""
    job = await source.get(job_id)
    assert job is not None
    return job


async def history(source: JobStore | DatabaseJobHandler, job_id: str = "j") -> Sequence[tuple[int, str]]:
    """Return revision and status, or `tick`, of all that is kept of a job's history."""
    page = await source.list_transitions(TransitionQuery(job_id=job_id, page_size=1000))
    assert page is not None
    return [(item.revision, "tick" if item.progress_only else item.status.name) for item in page.transitions]
