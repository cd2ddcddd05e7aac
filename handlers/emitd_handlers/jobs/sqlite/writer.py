"""`SqliteJobs`: whatever changes jobs in SQLite, a batch in one transaction.

A transaction has the jobs that its reports change, the changes of status, and the receipts: after a crash all of
it is there or nothing. Everything here blocks, and runs in a connection's thread.
"""

import sqlite3
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.job import Job, JobTransition
from emitd_handlers.jobs.merge import Merged, expire, merge, put_off, request_cancel
from emitd_handlers.jobs.sqlite.cache import CachedJob, JobCache
from emitd_handlers.jobs.sqlite.rows import (
    INSERT_JOBS,
    INSERT_TRANSITIONS,
    SELECT_JOB,
    UPDATE_JOBS,
    UPDATE_TICKS,
    is_tick,
    job_from_row,
    job_to_row,
    read_time,
    tick_to_row,
    time_text,
    transition_to_row,
    update_to_row,
)
from emitd_handlers.jobs.sqlite.schema import transaction
from emitd_handlers.jobs.store import Applied, JobHistory, Retention
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, RecentCommit, Refused
from emitd_handlers.record import JobStatus, LogRecord

__all__ = ["SqliteJobs"]

#: A job with more text than this is not kept in memory, so that the number of jobs bounds it.
MAX_CACHED_CHARACTERS = 4096
#: Nor is one with more labels, which are two short strings each.
MAX_CACHED_LABELS = 8

NANOS_A_SECOND = 1_000_000_000
#: How many leases end in one pass at most; the others in the next.
MAX_EXPIRED = 1000
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
    WHERE ended_at <= ? AND ended_at IS NOT NULL AND history_revision < revision ORDER BY ended_at LIMIT ?
"""

#: record_id, fingerprint, job_id, revision, attempt, stale_reason.
_Receipt = tuple[str, int, str, int, int, str]

_encode_receipts = msgspec.msgpack.Encoder().encode
_decode_receipts = msgspec.msgpack.Decoder(list[_Receipt]).decode


class _Transaction:
    """What the transaction under way is going to write."""

    def __init__(self, now_unix_nano: int) -> None:
        self.now_unix_nano = now_unix_nano
        self.created: list[CachedJob] = []
        self.changed: list[CachedJob] = []
        self.transitions: list[tuple[str, JobTransition]] = []
        self.receipts: list[_Receipt] = []
        #: Ids of jobs that are too large to be kept in memory.
        self.large: list[str] = []


class SqliteJobs:
    """Writes the tables of jobs, always over the same connection.

    Rows used lately are kept in memory, about `cache_size` of them, as long as nobody else writes to the
    database. The receipts of the last `receipt_limit` records are kept in the database. `clock` gives
    nanoseconds since 1970-01-01T00:00:00Z.
    """

    def __init__(
        self,
        *,
        cache_size: int,
        keep_progress: bool = False,
        receipt_limit: int = 100_000,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cache_size = cache_size
        self._keep_progress = keep_progress
        self._receipt_limit = receipt_limit
        self._clock = clock
        self._cache = JobCache(cache_size)
        #: What `PRAGMA data_version` says as long as the cache is right.
        self._data_version = -1
        self._last_rowid = 0
        #: How many records with a record_id were ever taken.
        self._last_number = 0

    def apply(
        self, connection: sqlite3.Connection, records: Sequence[LogRecord], interest: Container[str] = ()
    ) -> Applied:
        """Merge the reports in `records`, in order; see `JobStore.apply`. Raises sqlite3.Error, as all do here."""
        with self._transaction(connection) as work:
            outcomes = self._merge(connection, records, work)
        return Applied(outcomes, self._finish(work, interest))

    def end_expired(
        self,
        connection: sqlite3.Connection,
        interval_seconds: float,
        waited_seconds: float,
        interest: Container[str] = (),
    ) -> Sequence[JobHistory]:
        """Make one pass over the leases; see `JobStore.end_expired`. By the server's clock."""
        begun_at = self._clock()  # the transaction may have to wait for another process's
        with self._transaction(connection) as work:
            self._stamp_pass(connection, work, interval_seconds)
            latest = time_text(begun_at - int(waited_seconds * NANOS_A_SECOND))
            expired = connection.execute(SELECT_EXPIRED, (latest, MAX_EXPIRED)).fetchall()
            for (job_id,) in expired:
                cached = self._find(connection, job_id, work)
                assert cached is not None
                self._change(work, cached, expire(cached.job, work.now_unix_nano))
        return self._finish(work, interest)

    def request_cancel(
        self, connection: sqlite3.Connection, job_id: str, reason: str, interest: Container[str] = ()
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        """Record the wish to cancel a job; see `JobStore.request_cancel`."""
        with self._transaction(connection) as work:
            cached = self._find(connection, job_id, work)
            if cached is None:
                return None, ()
            job = request_cancel(cached.job, reason, work.now_unix_nano)
            if job is not cached.job:
                self._change(work, cached, Merged(job))
        return job, self._finish(work, interest)

    def remove_ended(self, connection: sqlite3.Connection, retention: Retention, limit: int) -> Sequence[str]:
        """Remove what is not to be kept; see `JobStore.remove_ended`."""
        with self._transaction(connection) as work:
            removed: list[str] = []
            if retention.ended_seconds is not None:
                latest = _text_before(work, retention.ended_seconds)
                removed += map(_first, connection.execute(DELETE_ENDED_BEFORE, (latest, limit)).fetchall())
            if retention.ended_count is not None:
                room = limit - len(removed)
                surplus = connection.execute(DELETE_SURPLUS, (room, retention.ended_count)).fetchall()
                removed += map(_first, surplus)
            if retention.history_seconds is not None:
                latest = _text_before(work, retention.history_seconds)
                trimmed = connection.execute(SELECT_WITH_HISTORY, (latest, limit - len(removed))).fetchall()
                connection.executemany("DELETE FROM job_transitions WHERE job_id = ?", trimmed)
                connection.executemany(
                    "UPDATE job_logs SET history_revision = revision WHERE job_id = ?", trimmed
                )
        self._cache.trim(removed)
        return removed

    def recent_commits(self, connection: sqlite3.Connection, limit: int) -> Sequence[RecentCommit]:
        """Return the last records with a record_id, oldest first, at most `limit`. Raises sqlite3.Error.

        From now on the receipts of so many are kept.
        """
        self._receipt_limit = limit
        groups: list[list[_Receipt]] = []
        count = 0
        for (data,) in connection.execute("SELECT receipts FROM job_receipts ORDER BY last_number DESC"):
            if count >= limit:
                break
            groups.append(_decode_receipts(data))
            count += len(groups[-1])
        receipts = [receipt for group in reversed(groups) for receipt in group]
        return [_recent_commit(receipt) for receipt in receipts[max(0, count - limit) :]]

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[_Transaction]:
        """Run the block, write what it has put together, and commit; an exception leaves everything as it was."""
        try:
            with transaction(connection):
                self._forget_if_others_wrote(connection)
                work = _Transaction(self._clock())
                yield work
                self._write(connection, work)
        except BaseException:
            self._data_version = -1  # what is in memory may be ahead of the database now
            raise

    def _finish(self, work: _Transaction, interest: Container[str]) -> Sequence[JobHistory]:
        """Return what a transaction has done to the jobs that are asked for, after its commit."""
        changes = _changes(work, interest)
        for cached in work.changed:
            cached.before = None
        for cached in work.created:
            cached.before = None
        self._cache.trim(work.large)
        return changes

    def _merge(
        self, connection: sqlite3.Connection, records: Sequence[LogRecord], work: _Transaction
    ) -> Sequence[Outcome]:
        # Runs for each report, hence in one piece.
        find = self._cache.get
        now = work.now_unix_nano
        receipts = work.receipts
        outcomes: list[Outcome] = []
        for record in records:
            job_id = record.payload.job_id if isinstance(record.payload, JobStatus) else ""
            cached = find(job_id) or self._read(connection, job_id, work)
            job = None if cached is None else cached.job
            try:
                merged = merge(job, record, now)
            except RecordInvalid as error:
                outcomes.append(Refused(error))
                continue
            job = merged.job
            reason = merged.stale_reason
            if merged.is_copy:
                receipt = JobReceipt(job_id, job.opened_revision, job.attempt, True, "", job.cancel_requested)
                outcomes.append(Committed(receipt, duplicate=True))
                continue
            if not reason:
                if cached is None:
                    cached = CachedJob(job, before=job)
                    self._cache.add(cached)
                    work.created.append(cached)
                    assert merged.transition is not None
                    work.transitions.append((job_id, merged.transition))
                else:
                    self._change(work, cached, merged)
                    if self._keep_progress and merged.transition is None:
                        work.transitions.append((job_id, _progress_of(job)))
            revision = job.revision
            attempt = job.attempt
            outcomes.append(
                Committed(JobReceipt(job_id, revision, attempt, not reason, reason, job.cancel_requested))
            )
            if record.record_id:
                receipts.append((record.record_id, record.fingerprint, job_id, revision, attempt, reason))
        return outcomes

    def _change(self, work: _Transaction, cached: CachedJob, merged: Merged) -> None:
        """Let a job that exists become what was made of it."""
        job = merged.job
        if cached.before is None:
            cached.before = cached.job
            work.changed.append(cached)
        cached.job = job
        if merged.transition is not None:
            work.transitions.append((job.job_id, merged.transition))

    def _write(self, connection: sqlite3.Connection, work: _Transaction) -> None:
        now = work.now_unix_nano - work.now_unix_nano % 1000
        inserts: list[Any] = []
        updates: list[Any] = []
        ticks: list[Any] = []
        for cached in work.created:
            self._last_rowid += 1
            cached.rowid = self._last_rowid
            inserts += job_to_row(cached.rowid, cached.job)
            if _is_large(cached.job):
                work.large.append(cached.job.job_id)
        for cached in work.changed:
            job, before = cached.job, cached.before
            if before is not None and job.update_time_unix_nano == now and is_tick(before, job):
                ticks += tick_to_row(cached.rowid, job)
                if len(job.message) > MAX_CACHED_CHARACTERS:
                    work.large.append(job.job_id)
            else:
                updates += update_to_row(cached.rowid, job)
                if _is_large(job):
                    work.large.append(job.job_id)
        INSERT_JOBS.run(connection, inserts)
        updated = UPDATE_JOBS.run(connection, updates)
        updated += UPDATE_TICKS.run(connection, ticks, (time_text(now),))
        if updated != len(work.changed):
            raise sqlite3.DatabaseError("rows of job_logs have gone that were there before")
        if work.transitions:
            rows: list[Any] = []
            for job_id, transition in work.transitions:
                rows += transition_to_row(job_id, transition)
            INSERT_TRANSITIONS.run(connection, rows)
        if work.receipts:
            self._last_number += len(work.receipts)
            self._write_receipts(connection, work.receipts)

    def _write_receipts(self, connection: sqlite3.Connection, receipts: Sequence[_Receipt]) -> None:
        number = self._last_number
        connection.execute("INSERT INTO job_receipts VALUES (?, ?)", (number, _encode_receipts(receipts)))
        connection.execute("DELETE FROM job_receipts WHERE last_number <= ?", (number - self._receipt_limit,))

    def _stamp_pass(
        self, connection: sqlite3.Connection, work: _Transaction, interval_seconds: float
    ) -> None:
        """Note that the leases are looked at now; put off their ends by the time in which nobody did."""
        now = work.now_unix_nano
        row = connection.execute("SELECT passed_at FROM job_lease_watch").fetchone()
        if row is None:
            connection.execute("INSERT INTO job_lease_watch VALUES (?)", (time_text(now),))
        else:
            connection.execute("UPDATE job_lease_watch SET passed_at = ?", (time_text(now),))
        passed_at = read_time(row[0]) if row else 0
        if now - passed_at <= 2 * interval_seconds * NANOS_A_SECOND:
            return
        leases = connection.execute(SELECT_LEASES).fetchall()
        connection.executemany(
            "UPDATE job_logs SET lease_expires_at = ? WHERE job_id = ?",
            [
                (time_text(put_off(read_time(end), seconds, passed_at, now)), job_id)
                for job_id, end, seconds in leases
            ],
        )
        self._cache = JobCache(self._cache_size)

    def _find(self, connection: sqlite3.Connection, job_id: str, work: _Transaction) -> CachedJob | None:
        return self._cache.get(job_id) or self._read(connection, job_id, work)

    def _read(self, connection: sqlite3.Connection, job_id: str, work: _Transaction) -> CachedJob | None:
        row = connection.execute(f"{SELECT_JOB} WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            return None
        cached = CachedJob(job_from_row(row), row[0])
        self._cache.add(cached)
        if _is_large(cached.job):
            work.large.append(job_id)
        return cached

    def _forget_if_others_wrote(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return
        self._cache = JobCache(self._cache_size)
        (self._last_rowid,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM job_logs").fetchone()
        (self._last_number,) = connection.execute(
            "SELECT coalesce(max(last_number), 0) FROM job_receipts"
        ).fetchone()
        self._data_version = version


def _changes(work: _Transaction, interest: Container[str]) -> Sequence[JobHistory]:
    if not interest:
        return ()
    transitions: dict[str, list[JobTransition]] = {}
    for job_id, transition in work.transitions:
        if not transition.progress_only:
            transitions.setdefault(job_id, []).append(transition)
    found = [(cached.job, 0) for cached in work.created if cached.job.job_id in interest]
    for cached in work.changed:
        if cached.before is not None and cached.job.job_id in interest:
            found.append((cached.job, cached.before.revision))
    return [JobHistory(job, transitions.get(job.job_id, ()), revision) for job, revision in found]


def _progress_of(job: Job) -> JobTransition:
    """Return what is kept in the history of a report that changed no status."""
    return JobTransition(
        job.revision, job.attempt, job.status, job.progress, job.event_time_unix_nano, progress_only=True
    )


def _text_before(work: _Transaction, seconds: float) -> str:
    """Return the time so many seconds before the transaction, but not before 1970."""
    return time_text(max(0, work.now_unix_nano - int(seconds * NANOS_A_SECOND)))


def _first(row: tuple[str, ...]) -> str:
    return row[0]


def _is_large(job: Job) -> bool:
    characters = len(job.message) + len(job.details_json) + len(job.failure_message)
    return characters > MAX_CACHED_CHARACTERS or len(job.labels) > MAX_CACHED_LABELS


def _recent_commit(receipt: _Receipt) -> RecentCommit:
    record_id, fingerprint, job_id, revision, attempt, reason = receipt
    return RecentCommit(record_id, "", fingerprint, JobReceipt(job_id, revision, attempt, not reason, reason))
