"""`SqliteJobs`: reports merged into jobs in SQLite, a batch in one transaction.

A transaction has the jobs that its reports change, the changes of status, and the receipts: after a crash all of
it is there or nothing. Everything here blocks, and runs in a connection's thread.
"""

import sqlite3
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.job import Job, JobTransition
from emitd_handlers.job_cache import CachedJob, JobCache
from emitd_handlers.job_hub import JobHistory
from emitd_handlers.job_merge import merge
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, RecentCommit, Refused
from emitd_handlers.record import JobStatus, LogRecord
from emitd_handlers.sqlite_job_rows import (
    INSERT_JOBS,
    INSERT_TRANSITIONS,
    SELECT_JOB,
    UPDATE_JOBS,
    UPDATE_TICKS,
    is_tick,
    job_from_row,
    job_to_row,
    tick_to_row,
    time_text,
    transition_to_row,
    update_to_row,
)
from emitd_handlers.sqlite_schema import transaction

__all__ = ["Applied", "SqliteJobs"]

#: A job with more text than this is not kept in memory, so that the number of jobs bounds it.
MAX_CACHED_CHARACTERS = 4096
#: Nor is one with more labels, which are two short strings each.
MAX_CACHED_LABELS = 8

#: record_id, fingerprint, job_id, revision, attempt, stale_reason.
_Receipt = tuple[str, int, str, int, int, str]

_encode_receipts = msgspec.msgpack.Encoder().encode
_decode_receipts = msgspec.msgpack.Decoder(list[_Receipt]).decode


class Applied(msgspec.Struct, frozen=True, gc=False):
    """What a transaction has done."""

    #: For each record, in order.
    outcomes: Sequence[Outcome]
    #: What happened to those jobs that are watched.
    changes: Sequence[JobHistory]


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
        self, *, cache_size: int, receipt_limit: int = 100_000, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._cache_size = cache_size
        self._receipt_limit = receipt_limit
        self._clock = clock
        self._cache = JobCache(cache_size)
        #: What `PRAGMA data_version` says as long as the cache is right.
        self._data_version = -1
        self._last_rowid = 0
        #: How many records with a record_id were ever taken.
        self._last_number = 0

    def apply(
        self, connection: sqlite3.Connection, records: Sequence[LogRecord], watched: Container[str] = ()
    ) -> Applied:
        """Merge the reports in `records`, in order, in one transaction, and return when it is on the medium.

        `watched` has the ids of the jobs whose changes are asked for; it is looked at after the commit. A report
        that makes no sense is refused alone. Raises sqlite3.Error: then nothing has changed.
        """
        try:
            with transaction(connection):
                self._forget_if_others_wrote(connection)
                work = _Transaction(self._clock())
                outcomes = self._merge(connection, records, work)
                self._write(connection, work)
        except BaseException:
            self._data_version = -1  # what is in memory may be ahead of the database now
            raise
        changes = _changes(work, watched)
        for cached in work.changed:
            cached.before = None
        for cached in work.created:
            cached.before = None
        self._cache.trim(work.large)
        return Applied(outcomes, changes)

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

    def _merge(
        self, connection: sqlite3.Connection, records: Sequence[LogRecord], work: _Transaction
    ) -> Sequence[Outcome]:
        # Runs for each report, hence in one piece.
        find = self._cache.get
        now = work.now_unix_nano
        changed = work.changed
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
            if not reason:
                if cached is None:
                    cached = CachedJob(job, before=job)
                    self._cache.add(cached)
                    work.created.append(cached)
                elif cached.before is None:
                    cached.before = cached.job
                    changed.append(cached)
                cached.job = job
                if merged.transition is not None:
                    work.transitions.append((job_id, merged.transition))
            revision = job.revision
            attempt = job.attempt
            outcomes.append(
                Committed(JobReceipt(job_id, revision, attempt, not reason, reason, job.cancel_requested))
            )
            if record.record_id:
                receipts.append((record.record_id, record.fingerprint, job_id, revision, attempt, reason))
        return outcomes

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


def _changes(work: _Transaction, watched: Container[str]) -> Sequence[JobHistory]:
    """Return what happened to the jobs that are watched."""
    if not watched:
        return ()
    transitions: dict[str, list[JobTransition]] = {}
    for job_id, transition in work.transitions:
        transitions.setdefault(job_id, []).append(transition)
    found = [(cached.job, 0) for cached in work.created if cached.job.job_id in watched]
    for cached in work.changed:
        if cached.before is not None and cached.job.job_id in watched:
            found.append((cached.job, cached.before.revision))
    return [JobHistory(job, transitions.get(job.job_id, ()), revision) for job, revision in found]


def _is_large(job: Job) -> bool:
    characters = len(job.message) + len(job.details_json) + len(job.failure_message)
    return characters > MAX_CACHED_CHARACTERS or len(job.labels) > MAX_CACHED_LABELS


def _recent_commit(receipt: _Receipt) -> RecentCommit:
    record_id, fingerprint, job_id, revision, attempt, reason = receipt
    return RecentCommit(record_id, "", fingerprint, JobReceipt(job_id, revision, attempt, not reason, reason))
