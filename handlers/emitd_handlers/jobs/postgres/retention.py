"""`JobRetention`: removes what is not to be kept: ended jobs, their history, and what was noted of old transactions."""

from collections.abc import Sequence

from emitd_handlers.jobs.postgres.database import Connection, Database
from emitd_handlers.jobs.postgres.rows import unix_nano
from emitd_handlers.jobs.postgres.tables import Tables
from emitd_handlers.jobs.postgres.writer import PostgresJobs
from emitd_handlers.jobs.store import Removed, Retention
from emitd_handlers.jobs.transaction import Work

__all__ = ["JobRetention"]

#: Rows of the table of commits that one call removes.
MAX_PRUNED = 5000
#: For so long they are kept, however many they are: those who look for changes do so every few seconds.
KEPT_COMMITS = "10 minutes"


class JobRetention:
    """Every method raises FAILURES, and has changed nothing then. Jobs that somebody has locked are passed over."""

    def __init__(self, database: Database, tables: Tables, jobs: PostgresJobs) -> None:
        self._database = database
        self._jobs = jobs
        self._lock_ended = f"""
            SELECT job_id FROM {tables.jobs} WHERE ended_at <= {_before(1)}
            ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
        """
        # The jobs are counted before they are locked; one that has ended anew meanwhile is one of the last.
        self._lock_surplus = f"""
            SELECT job.job_id FROM {tables.jobs} AS job JOIN (
                SELECT job_id, ended_at FROM {tables.jobs} WHERE ended_at IS NOT NULL
                ORDER BY ended_at DESC LIMIT $2 OFFSET $1
            ) AS surplus ON job.job_id = surplus.job_id AND job.ended_at = surplus.ended_at
            FOR UPDATE OF job SKIP LOCKED
        """
        self._delete = f"DELETE FROM {tables.jobs} WHERE job_id = ANY($1::text[])"
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
        # The last rows that have so many receipts together stay; the sum is made from the newest on, and no further.
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

    async def remove_ended(self, retention: Retention, limit: int) -> Removed:
        """Remove jobs and history that are not to be kept; see `JobStore.remove_ended`."""

        async def work_on(connection: Connection) -> Removed:
            removed: list[str] = []
            trimmed = 0
            if retention.ended_seconds is not None:
                removed += await self._delete_locked(
                    connection, self._lock_ended, retention.ended_seconds, limit
                )
            if retention.ended_count is not None:
                room = limit - len(removed)
                removed += await self._delete_locked(
                    connection, self._lock_surplus, retention.ended_count, room
                )
            if retention.history_seconds is not None:
                room = limit - len(removed)
                rows = await connection.fetch(self._lock_with_history, retention.history_seconds, room)
                trimmed = len(rows)
                if rows:
                    await connection.execute(self._delete_history, [row["job_id"] for row in rows])
            if removed:
                now: int = await connection.fetchval("SELECT now()")
                await self._jobs.write(connection, Work({}, unix_nano(now)), removed)
            return Removed(removed, has_more=len(removed) + trimmed >= limit)

        return await self._database.transact(work_on)

    async def prune_commits(self, kept_receipts: int) -> bool:
        """Remove rows of old transactions, but not the last `kept_receipts` receipts; return whether there are more."""

        async def work_on(connection: Connection) -> bool:
            status = await connection.execute(self._prune, kept_receipts)
            return status == f"DELETE {MAX_PRUNED}"

        return await self._database.transact(work_on)

    async def _delete_locked(
        self, connection: Connection, query: str, bound: float, limit: int
    ) -> Sequence[str]:
        job_ids = [row["job_id"] for row in await connection.fetch(query, bound, limit)]
        if job_ids:
            await connection.execute(self._delete, job_ids)
        return job_ids


def _before(parameter: int) -> str:
    """Return the time so many seconds ago, but not before 1970."""
    return f"to_timestamp(greatest(extract(epoch FROM now()) - ${parameter}::float8, 0))"
