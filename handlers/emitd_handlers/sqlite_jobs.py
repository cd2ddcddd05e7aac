"""`SqliteJobs`: reports merged into jobs in SQLite, a batch in one transaction.

A transaction has the jobs that its reports change, the changes of status, and the receipts: after a crash all of
it is there or nothing. Everything here blocks, and runs in a connection's thread.
"""

import sqlite3
from itertools import chain
from collections.abc import Mapping, Sequence

import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.job import Job, JobTransition
from emitd_handlers.job_cache import JobCache, StoredJob
from emitd_handlers.job_merge import merge
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, RecentCommit, Refused
from emitd_handlers.record import JobStatus, LogRecord
from emitd_handlers.sqlite_job_rows import (
    INSERT_JOB,
    INSERT_TRANSITION,
    SELECT_JOB,
    UPDATE_JOB,
    UPDATE_TICK,
    UPDATE_TICKS,
    TICKS_AT_ONCE,
    Row,
    is_tick,
    job_from_row,
    job_to_row,
    tick_to_row,
    transition_to_row,
    update_to_row,
)
from emitd_handlers.sqlite_schema import transaction

__all__ = ["Applied", "SqliteJobs"]

#: record_id, fingerprint, job_id, revision, attempt, stale_reason.
_Receipt = tuple[str, int, str, int, int, str]

_encode_receipts = msgspec.msgpack.Encoder().encode
_decode_receipts = msgspec.msgpack.Decoder(list[_Receipt]).decode


class Applied(msgspec.Struct, frozen=True, gc=False):
    """What a transaction has done."""

    #: For each record, in order.
    outcomes: Sequence[Outcome]
    #: The jobs that were changed, by id, as they stand now.
    jobs: Mapping[str, Job]
    #: The jobs that existed before, by id, as they stood; not only those that were changed.
    before: Mapping[str, StoredJob]
    #: The changes of status, by job, in order.
    transitions: Mapping[str, Sequence[JobTransition]]


class SqliteJobs:
    """Writes the tables of jobs, always over the same connection.

    Rows used lately are kept in memory, about `cache_size` of them, as long as nobody else writes to the
    database. The receipts of the last `receipt_limit` records are kept in the database.
    """

    def __init__(self, *, cache_size: int, receipt_limit: int = 100_000) -> None:
        self._cache_size = cache_size
        self._receipt_limit = receipt_limit
        self._cache = JobCache(cache_size)
        #: What `PRAGMA data_version` said when the cache was last known to be right.
        self._data_version = -1
        #: How many records with a record_id were ever taken.
        self._last_number = 0

    def apply(self, connection: sqlite3.Connection, records: Sequence[LogRecord]) -> Applied:
        """Merge the reports in `records`, in order, in one transaction, and return when it is on the medium.

        A report that makes no sense is refused alone. Raises sqlite3.Error: then nothing has changed.
        """
        try:
            with transaction(connection):
                self._forget_if_others_wrote(connection)
                applied, receipts = self._merge(connection, records)
                stored = self._write_jobs(connection, applied)
                if receipts:
                    self._write_receipts(connection, receipts)
        except BaseException:
            self._data_version = -1
            raise
        self._cache.keep(stored)
        self._last_number += len(receipts)
        return applied

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
        self, connection: sqlite3.Connection, records: Sequence[LogRecord]
    ) -> tuple[Applied, list[_Receipt]]:
        # Runs for each report, hence in one piece.
        jobs: dict[str, Job] = {}
        before: dict[str, StoredJob] = {}
        transitions: dict[str, list[JobTransition]] = {}
        outcomes: list[Outcome] = []
        receipts: list[_Receipt] = []
        for record in records:
            job_id = record.payload.job_id if isinstance(record.payload, JobStatus) else ""
            job = jobs.get(job_id)
            if job is None:
                stored = before.get(job_id) or self._cache.get(job_id) or _read(connection, job_id)
                if stored is not None:
                    before[job_id] = stored
                    job = stored.job
            try:
                merged = merge(job, record)
            except RecordInvalid as error:
                outcomes.append(Refused(error))
                continue
            job = merged.job
            reason = merged.stale_reason
            if not reason:
                jobs[job_id] = job
                if merged.transition is not None:
                    transitions.setdefault(job_id, []).append(merged.transition)
            outcomes.append(
                Committed(
                    JobReceipt(job_id, job.revision, job.attempt, not reason, reason, job.cancel_requested)
                )
            )
            if record.record_id:
                receipts.append(
                    (record.record_id, record.fingerprint, job_id, job.revision, job.attempt, reason)
                )
        return Applied(outcomes, jobs, before, transitions), receipts

    def _write_jobs(self, connection: sqlite3.Connection, applied: Applied) -> Mapping[str, StoredJob]:
        """Write the jobs and transitions; return each job with its row."""
        ticks: list[Row] = []
        updates: list[Row] = []
        after: dict[str, StoredJob] = {}
        for job_id, job in applied.jobs.items():
            stored = applied.before.get(job_id)
            if stored is None:
                rowid = connection.execute(INSERT_JOB, job_to_row(job)).lastrowid
                assert rowid is not None
            else:
                rowid = stored.rowid
                if is_tick(stored.job, job):
                    ticks.append(tick_to_row(rowid, job))
                else:
                    updates.append(update_to_row(rowid, job))
            after[job_id] = StoredJob(rowid, job)
        whole = len(ticks) - len(ticks) % TICKS_AT_ONCE
        for start in range(0, whole, TICKS_AT_ONCE):
            connection.execute(UPDATE_TICKS, list(chain.from_iterable(ticks[start : start + TICKS_AT_ONCE])))
        _update(connection, UPDATE_TICK, ticks[whole:])
        _update(connection, UPDATE_JOB, updates)
        connection.executemany(
            INSERT_TRANSITION,
            [
                transition_to_row(job_id, transition)
                for job_id, transitions in applied.transitions.items()
                for transition in transitions
            ],
        )
        return after

    def _write_receipts(self, connection: sqlite3.Connection, receipts: Sequence[_Receipt]) -> None:
        number = self._last_number + len(receipts)
        connection.execute("INSERT INTO job_receipts VALUES (?, ?)", (number, _encode_receipts(receipts)))
        connection.execute("DELETE FROM job_receipts WHERE last_number <= ?", (number - self._receipt_limit,))

    def _forget_if_others_wrote(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._cache = JobCache(self._cache_size)
            (self._last_number,) = connection.execute(
                "SELECT coalesce(max(last_number), 0) FROM job_receipts"
            ).fetchone()
            self._data_version = version


def _read(connection: sqlite3.Connection, job_id: str) -> StoredJob | None:
    row = connection.execute(f"{SELECT_JOB} WHERE job_id = ?", (job_id,)).fetchone()
    return StoredJob(row[0], job_from_row(row)) if row else None


def _update(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    if rows and connection.executemany(statement, rows).rowcount != len(rows):
        raise sqlite3.DatabaseError("rows of job_logs have gone in the middle of a transaction")


def _recent_commit(receipt: _Receipt) -> RecentCommit:
    record_id, fingerprint, job_id, revision, attempt, reason = receipt
    return RecentCommit(record_id, "", fingerprint, JobReceipt(job_id, revision, attempt, not reason, reason))
