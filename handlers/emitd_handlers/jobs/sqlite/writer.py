"""`SqliteJobs`: changes jobs in SQLite, a batch in one transaction.

A transaction holds jobs, transitions and receipts: after a crash all of it is there or nothing. Everything here blocks,
and runs in the thread of the writing connection.
"""

import sqlite3
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from emitd_handlers.clock import NANOS_A_SECOND, STEP_PAUSE_SECONDS, Clock, StepWatch
from emitd_handlers.jobs.columns import transition_to_row
from emitd_handlers.jobs.merge import Merged, expire, put_off, request_cancel, unwatched_since
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.sqlite.rows import (
    INSERT_JOBS,
    INSERT_TRANSITIONS,
    JOB_NAMES,
    UPDATE_JOBS,
    UPDATE_TICKS,
    job_from_row,
    job_to_row,
    read_time,
    tick_to_row,
    time_text,
)
from emitd_handlers.jobs.sqlite.schema import transaction
from emitd_handlers.jobs.store import Applied, JobHistory, Removed, Retention
from emitd_handlers.jobs.transaction import (
    DEFAULT_RULES,
    Opener,
    Opening,
    ReadJob,
    Rules,
    Work,
    encode_receipts,
    is_tick,
    job_ids_of,
    openers_of,
    recent_commits,
)
from emitd_handlers.outcome import RecentCommit
from emitd_handlers.record import LogRecord

#: A job with more text is not kept in memory, so that the number of jobs bounds the memory.
MAX_CACHED_CHARACTERS = 4096
#: Nor is one with more labels, which are two short strings each.
MAX_CACHED_LABELS = 8

SELECT_ROW = f"SELECT rowid, {JOB_NAMES} FROM job_logs WHERE job_id = ?"
#: How many leases end in one pass at most; the others in the next.
MAX_EXPIRED = 1000
SELECT_LAST_TIMES = """
    SELECT max(created_at) FROM job_logs UNION ALL SELECT max(ended_at) FROM job_logs WHERE ended_at IS NOT NULL
    UNION ALL SELECT * FROM (SELECT recorded_at FROM job_receipts ORDER BY last_number DESC LIMIT 1)
"""
#: Another program may have ended a job and left the lease.
SELECT_EXPIRED = """
    SELECT job_id FROM job_logs
    WHERE lease_expires_at <= ? AND (status = 'RUNNING' OR status = 'QUEUED') ORDER BY lease_expires_at LIMIT ?
"""
SELECT_LEASES = (
    "SELECT job_id, lease_expires_at, lease_seconds FROM job_logs WHERE lease_expires_at IS NOT NULL"
)
DELETE_ENDED_BEFORE = """
    DELETE FROM job_logs WHERE job_id IN (
        SELECT job_id FROM job_logs WHERE ended_at <= ? ORDER BY ended_at LIMIT ?
    ) RETURNING job_id
"""
DELETE_SURPLUS = """
    DELETE FROM job_logs WHERE job_id IN (
        SELECT job_id FROM job_logs WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT ? OFFSET ?
    ) RETURNING job_id
"""
SELECT_WITH_HISTORY = """
    SELECT job_id FROM job_logs
    WHERE ended_at <= ? AND ended_at IS NOT NULL AND has_history ORDER BY ended_at LIMIT ?
"""

#: An earlier version has not stored the source.
SELECT_OPENING = """
    SELECT revision, attempt FROM job_transitions
    WHERE job_id = ? AND opened_by = ? AND coalesce(opened_by_source = ?, 1) ORDER BY opened_by_source IS NULL
"""


_first = itemgetter(0)


class CachedJob(ReadJob, gc=False):
    """A job, its row, and whether it is too large to be kept in memory."""

    rowid: int = 0
    is_large: bool = False


class SqliteJobs:
    """Writes the tables of jobs, always over the same connection.

    Keeps up to `cache_size` jobs in memory until another process writes to the database, and the receipts of the last
    `receipt_limit` records in the database.
    """

    def __init__(
        self,
        *,
        cache_size: int,
        rules: Rules = DEFAULT_RULES,
        receipt_limit: int = 100_000,
        clock: Clock | None = None,
    ) -> None:
        self._cache_size = cache_size
        self._rules = rules
        self._receipt_limit = receipt_limit
        self._clock = clock or Clock()
        self._steps = StepWatch(self._clock)
        #: Jobs by id. With them in memory a report of mere progress takes 6 µs instead of 20.
        self._cache: dict[str, CachedJob] = {}
        #: The value of `PRAGMA data_version` for which the cache is right.
        self._data_version = -1
        #: When a pass last saw that there was no lease to watch, by the wall clock.
        self._no_lease_at = 0
        self._last_rowid = 0
        #: The number of all records with a record_id so far.
        self._last_number = 0

    def apply(
        self, connection: sqlite3.Connection, records: Sequence[LogRecord], interest: Container[str] = ()
    ) -> Applied:
        """Merge the reports in `records`, in order; see `JobStore.apply`. Raises sqlite3.Error, as all do here."""
        with self._transaction(connection) as (now, wall):
            rows = self._read(connection, job_ids_of(records))
            openings = _find_openings(connection, records)
            work = Work(rows, now, wall, rules=self._rules, openings=openings)
            outcomes = work.merge(records)
            written = self._write(connection, work)
        return Applied(outcomes, self._finish(work, written, interest))

    def end_expired(
        self,
        connection: sqlite3.Connection,
        interval_seconds: float,
        waited_seconds: float,
        interest: Container[str] = (),
    ) -> Sequence[JobHistory]:
        """Make one pass over the leases; see `JobStore.end_expired`. By the server's clocks."""
        begun_at = self._clock.steady()  # the transaction may have to wait for another process's
        works = self._data_version >= 0
        with self._transaction(connection) as (now, wall):
            if works and connection.execute(f"{SELECT_LEASES} LIMIT 1").fetchone() is None:
                self._no_lease_at = wall  # as good as a stamp, and costs no sync
                self._steps.settle()
                return ()
            self._stamp_pass(connection, wall, interval_seconds)
            waited = self._clock.steady() - begun_at + int(waited_seconds * NANOS_A_SECOND)
            latest = time_text(wall - waited)
            expired = connection.execute(SELECT_EXPIRED, (latest, MAX_EXPIRED)).fetchall()
            rows = self._read(connection, [job_id for (job_id,) in expired])
            work = Work(rows, now, wall)
            for row in rows.values():
                work.change(expire(row.job, now))
            written = self._write(connection, work)
        self._steps.settle()
        return self._finish(work, written, interest)

    def request_cancel(
        self, connection: sqlite3.Connection, job_id: str, reason: str, interest: Container[str] = ()
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        """Record a request to cancel a job; see `JobStore.request_cancel`."""
        with self._transaction(connection) as (now, wall):
            rows = self._read(connection, [job_id])
            if not rows:
                return None, ()
            work = Work(rows, now, wall)
            job = request_cancel(rows[job_id].job, reason, now)
            work.change(Merged(job))
            written = self._write(connection, work)
        return job, self._finish(work, written, interest)

    def remove_ended(self, connection: sqlite3.Connection, retention: Retention, limit: int) -> Removed:
        """Remove ended jobs and their history; see `JobStore.remove_ended`."""
        with self._transaction(connection) as (_, now):
            if self._steps.has_stepped_within(STEP_PAUSE_SECONDS):
                return Removed((), has_more=False)
            removed: list[str] = []
            trimmed: list[tuple[str]] = []
            if retention.ended_seconds is not None:
                latest = _text_before(now, retention.ended_seconds)
                removed += map(_first, connection.execute(DELETE_ENDED_BEFORE, (latest, limit)).fetchall())
            if retention.ended_count is not None:
                room = limit - len(removed)
                surplus = connection.execute(DELETE_SURPLUS, (room, retention.ended_count)).fetchall()
                removed += map(_first, surplus)
            if retention.history_seconds is not None:
                latest = _text_before(now, retention.history_seconds)
                trimmed = connection.execute(SELECT_WITH_HISTORY, (latest, limit - len(removed))).fetchall()
                connection.executemany("DELETE FROM job_transitions WHERE job_id = ?", trimmed)
                connection.executemany(
                    "UPDATE job_logs SET history_revision = revision, has_history = 0 WHERE job_id = ?",
                    trimmed,
                )
        for job_id in removed:
            self._cache.pop(job_id, None)
        return Removed(removed, has_more=len(removed) + len(trimmed) >= limit)

    def recent_commits(self, connection: sqlite3.Connection, limit: int) -> Sequence[RecentCommit]:
        """Return the last reports with a record_id; see `JobStore.recent_commits`."""
        self._receipt_limit = limit
        rows = connection.execute("SELECT receipts FROM job_receipts ORDER BY last_number DESC")
        return recent_commits(map(_first, rows), limit)

    def resume_clock(self, connection: sqlite3.Connection) -> None:
        """Let times of receipt go on after the last that the database has."""
        self._clock.resume(max(read_time(text) for (text,) in connection.execute(SELECT_LAST_TIMES)))

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
        """Run the block in one transaction; an exception undoes everything. Yield the times of receipt and wall."""
        try:
            with transaction(connection):
                self._forget_if_others_wrote(connection)
                asked_at, wall = self._clock.steady(), self._clock.wall()
                self._steps.look(wall, asked_at)
                yield self._clock.now(wall), wall
        except BaseException:
            self._data_version = -1  # the numbers in memory may be ahead of the database now
            raise

    def _read(self, connection: sqlite3.Connection, job_ids: Iterable[str]) -> dict[str, ReadJob]:
        """Return those of the jobs that exist, by id, from memory if they are there."""
        rows: dict[str, ReadJob] = {}
        find = self._cache.get
        for job_id in job_ids:
            row = find(job_id)
            if row is None:
                found = connection.execute(SELECT_ROW, (job_id,)).fetchone()
                if found is None:
                    continue
                rowid, *values = found
                job = job_from_row(values)
                row = CachedJob(job, job, rowid, _is_large(job))
                if not row.is_large:
                    self._cache[job_id] = row
            rows[job_id] = row
        return rows

    def _finish(
        self, work: Work, written: Sequence[CachedJob], interest: Container[str]
    ) -> Sequence[JobHistory]:
        """Keep the committed jobs in memory; return the changes of the jobs of interest."""
        changes = work.changes(interest)
        for row in written:
            row.before = row.job
            if row.is_large:
                self._cache.pop(row.job.job_id, None)
            else:
                self._cache[row.job.job_id] = row
        if len(self._cache) > self._cache_size:
            self._cache.clear()  # the jobs in use come back; cheaper than an order of use
        return changes

    def _write(self, connection: sqlite3.Connection, work: Work) -> Sequence[CachedJob]:
        """Write the changes of jobs; return the changed ones."""
        now = work.now_unix_nano - work.now_unix_nano % 1000
        inserts: list[Any] = []
        updates: list[Any] = []
        ticks: list[Any] = []
        written: list[CachedJob] = []
        count = 0
        for row in work.changed():
            job, before = row.job, row.before
            if before is None:
                self._last_rowid += 1
                row = CachedJob(job, None, self._last_rowid, _is_large(job))
                inserts.append(row.rowid)
                inserts += job_to_row(job, is_new=True)
            else:
                assert isinstance(row, CachedJob)
                count += 1
                if job.update_time_unix_nano == now and is_tick(before, job):
                    ticks += tick_to_row(row.rowid, job)
                    row.is_large = (
                        _is_large(job) if row.is_large else len(job.message) > MAX_CACHED_CHARACTERS
                    )
                else:
                    updates.append(row.rowid)
                    updates += job_to_row(job, is_new=False)
                    row.is_large = _is_large(job)
            written.append(row)
        INSERT_JOBS.run(connection, inserts)
        updated = UPDATE_JOBS.run(connection, updates)
        updated += UPDATE_TICKS.run(connection, ticks, (time_text(now),))
        if updated != count:
            raise sqlite3.DatabaseError("rows of job_logs have gone that were there before")
        if work.transitions:
            values: list[Any] = []
            for job_id, transition in work.transitions:
                values += transition_to_row(job_id, transition)
            INSERT_TRANSITIONS.run(connection, values)
        if work.receipts:
            number = self._last_number = self._last_number + len(work.receipts)
            values = [number, encode_receipts(work.receipts), time_text(now)]
            connection.execute("INSERT INTO job_receipts VALUES (?, ?, ?)", values)
            connection.execute(
                "DELETE FROM job_receipts WHERE last_number <= ?", (number - self._receipt_limit,)
            )
        return written

    def _stamp_pass(self, connection: sqlite3.Connection, now: int, interval_seconds: float) -> None:
        """Record this pass; put off the ends of all leases after a gap, or a step of the clock."""
        row = connection.execute("SELECT passed_at FROM job_lease_watch").fetchone()
        if row is None:
            connection.execute("INSERT INTO job_lease_watch VALUES (?)", (time_text(now),))
        else:
            connection.execute("UPDATE job_lease_watch SET passed_at = ?", (time_text(now),))
        passed_at = max(read_time(row[0]) if row else 0, self._no_lease_at)
        since = unwatched_since(passed_at, now, interval_seconds, self._steps.set_by)
        if since is None:
            return
        ends = [
            (time_text(put_off(read_time(end), seconds, since, now)), job_id, end)
            for job_id, end, seconds in connection.execute(SELECT_LEASES)
        ]
        if moved := [(new_end, job_id) for new_end, job_id, end in ends if new_end != end]:
            connection.executemany("UPDATE job_logs SET lease_expires_at = ? WHERE job_id = ?", moved)
            self._cache.clear()

    def _forget_if_others_wrote(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return
        self._cache.clear()
        (self._last_rowid,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM job_logs").fetchone()
        (self._last_number,) = connection.execute(
            "SELECT coalesce(max(last_number), 0) FROM job_receipts"
        ).fetchone()
        self._data_version = version


def _find_openings(connection: sqlite3.Connection, records: Sequence[LogRecord]) -> Mapping[Opener, Opening]:
    """Return the attempts that the reports have opened before, as far as the history goes."""
    found = {opener: connection.execute(SELECT_OPENING, opener).fetchone() for opener in openers_of(records)}
    return {opener: opening for opener, opening in found.items() if opening}


def _text_before(now_unix_nano: int, seconds: float) -> str:
    """Return the time that many seconds ago, but not before 1970."""
    return time_text(max(0, now_unix_nano - int(seconds * NANOS_A_SECOND)))


def _is_large(job: Job) -> bool:
    characters = len(job.message) + len(job.details_json) + len(job.failure_message)
    return characters > MAX_CACHED_CHARACTERS or len(job.labels) > MAX_CACHED_LABELS
