"""`SimulatedSqlite`: a database of jobs for a simulation: a real file, whose moments and failures are chosen.

Calls run in the event loop, so that nothing but the simulation's own choices decides what happens before what. The
model is told of each transaction between its commit and everybody else.
"""

import asyncio
import math
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from emitd_handlers.clock import STEP_PAUSE_SECONDS, Clock
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler, DatabaseJobSettings
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.sqlite.store import SqliteJobStore
from emitd_handlers.jobs.sqlite.writer import SqliteJobs
from emitd_handlers.jobs.store import Applied, JobHistory, JobStore, Removed, Retention
from emitd_handlers.jobs.transaction import Rules
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, Refused
from emitd_handlers.record import LogRecord
from support.jobs.model import Answer, JobModel

__all__ = ["Moments", "SimulatedSqlite"]

T = TypeVar("T")

SECOND = 1_000_000_000
#: When the simulation begins.
EPOCH = 1_700_000_000 * SECOND + 123


class Moments:
    """How long calls take and which fail, by a random generator."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._slow_share = random.choice([0.0, 0.01, 0.1])
        #: Nothing takes any time, and nothing fails.
        self.is_calm = False
        #: How many of the next transactions fail just before their commit.
        self.failing = 0
        #: Calls under way.
        self.busy = 0

    async def around(self, call: Callable[[], T], *, is_prompt: bool = False) -> T:
        """Run the call after some turns of the loop or (not `is_prompt`) some seconds, and return after some more."""
        self.busy += 1
        try:
            await self._pass(is_prompt)
            try:
                return call()
            finally:
                await self._pass(False)
        finally:
            self.busy -= 1

    def fail_if_chosen(self) -> None:
        if self.failing and not self.is_calm:
            self.failing -= 1
            raise sqlite3.OperationalError("chosen to fail")

    async def _pass(self, is_prompt: bool) -> None:
        if not (self.is_calm or is_prompt) and self._random.random() < self._slow_share:
            await asyncio.sleep(self._random.choice([0.05, 0.5, 3.0]))
        for _ in range(self._random.choice([0, 0, 0, 1, 2, 5])):
            await asyncio.sleep(0)


class SimulatedSqlite:
    """One file over many restarts. To be used in a `VirtualTimeLoop`."""

    def __init__(self, folder: Path, random: Random, model: JobModel) -> None:
        self.moments = Moments(random)
        self.model = model
        #: What each record must have been answered, by when it was received.
        self.answers: dict[int, Answer] = {}
        #: Reports that wait to be committed: job, and when they were submitted.
        self.submitted: dict[int, tuple[str, int]] = {}
        #: How far the server's clock is ahead of the loop's.
        self.clock_offset = EPOCH
        self._path = folder / "jobs.db"
        self._copy = folder / "copy.db"
        self._copied_model: JobModel | None = None
        self._connections: list[_Connection] = []

    def now(self) -> int:
        """Return the server's time."""
        return self.clock_offset + int(asyncio.get_running_loop().time() * SECOND)

    def make_handler(self, **settings: Any) -> DatabaseJobHandler:
        """Return a handler that is not started."""
        return _Handler(self, DatabaseJobSettings(database=DatabaseUrl(self._path), **settings))

    def make_store(self, *, cache_size: int, rules: Rules) -> JobStore:
        return _Store(self, self._path, cache_size=cache_size, rules=rules)

    async def open(self, path: Path) -> "_Connection":
        """Open the file; to stand in for `SqliteConnection`."""
        connection = _Connection(path, self.moments)
        self._connections.append(connection)
        return connection

    async def kill(self, handler: DatabaseJobHandler) -> None:
        """Let go of a handler as a killed process does: nothing more is done, wherever it was."""
        tasks = [*handler._tasks, *filter(None, [handler._turns._task])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.disconnect()

    def disconnect(self) -> None:
        """Close what is open."""
        for connection in self._connections:
            connection.connection.close()
        self._connections.clear()
        self.submitted.clear()

    def save(self) -> None:
        """Copy the database as it is now."""
        self._copy.unlink(missing_ok=True)
        source, target = sqlite3.connect(self._path), sqlite3.connect(self._copy)
        source.backup(target)
        source.close()
        target.close()
        self._copied_model = self.model.copy()

    @property
    def has_copy(self) -> bool:
        return self._copied_model is not None

    def restore(self) -> None:
        """Put the copy in the place of the database, which nobody may have open."""
        assert self._copied_model is not None
        for path in self._path.parent.glob("jobs.db*"):
            path.unlink()
        shutil.copyfile(self._copy, self._path)
        self.model = self._copied_model.copy()


class _Handler(DatabaseJobHandler):
    def __init__(self, database: SimulatedSqlite, settings: DatabaseJobSettings) -> None:
        self._simulated = database
        super().__init__(settings, name="jobs")

    def _make_store(self) -> JobStore:
        settings = self.settings
        return self._simulated.make_store(
            cache_size=settings.cache_size, rules=Rules(keep_progress=settings.keep_progress)
        )


class _Connection:
    """As `SqliteConnection`, without a thread."""

    def __init__(self, path: Path, moments: Moments) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = OFF")  # nobody cuts the power here
        self._moments = moments

    async def run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # A pass over the leases knows how long it has waited; not how long its thread takes to begin, which is nothing.
        is_prompt = call.__name__ == "end_expired"
        return await self._moments.around(lambda: call(self.connection, *args, **kwargs), is_prompt=is_prompt)

    async def execute_fetchall(self, statement: str, parameters: Any = ()) -> Sequence[Any]:
        return await self._moments.around(lambda: self.connection.execute(statement, parameters).fetchall())

    @asynccontextmanager
    async def execute(self, statement: str, parameters: Any = ()) -> AsyncGenerator["_Cursor", None]:
        cursor = await self._moments.around(lambda: self.connection.execute(statement, parameters))
        yield _Cursor(cursor, self._moments)
        cursor.close()

    async def close(self) -> None:
        self.connection.close()


class _Cursor:
    def __init__(self, cursor: sqlite3.Cursor, moments: Moments) -> None:
        self._cursor = cursor
        self._moments = moments

    async def fetchmany(self, size: int) -> Sequence[Any]:
        return await self._moments.around(lambda: self._cursor.fetchmany(size))


class _Store(SqliteJobStore):
    def __init__(self, database: SimulatedSqlite, path: Path, *, cache_size: int, rules: Rules) -> None:
        self._database = database
        super().__init__(path, cache_size=cache_size, rules=rules)

    def _make_jobs(self) -> SqliteJobs:
        return _Jobs(self._database, cache_size=self._cache_size, rules=self._rules)


class _Jobs(SqliteJobs):
    """Tells the model what it has committed, and how that was answered."""

    def __init__(self, database: SimulatedSqlite, *, cache_size: int, rules: Rules) -> None:
        super().__init__(cache_size=cache_size, rules=rules, clock=Clock(database.now, _loop_time))
        self._database = database
        #: By how much the clock was set since the last pass, and when that was seen.
        self._offset, self._set_by, self._set_at = database.clock_offset, 0, -math.inf
        self._is_settled = self._has_looked = False

    def _note_offset(self) -> None:
        step = self._database.clock_offset - self._offset
        if self._has_looked and step:
            self._set_by, self._set_at, self._is_settled = self._set_by + step, _loop_time(), False
        self._offset, self._has_looked = self._database.clock_offset, True

    def apply(
        self, connection: sqlite3.Connection, records: Sequence[LogRecord], interest: Container[str] = ()
    ) -> Applied:
        self._note_offset()
        applied = super().apply(connection, records, interest)
        database = self._database
        answers = database.model.apply(records, self._clock.now(), database.now())
        for record, answer, outcome in zip(records, answers, applied.outcomes, strict=True):
            check_answer(record, answer, outcome)
            database.answers[record.received_unix_nano] = answer
            database.submitted.pop(record.received_unix_nano, None)
        return applied

    def end_expired(
        self,
        connection: sqlite3.Connection,
        interval_seconds: float,
        waited_seconds: float,
        interest: Container[str] = (),
    ) -> Sequence[JobHistory]:
        self._note_offset()
        changes = super().end_expired(connection, interval_seconds, waited_seconds, interest)
        model, set_by = self._database.model, None if self._is_settled else self._set_by
        self._is_settled, self._set_by = True, 0
        for job_id, end in model.pass_over_leases(
            interval_seconds, waited_seconds, self._clock.now(), self._database.now(), set_by
        ):
            late = [at for other, at in self._database.submitted.values() if other == job_id and at < end]
            assert not late, f"the lease of {job_id} was ended at {end} while a report waited since {late}"
        return changes

    def request_cancel(
        self, connection: sqlite3.Connection, job_id: str, reason: str, interest: Container[str] = ()
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        self._note_offset()
        job, changes = super().request_cancel(connection, job_id, reason, interest)
        state = self._database.model.request_cancel(job_id, reason, self._clock.now())
        assert (job is None) == (state is None)
        assert job is None or state is None or job.revision == state.revision
        return job, changes

    def remove_ended(self, connection: sqlite3.Connection, retention: Retention, limit: int) -> Removed:
        self._note_offset()
        removed = super().remove_ended(connection, retention, limit)
        if _loop_time() - self._set_at < STEP_PAUSE_SECONDS * SECOND:
            assert not removed.job_ids, "a job was removed just after the clock was set"
            return removed
        self._database.model.remove_ended(
            removed.job_ids,
            self._database.now(),
            ended_seconds=retention.ended_seconds,
            ended_count=retention.ended_count,
            history_seconds=retention.history_seconds,
        )
        return removed

    def _write(self, *args: Any) -> Any:
        written = super()._write(*args)
        self._database.moments.fail_if_chosen()
        return written


def _loop_time() -> int:
    return int(asyncio.get_running_loop().time() * SECOND)


def check_answer(record: LogRecord, answer: Answer, outcome: Outcome) -> None:
    """Hold what a report was answered against the model."""
    if isinstance(outcome, Refused):
        given = Answer(getattr(outcome.error, "field", repr(outcome.error)))
    else:
        receipt = outcome.receipt
        assert isinstance(outcome, Committed)
        assert isinstance(receipt, JobReceipt)
        assert receipt.applied == (not receipt.stale_reason)
        given = Answer(
            "",
            receipt.revision,
            receipt.attempt,
            receipt.stale_reason,
            receipt.cancel_requested,
            outcome.duplicate,
        )
    assert given[:6] == answer[:6], f"{record} was answered {given} and not {answer}"
