"""`PostgresJobs`: changes jobs in PostgreSQL, a batch in one transaction. Several processes do so at once.

A transaction locks its jobs, merges the reports in memory, and writes jobs, transitions and receipts with one
statement. These transactions do not deadlock, whatever jobs they share. Each goes through three phases:

1. It locks rows that exist, in the order of their ids, and has written nothing yet.
2. It inserts new jobs, in the order of their ids, and has updated nothing yet. It waits only for a transaction in phase
   2 or 3, which has inserted, updated or deleted the same id: a mere lock on a row holds up no insert.
3. It updates or deletes rows that it has locked, and inserts others that no one else can insert: it does not wait.
   (The statement keeps this order: it updates under the condition that the inserts are done.)

A transaction that waits in phase 2 waits for an id that another has written, and has itself inserted only lower ids. So
the ids grow along a chain of such waits, until one in phase 3 ends it: there is no circle. The same holds for locks in
phase 1. A transaction in phase 1 can also wait for one in phase 2 or 3, but not the reverse. Transactions that skip
locked rows (the end of leases, retention) do not wait for locks.
"""

from collections.abc import Container, Mapping, Sequence
from operator import is_

import asyncpg
import msgspec

from emitd_handlers.clock import NANOS_A_SECOND, STEP_PAUSE_SECONDS, Clock, StepWatch
from emitd_handlers.diagnostics import Report
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.jobs.merge import Merged, expire, put_off, request_cancel, unwatched_since
from emitd_handlers.jobs.postgres.database import Connection, Database
from emitd_handlers.jobs.postgres.rows import (
    JOB_NAMES,
    ChangeWriter,
    check_record,
    cleaned,
    is_storable,
    job_from_row,
    pg_time,
    unix_nano,
)
from emitd_handlers.jobs.postgres.schema import Tables, lease_slot
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.store import Applied, JobHistory, Removed, Retention
from emitd_handlers.jobs.transaction import (
    DEFAULT_RULES,
    Opener,
    Opening,
    Rules,
    Work,
    as_read,
    job_ids_of,
    openers_of,
)
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import LogRecord

#: How many leases end in one pass at most; the others in the next.
MAX_EXPIRED = 1000
#: Rows of the table of commits that one call removes.
MAX_PRUNED = 5000
#: How long all of them are kept: replicas look for changes every few seconds.
KEPT_COMMITS = "10 minutes"
MICROSECONDS_A_SECOND = 1_000_000
#: The errors of the database, or of asyncpg, for a text or a key that cannot be stored.
_UNSTORABLE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError, UnicodeEncodeError)

_encode = msgspec.json.Encoder().encode


class PostgresJobs:
    """Writes the tables of jobs. A method that raises one of FAILURES has changed nothing."""

    def __init__(
        self,
        database: Database,
        tables: Tables,
        report: Report,
        *,
        rules: Rules = DEFAULT_RULES,
        clock: Clock | None = None,
    ) -> None:
        """`clock` gives the steady time, and times of receipt of the database's; `report` gets a line for each step."""
        self._database = database
        self._report = report
        self._clock = clock or Clock()
        self._steps = StepWatch(self._clock)
        self._rules = rules
        self._write = ChangeWriter(tables).write
        # The second query comes last, and so has the time after all locks.
        self._lock = f"""
            SELECT * FROM (
                SELECT {JOB_NAMES} FROM {tables.jobs} WHERE job_id = ANY(ARRAY(SELECT jsonb_array_elements_text($1)))
                ORDER BY job_id FOR NO KEY UPDATE
            ) AS locked
            UNION ALL SELECT {JOB_NAMES.replace("created_at", "clock_timestamp()")} FROM (
                SELECT (NULL::{tables.jobs}).*
            ) AS nothing
        """
        # An earlier version has not stored the source.
        self._openings = f"""
            SELECT job_id, opened_by, source, revision, attempt FROM {tables.transitions}
            JOIN unnest($1::text[], $2::text[], $3::text[]) AS opener (job_id, opened_by, source)
                USING (job_id, opened_by)
            WHERE coalesce(opened_by_source = source, true) ORDER BY opened_by_source IS NOT NULL
        """
        self._last_times = f"""
            SELECT greatest(
                (SELECT max(created_at) FROM {tables.jobs}),
                (SELECT max(ended_at) FROM {tables.jobs}),
                (SELECT recorded_at FROM {tables.commits} ORDER BY number DESC LIMIT 1)
            )
        """
        # The process that gets the row makes the pass; the others do not wait for it.
        self._take_lease_turn = f"""
            SELECT passed_at, clock_timestamp() AS now FROM {tables.lease_watch} FOR UPDATE SKIP LOCKED
        """
        self._has_lease_row = f"SELECT EXISTS (SELECT FROM {tables.lease_watch})"
        self._mend_leases = f"INSERT INTO {tables.lease_watch} DEFAULT VALUES ON CONFLICT DO NOTHING"
        self._stamp_leases = f"UPDATE {tables.lease_watch} SET passed_at = $1"
        self._lock_leases = f"""
            SELECT job_id, lease_expires_at, lease_seconds FROM {tables.jobs}
            WHERE lease_slot IS NOT NULL ORDER BY job_id FOR NO KEY UPDATE
        """
        self._move_leases = f"""
            UPDATE {tables.jobs} AS job SET lease_expires_at = new.lease_expires_at
            FROM unnest($1::text[], $2::timestamptz[]) AS new (job_id, lease_expires_at)
            WHERE job.job_id = new.job_id
        """
        # Another program may have ended a job and left its lease. A locked job is skipped: its lease may be renewed.
        self._lock_expired = f"""
            SELECT {JOB_NAMES} FROM {tables.jobs}
            WHERE lease_slot <= {lease_slot("$1::timestamptz")} AND lease_expires_at <= $1
                AND status IN ('QUEUED', 'RUNNING')
            ORDER BY lease_expires_at LIMIT {MAX_EXPIRED} FOR NO KEY UPDATE SKIP LOCKED
        """
        self._delete_ended = f"""
            DELETE FROM {tables.jobs} WHERE job_id = ANY(ARRAY(
                SELECT job_id FROM {tables.jobs} WHERE ended_at <= {_before(1)}
                ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
            )) RETURNING job_id
        """
        # The jobs are counted before they are locked; one that has ended again since then is one of the last.
        self._delete_surplus = f"""
            DELETE FROM {tables.jobs} WHERE job_id = ANY(ARRAY(
                SELECT job.job_id FROM {tables.jobs} AS job JOIN (
                    SELECT job_id, ended_at FROM {tables.jobs} WHERE ended_at IS NOT NULL
                    ORDER BY ended_at DESC LIMIT $2 OFFSET $1
                ) AS surplus ON job.job_id = surplus.job_id AND job.ended_at = surplus.ended_at
                FOR UPDATE OF job SKIP LOCKED
            )) RETURNING job_id
        """
        self._lock_with_history = f"""
            SELECT job_id FROM {tables.jobs} WHERE ended_at <= {_before(1)} AND ended_at IS NOT NULL AND has_history
            ORDER BY ended_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
        """
        self._delete_history = f"""
            WITH trimmed AS (
                UPDATE {tables.jobs} SET history_revision = revision, has_history = false
                WHERE job_id = ANY($1::text[])
            )
            DELETE FROM {tables.transitions} WHERE job_id = ANY($1::text[])
        """
        # Keeps the last rows with this many receipts together; the sum is made from the newest on, and no further.
        self._prune = f"""
            WITH edge AS (
                SELECT number FROM (
                    SELECT number, sum(receipt_count) OVER (
                        ORDER BY number DESC ROWS UNBOUNDED PRECEDING
                    ) AS receipts FROM {tables.commits}
                ) AS summed WHERE receipts >= $1 LIMIT 1
            )
            DELETE FROM {tables.commits} WHERE number IN (
                SELECT number FROM {tables.commits}
                WHERE recorded_at < now() - interval '{KEPT_COMMITS}'
                    AND (receipt_count = 0 OR number < (SELECT number FROM edge))
                ORDER BY number LIMIT {MAX_PRUNED} FOR UPDATE SKIP LOCKED
            )
        """

    async def apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        """Merge the reports in `records`, in order; see `JobStore.apply`."""
        try:
            return await self._apply(records, interest)
        except _UNSTORABLE:
            # One of the records cannot be stored: look at each.
            refused: dict[int, Outcome] = {}
            good: list[LogRecord] = []
            for index, record in enumerate(records):
                try:
                    good.append(check_record(record))
                except RecordInvalid as error:
                    refused[index] = Refused(error)
            if not refused and all(map(is_, good, records)):
                raise
            applied = await self._apply(good, interest)
            outcomes = iter(applied.outcomes)
            return Applied(
                [refused.get(index) or next(outcomes) for index in range(len(records))], applied.changes
            )

    async def request_cancel(
        self, job_id: str, reason: str, interest: Container[str]
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        """Record a request to cancel a job; see `JobStore.request_cancel`."""
        if not is_storable(job_id):
            return None, ()

        async def work_on(connection: Connection) -> tuple[Job | None, Work]:
            jobs, wall = await self._lock_jobs(connection, [job_id])
            now = self._clock.now(wall)
            work = Work(as_read(jobs), now, wall)
            if not jobs:
                return None, work
            job = request_cancel(jobs[0], cleaned(reason), now)
            work.change(Merged(job))
            await self._write(connection, work)
            return job, work

        job, work = await self._database.transact(work_on)
        return job, work.changes(interest) if job is not None else ()

    async def _apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        job_ids = job_ids_of(records)
        openers = openers_of(records)

        async def work_on(connection: Connection) -> tuple[Work, Sequence[Outcome]]:
            jobs, wall = await self._lock_jobs(connection, job_ids)
            openings = await self._find_openings(connection, openers) if openers else {}
            now = self._clock.now(wall)
            work = Work(as_read(jobs), now, wall, rules=self._rules, openings=openings)
            outcomes = work.merge(records)
            await self._write(connection, work)
            return work, outcomes

        work, outcomes = await self._database.transact(work_on)
        return Applied(outcomes, work.changes(interest))

    async def _find_openings(
        self, connection: Connection, openers: Sequence[Opener]
    ) -> Mapping[Opener, Opening]:
        """Return the attempts that were opened before, as far as the history goes. The jobs must be locked."""
        rows = await connection.fetch(self._openings, *zip(*openers, strict=True))
        return {tuple(opener): (revision, attempt) for *opener, revision, attempt in rows}

    async def _lock_jobs(self, connection: Connection, job_ids: Sequence[str]) -> tuple[Sequence[Job], int]:
        """Lock the jobs that exist; return them, and the database's time after that in nanoseconds since 1970."""
        asked_at = self._clock.steady()
        rows = await connection.fetch(self._lock, _encode(job_ids).decode())
        wall = self._look(rows.pop()["created_at"], asked_at)
        return [job_from_row(row) for row in rows], wall

    def _look(self, database_time: int, asked_at: int) -> int:
        """Return the database's time in nanoseconds since 1970, and note if its clock was set."""
        wall = unix_nano(database_time)
        if step := self._steps.look(wall, asked_at):
            self._report(
                f"the database's clock was set by {step / NANOS_A_SECOND:+.1f} s; leases are set right"
            )
        return wall

    async def resume_clock(self) -> None:
        """Let times of receipt go on after the last that the database has."""

        async def work_on(connection: Connection) -> None:
            self._clock.resume(unix_nano(await connection.fetchval(self._last_times)))

        await self._database.transact(work_on)

    async def end_expired(
        self, interval_seconds: float, waited_seconds: float, interest: Container[str]
    ) -> Sequence[JobHistory] | None:
        """Make one pass, by the database's clock; see `JobStore.end_expired`. None: another process is making it."""

        async def work_on(connection: Connection) -> Work | None:
            asked_at = self._clock.steady()
            turn = await connection.fetchrow(self._take_lease_turn)
            if turn is None and not await connection.fetchval(self._has_lease_row):
                await connection.execute(self._mend_leases)  # it was deleted
                turn = await connection.fetchrow(self._take_lease_turn)
            if turn is None:
                return None
            now: int = turn["now"]
            wall = self._look(now, asked_at)
            await self._put_off_leases(connection, unix_nano(turn["passed_at"]), wall, interval_seconds)
            await connection.execute(self._stamp_leases, now)
            latest = now - int(waited_seconds * MICROSECONDS_A_SECOND)
            rows = await connection.fetch(self._lock_expired, latest)
            jobs = [job_from_row(row) for row in rows]
            work = Work(as_read(jobs), self._clock.now(wall), wall)
            for job in jobs:
                work.change(expire(job, work.now_unix_nano))
            await self._write(connection, work)
            return work

        work = await self._database.transact(work_on)
        if work is None:
            return None
        self._steps.settle()
        return work.changes(interest)

    async def _put_off_leases(
        self, connection: Connection, passed_at: int, now: int, interval_seconds: float
    ) -> None:
        """Put off the ends of all leases after a gap, or a step of the clock."""
        since = unwatched_since(passed_at, now, interval_seconds, self._steps.set_by)
        if since is None:
            return
        # Phase 1, see above.
        rows = await connection.fetch(self._lock_leases)
        ends = [
            (job_id, end, pg_time(put_off(unix_nano(end), seconds, since, now)))
            for job_id, end, seconds in rows
        ]
        if moved := [(job_id, new_end) for job_id, end, new_end in ends if new_end != end]:
            await connection.execute(self._move_leases, *zip(*moved, strict=True))

    async def remove_ended(self, retention: Retention, limit: int) -> Removed:
        """Remove ended jobs and their history; see `JobStore.remove_ended`."""
        if self._steps.has_stepped_within(STEP_PAUSE_SECONDS):
            return Removed((), has_more=False)

        async def work_on(connection: Connection) -> Removed:
            removed: list[str] = []
            trimmed: list[str] = []

            async def job_ids_of(query: str, bound: float) -> Sequence[str]:
                rows = await connection.fetch(query, bound, limit - len(removed))
                return [row["job_id"] for row in rows]

            if retention.ended_seconds is not None:
                removed += await job_ids_of(self._delete_ended, retention.ended_seconds)
            if retention.ended_count is not None:
                removed += await job_ids_of(self._delete_surplus, retention.ended_count)
            if retention.history_seconds is not None:
                trimmed += await job_ids_of(self._lock_with_history, retention.history_seconds)
                await connection.execute(self._delete_history, trimmed)
            if removed:
                now: int = await connection.fetchval("SELECT now()")
                await self._write(connection, Work({}, self._clock.now(unix_nano(now)), 0), removed)
            return Removed(removed, has_more=len(removed) + len(trimmed) >= limit)

        return await self._database.transact(work_on)

    async def prune_commits(self, kept_receipts: int) -> bool:
        """Remove rows of old transactions, but not the last `kept_receipts` receipts; return whether there are more."""
        if self._steps.has_stepped_within(STEP_PAUSE_SECONDS):
            return False

        async def work_on(connection: Connection) -> bool:
            status = await connection.execute(self._prune, kept_receipts)
            return status == f"DELETE {MAX_PRUNED}"

        return await self._database.transact(work_on)


def _before(parameter: int) -> str:
    """Return an expression for the time that many seconds ago, but not before 1970."""
    return f"to_timestamp(greatest(extract(epoch FROM now()) - ${parameter}::float8, 0))"
