"""`LeasePass`: ends the attempts whose lease has run out, in one pass that one of several processes makes at a time.

Time is the database's clock. Time in which no process watched is not held against a job: where the last pass
is too long ago, all leases are put off first.
"""

from collections.abc import Container, Sequence

from emitd_handlers.jobs.merge import expire, put_off
from emitd_handlers.jobs.postgres.database import Connection, Database
from emitd_handlers.jobs.postgres.rows import JOB_COLUMNS, job_from_row, pg_time, unix_nano
from emitd_handlers.jobs.postgres.schema import lease_slot
from emitd_handlers.jobs.postgres.tables import Tables
from emitd_handlers.jobs.postgres.writer import PostgresJobs
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.transaction import Work, as_read

__all__ = ["LeasePass"]

#: How many leases end in one pass at most; the others in the next.
MAX_EXPIRED = 1000
MICROSECONDS_A_SECOND = 1_000_000


class LeasePass:
    """Every method raises FAILURES, and has changed nothing then."""

    def __init__(self, database: Database, tables: Tables, jobs: PostgresJobs) -> None:
        self._database = database
        self._jobs = jobs
        # Whoever has the row makes the pass; the others do not wait for it.
        self._take_turn = f"""
            SELECT passed_at, clock_timestamp() AS now FROM {tables.lease_watch} FOR UPDATE SKIP LOCKED
        """
        self._is_there = f"SELECT EXISTS (SELECT FROM {tables.lease_watch})"
        self._mend = f"INSERT INTO {tables.lease_watch} DEFAULT VALUES ON CONFLICT DO NOTHING"
        self._stamp = f"UPDATE {tables.lease_watch} SET passed_at = $1"
        self._lock_leases = f"""
            SELECT job_id, lease_expires_at, lease_seconds FROM {tables.jobs}
            WHERE lease_slot IS NOT NULL ORDER BY job_id FOR NO KEY UPDATE
        """
        self._put_off = f"""
            UPDATE {tables.jobs} AS job SET lease_expires_at = new.lease_expires_at
            FROM unnest($1::text[], $2::timestamptz[]) AS new (job_id, lease_expires_at)
            WHERE job.job_id = new.job_id
        """
        # Another program may have ended a job and left the lease. Who has locked a job is about to renew its lease,
        # maybe.
        self._lock_expired = f"""
            SELECT {JOB_COLUMNS} FROM {tables.jobs}
            WHERE lease_slot <= {lease_slot("$1::timestamptz")} AND lease_expires_at <= $1
                AND status IN ('QUEUED', 'RUNNING')
            ORDER BY lease_expires_at LIMIT {MAX_EXPIRED} FOR NO KEY UPDATE SKIP LOCKED
        """

    async def run(
        self, interval_seconds: float, waited_seconds: float, interest: Container[str]
    ) -> Sequence[JobHistory] | None:
        """Make one pass; see `JobStore.end_expired`. None: somebody else is at it."""

        async def work_on(connection: Connection) -> Work | None:
            turn = await connection.fetchrow(self._take_turn)
            if turn is None and not await connection.fetchval(self._is_there):
                await connection.execute(self._mend)  # somebody has deleted it
                turn = await connection.fetchrow(self._take_turn)
            if turn is None:
                return None
            now: int = turn["now"]
            await self._forgive(connection, turn["passed_at"], now, interval_seconds)
            await connection.execute(self._stamp, now)
            latest = now - int(waited_seconds * MICROSECONDS_A_SECOND)
            rows = await connection.fetch(self._lock_expired, latest)
            jobs = [job_from_row(row) for row in rows]
            work = Work(as_read(jobs), unix_nano(now))
            for job in jobs:
                work.change(expire(job, work.now_unix_nano))
            await self._jobs.write(connection, work)
            return work

        work = await self._database.transact(work_on)
        return None if work is None else work.changes(interest)

    async def _forgive(
        self, connection: Connection, passed_at: int | None, now: int, interval_seconds: float
    ) -> None:
        """Put off the ends of leases by the time in which nobody watched."""
        if passed_at is not None and now - passed_at <= 2 * interval_seconds * MICROSECONDS_A_SECOND:
            return
        # Locked in the order of their ids first, as `PostgresJobs` does.
        rows = await connection.fetch(self._lock_leases)
        if not rows:
            return
        since, until = unix_nano(passed_at), unix_nano(now)
        ends = [pg_time(put_off(unix_nano(end), seconds, since, until)) for _, end, seconds in rows]
        await connection.execute(self._put_off, [row["job_id"] for row in rows], ends)
