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
from emitd_handlers.jobs.merge import Merged, request_cancel
from emitd_handlers.jobs.postgres.database import Connection, Database, StartAgain
from emitd_handlers.jobs.postgres.rows import (
    JOB_COLUMNS,
    Values,
    job_from_row,
    job_to_row,
    pg_time,
    tick_to_row,
    transition_to_row,
    unix_nano,
    update_to_row,
)
from emitd_handlers.jobs.postgres.statements import WriteStatements
from emitd_handlers.jobs.postgres.storable import check_record, cleaned, is_storable
from emitd_handlers.jobs.postgres.tables import Tables
from emitd_handlers.jobs.receipts import encode_receipts
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.store import Applied, JobHistory
from emitd_handlers.jobs.transaction import Opener, Opening, Work, as_read, is_tick, job_ids_of, openers_of
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import LogRecord

__all__ = ["PostgresJobs"]

#: PostgreSQL has no room for 256 MB in one JSON value.
MAX_STATEMENT_BYTES = 64 * 1024 * 1024
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
                SELECT {JOB_COLUMNS} FROM {tables.jobs} WHERE job_id = ANY(ARRAY(SELECT jsonb_array_elements_text($1)))
                ORDER BY job_id FOR NO KEY UPDATE
            ) AS locked
            UNION ALL SELECT {JOB_COLUMNS.replace("created_at", "clock_timestamp()")} FROM (
                SELECT (NULL::{tables.jobs}).*
            ) AS nothing
        """
        self._openings = f"""
            SELECT job_id, opened_by, revision, attempt FROM {tables.transitions}
            JOIN unnest($1::text[], $2::text[]) AS opener (job_id, opened_by) USING (job_id, opened_by)
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
            await self.write(connection, work)
            return job, work

        job, work = await self._database.transact(work_on)
        return job, work.changes(interest) if job is not None else ()

    async def write(self, connection: Connection, work: Work, removed: Sequence[str] = ()) -> None:
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
                updated.append(update_to_row(before, job))
        if not job_ids and not work.receipts:
            return
        noted = [transition_to_row(job_id, transition) for job_id, transition in work.transitions]
        commit = (_encode(job_ids).decode(), encode_receipts(work.receipts), len(work.receipts))
        parts = (created, updated, ticked, noted)
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
            await self.write(connection, work)
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
