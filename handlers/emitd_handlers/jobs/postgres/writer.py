"""`PostgresJobs`: whatever changes jobs in PostgreSQL, a batch in one transaction.

A transaction has the jobs that its reports change, the changes of status, and the receipts. It locks the jobs that it
is about, merges in memory, and writes everything with one statement. Several processes do so at once.

No two of these transactions can wait for each other in a circle, whatever jobs they share. Each goes through three
phases:

1. It locks rows that exist, in the order of their ids, and has written nothing yet.
2. It inserts new jobs, in the order of their ids, and has updated nothing yet. It waits for another one only where that
   has inserted the same id, or has updated or deleted it, and has not ended: so for one in phase 2 or 3. A mere lock on
   a row holds up no insert.
3. It updates or deletes rows that it has locked, and inserts others that nobody else can insert: it waits for nobody.
   (The statement itself sees to the order: it updates under the condition that the inserts are done.)

Whoever waits in phase 2 waits for an id that another one in phase 2 or 3 has inserted (or in phase 3 updated), and has
inserted only lower ids itself. So along a chain of such waits the ids grow, until one in phase 3 ends it: it cannot
close. The same holds for locks among those in phase 1. These can also wait for one in phase 2 or 3, but none of those
waits for one in phase 1. Transactions that pass over locked rows (the end of leases, retention) do not wait for locks.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TypeAlias

import asyncpg
import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.jobs.columns import transition_to_row
from emitd_handlers.jobs.merge import Merged, expire, put_off, request_cancel
from emitd_handlers.jobs.postgres.database import Connection, Database, StartAgain
from emitd_handlers.jobs.postgres.rows import (
    JOB_NAMES,
    Values,
    WriteStatements,
    check_record,
    cleaned,
    is_storable,
    job_from_row,
    job_to_row,
    pg_time,
    tick_to_row,
    unix_nano,
)
from emitd_handlers.jobs.postgres.schema import Tables, lease_slot
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.store import Applied, JobHistory, Removed, Retention
from emitd_handlers.jobs.transaction import (
    Opener,
    Opening,
    Work,
    as_read,
    encode_receipts,
    is_tick,
    job_ids_of,
    openers_of,
)
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import LogRecord

#: PostgreSQL has no room for 256 MB in one JSON value.
MAX_STATEMENT_BYTES = 64 * 1024 * 1024
#: How many leases end in one pass at most; the others in the next.
MAX_EXPIRED = 1000
#: Rows of the table of commits that one call removes.
MAX_PRUNED = 5000
#: For so long they are kept, however many they are: those who look for changes do so every few seconds.
KEPT_COMMITS = "10 minutes"
MICROSECONDS_A_SECOND = 1_000_000
#: What the database, or asyncpg before it, says of a text or a key that cannot be stored.
_UNSTORABLE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError, UnicodeEncodeError)

#: The ids of changed jobs as a JSON text, their receipts, and how many: as `WriteStatements` takes them.
_Commit: TypeAlias = tuple[str | None, bytes | None, int]
_NO_COMMIT: _Commit = (None, None, 0)

_encode = msgspec.json.Encoder().encode


class PostgresJobs:
    """Writes the tables of jobs. Every method raises FAILURES, and has changed nothing then."""

    def __init__(self, database: Database, tables: Tables, *, keep_progress: bool) -> None:
        self._database = database
        self._keep_progress = keep_progress
        self._statements = WriteStatements(tables)
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
        self._openings = f"""
            SELECT job_id, opened_by, revision, attempt FROM {tables.transitions}
            JOIN unnest($1::text[], $2::text[]) AS opener (job_id, opened_by) USING (job_id, opened_by)
        """
        # Whoever has the row makes the pass; the others do not wait for it.
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
        # Another program may have ended a job and left the lease. Who has locked a job is about to renew its lease,
        # maybe.
        self._lock_expired = f"""
            SELECT {JOB_NAMES} FROM {tables.jobs}
            WHERE lease_slot <= {lease_slot("$1::timestamptz")} AND lease_expires_at <= $1
                AND status IN ('QUEUED', 'RUNNING')
            ORDER BY lease_expires_at LIMIT {MAX_EXPIRED} FOR NO KEY UPDATE SKIP LOCKED
        """
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

    async def apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        """Merge the reports in `records`, in order; see `JobStore.apply`."""
        try:
            return await self._apply(records, interest)
        except _UNSTORABLE:
            # Look again, at one after the other.
            refused: dict[int, Outcome] = {}
            good: list[LogRecord] = []
            for index, record in enumerate(records):
                try:
                    good.append(check_record(record))
                except RecordInvalid as error:
                    refused[index] = Refused(error)
            if not refused and all(map(_is_same, good, records)):
                raise
            applied = await self._apply(good, interest)
            outcomes = iter(applied.outcomes)
            return Applied(
                [refused.get(index) or next(outcomes) for index in range(len(records))], applied.changes
            )

    async def request_cancel(
        self, job_id: str, reason: str, interest: Container[str]
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        """Record the wish to cancel a job; see `JobStore.request_cancel`."""
        if not is_storable(job_id):
            return None, ()

        async def work_on(connection: Connection) -> tuple[Job | None, Work]:
            jobs, now = await self._lock_jobs(connection, [job_id])
            work = Work(as_read(jobs), now)
            if not jobs:
                return None, work
            job = request_cancel(jobs[0], cleaned(reason), now)
            work.change(Merged(job))
            await self._write(connection, work)
            return job, work

        job, work = await self._database.transact(work_on)
        return job, work.changes(interest) if job is not None else ()

    async def _write(self, connection: Connection, work: Work, removed: Sequence[str] = ()) -> None:
        """Write what was done to jobs, in the transaction that has locked them; `removed` are jobs that have gone."""
        created: list[Values] = []
        updated: list[Values] = []
        ticked: list[Values] = []
        job_ids = list(removed)
        now = work.now_unix_nano - work.now_unix_nano % 1000
        for item in work.changed():
            job, before = item.job, item.before
            job_ids.append(job.job_id)
            if before is None:
                created.append(job_to_row(job))
            elif job.update_time_unix_nano == now and is_tick(before, job):
                ticked.append(tick_to_row(before, job))
            else:
                updated.append([before.revision, *job_to_row(job)])
        if not job_ids and not work.receipts:
            return
        noted = [transition_to_row(job_id, transition) for job_id, transition in work.transitions]
        commit = (_encode(job_ids).decode(), encode_receipts(work.receipts), len(work.receipts))
        parts: Sequence[Sequence[Values]] = (created, updated, ticked, noted)
        texts = [_encode(rows) for rows in parts]
        if sum(map(len, texts)) <= MAX_STATEMENT_BYTES:
            await self._execute(connection, pg_time(now), commit, parts, texts)
            return
        # Part by part, in the same order; the last statement has none of them.
        for index, rows in enumerate(parts):
            for some in _divided(rows):
                one = tuple([some if place == index else () for place in range(len(parts))])
                await self._execute(connection, pg_time(now), _NO_COMMIT, one, list(map(_encode, one)))
        await self._execute(connection, pg_time(now), commit, ((),) * len(parts), [])

    async def _execute(
        self,
        connection: Connection,
        now: int,
        commit: _Commit,
        parts: Sequence[Sequence[Values]],
        texts: Sequence[bytes],
    ) -> None:
        statement = self._statements.text(tuple([bool(rows) for rows in parts]))
        parameters = [text.decode() for text, rows in zip(texts, parts, strict=False) if rows]
        ((count, *_),) = await connection.fetch(statement, now, *commit, *parameters)
        if count != sum(map(len, parts)):
            raise StartAgain  # somebody else has made one of the jobs meanwhile

    async def _apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        job_ids = job_ids_of(records)
        openers = openers_of(records)

        async def work_on(connection: Connection) -> tuple[Work, Sequence[Outcome]]:
            jobs, now = await self._lock_jobs(connection, job_ids)
            openings = await self._find_openings(connection, openers) if openers else {}
            work = Work(as_read(jobs), now, keep_progress=self._keep_progress, openings=openings)
            outcomes = work.merge(records)
            await self._write(connection, work)
            return work, outcomes

        work, outcomes = await self._database.transact(work_on)
        return Applied(outcomes, work.changes(interest))

    async def _find_openings(
        self, connection: Connection, openers: Sequence[Opener]
    ) -> Mapping[Opener, Opening]:
        """Return what those have opened that did, as far as the history goes. The jobs must be locked."""
        job_ids, record_ids = zip(*openers, strict=True)
        rows = await connection.fetch(self._openings, job_ids, record_ids)
        return {(row["job_id"], row["opened_by"]): (row["revision"], row["attempt"]) for row in rows}

    async def _lock_jobs(self, connection: Connection, job_ids: Sequence[str]) -> tuple[Sequence[Job], int]:
        """Lock those of the jobs that exist; return them, and the time after that in nanoseconds since 1970."""
        rows = await connection.fetch(self._lock, _encode(job_ids).decode())
        clock = rows.pop()
        return [job_from_row(row) for row in rows], unix_nano(clock["created_at"])

    async def end_expired(
        self, interval_seconds: float, waited_seconds: float, interest: Container[str]
    ) -> Sequence[JobHistory] | None:
        """Make one pass; see `JobStore.end_expired`. None: somebody else is at it."""

        async def work_on(connection: Connection) -> Work | None:
            turn = await connection.fetchrow(self._take_lease_turn)
            if turn is None and not await connection.fetchval(self._has_lease_row):
                await connection.execute(self._mend_leases)  # somebody has deleted it
                turn = await connection.fetchrow(self._take_lease_turn)
            if turn is None:
                return None
            now: int = turn["now"]
            await self._put_off_leases(connection, turn["passed_at"], now, interval_seconds)
            await connection.execute(self._stamp_leases, now)
            latest = now - int(waited_seconds * MICROSECONDS_A_SECOND)
            rows = await connection.fetch(self._lock_expired, latest)
            jobs = [job_from_row(row) for row in rows]
            work = Work(as_read(jobs), unix_nano(now))
            for job in jobs:
                work.change(expire(job, work.now_unix_nano))
            await self._write(connection, work)
            return work

        work = await self._database.transact(work_on)
        return None if work is None else work.changes(interest)

    async def _put_off_leases(
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
        await connection.execute(self._move_leases, [row["job_id"] for row in rows], ends)

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
                await self._write(connection, Work({}, unix_nano(now)), removed)
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


def _divided(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """Yield the rows in pieces that are small enough for a statement."""
    if len(rows) > 1 and len(_encode(rows)) > MAX_STATEMENT_BYTES:
        middle = len(rows) // 2
        yield from _divided(rows[:middle])
        yield from _divided(rows[middle:])
    elif rows:
        yield rows


def _is_same(one: LogRecord, other: LogRecord) -> bool:
    return one is other


def _before(parameter: int) -> str:
    """Return the time so many seconds ago, but not before 1970."""
    return f"to_timestamp(greatest(extract(epoch FROM now()) - ${parameter}::float8, 0))"
