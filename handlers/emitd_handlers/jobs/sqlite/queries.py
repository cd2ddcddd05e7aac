"""Reads jobs from SQLite, over a connection that only reads, one query at a time.

Each answer is one snapshot, because it is one statement.
"""

from typing import Any

import aiosqlite
import msgspec

from emitd_handlers.jobs.columns import TRANSITION_READ_COLUMNS, transitions_from_json
from emitd_handlers.jobs.paging import (
    MAX_PART_TRANSITIONS,
    MAX_REVISION,
    history_part,
    job_page,
    read_job_token,
    read_transition_token,
    transition_page,
)
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, TransitionPage, TransitionQuery
from emitd_handlers.jobs.sqlite.rows import JOB_NAMES, job_from_row, time_text
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.room import MAX_PAGE_BYTES

#: Rows of a page that are read at once.
ROWS_AT_ONCE = 64


def _transitions(condition: str) -> str:
    """Return a query for the next transitions: no more than fit into a page, and one."""
    return f"""
        SELECT json_group_array(json_array({TRANSITION_READ_COLUMNS})) FROM (
            SELECT *, sum(coalesce(length(failure_message), 0)) OVER (
                ORDER BY revision ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING
            ) AS size_before FROM (
                SELECT * FROM job_transitions WHERE job_id = :job_id AND revision > :after {condition}
                ORDER BY revision LIMIT :limit
            )
        ) WHERE coalesce(size_before, 0) < {MAX_PAGE_BYTES}
    """


SELECT_HISTORY = f"""
    SELECT {JOB_NAMES}, history_revision, (
        {_transitions("AND NOT progress_only AND :after < job_logs.revision")}
    ) FROM job_logs WHERE job_id = :job_id
"""
SELECT_TRANSITIONS = f"""
    SELECT history_revision, ({_transitions("")}) FROM job_logs WHERE job_id = :job_id
"""
#: One condition for any number of labels: SQLite refuses to join more than 1,000 of them.
HAS_LABELS = """
    NOT EXISTS (
        SELECT * FROM json_each(?) AS wanted WHERE NOT EXISTS (
            SELECT * FROM json_each(labels) AS own WHERE own.key = wanted.key AND own.value = wanted.value
        )
    )
"""


async def get_job(connection: aiosqlite.Connection, job_id: str) -> Job | None:
    """Return the job, or None. Raises sqlite3.Error."""
    rows = list(
        await connection.execute_fetchall(f"SELECT {JOB_NAMES} FROM job_logs WHERE job_id = ?", (job_id,))
    )
    return job_from_row(rows[0]) if rows else None


async def load_history(
    connection: aiosqlite.Connection, job_id: str, after_revision: int | None
) -> JobHistory | None:
    """Return the job and its changes of status after a revision; see `JobStore`. Raises sqlite3.Error."""
    # Without a revision, none comes after it.
    after = None if after_revision is None else min(after_revision, MAX_REVISION)
    parameters = {"job_id": job_id, "after": after, "limit": MAX_PART_TRANSITIONS + 1}
    rows = list(await connection.execute_fetchall(SELECT_HISTORY, parameters))
    if not rows:
        return None
    *values, history_revision, transitions = rows[0]
    job = job_from_row(values)
    if after is None or after >= job.revision:
        return JobHistory(job, (), job.revision)
    return history_part(job, transitions_from_json(transitions), max(after, history_revision))


async def list_jobs(connection: aiosqlite.Connection, query: JobQuery) -> JobPage:
    """Return a page of jobs. Raises JobQueryInvalid for a token of another query, and sqlite3.Error.

    Pages go by (created_at, job_id), which no report changes.
    """
    where, parameters = _conditions(query)
    statement = f"SELECT {JOB_NAMES} FROM job_logs {where} ORDER BY created_at DESC, job_id DESC LIMIT ?"
    jobs: list[Job] = []
    async with connection.execute(statement, (*parameters, query.page_size + 1)) as cursor:
        while True:
            rows = list(await cursor.fetchmany(ROWS_AT_ONCE))
            jobs += map(job_from_row, rows)
            # They may be large: read not many more than the page has room for.
            if len(rows) < ROWS_AT_ONCE or sum(map(_characters, jobs[:-1])) >= query.page_bytes:
                return job_page(query, jobs)


async def list_transitions(connection: aiosqlite.Connection, query: TransitionQuery) -> TransitionPage | None:
    """Return a page of a job's history; see `list_jobs`."""
    parameters = {
        "job_id": query.job_id,
        "after": read_transition_token(query),
        "limit": query.page_size + 1,
    }
    rows = list(await connection.execute_fetchall(SELECT_TRANSITIONS, parameters))
    if not rows:
        return None
    history_revision, transitions = rows[0]
    return transition_page(query, transitions_from_json(transitions), kept_after=history_revision)


def _conditions(query: JobQuery) -> tuple[str, list[Any]]:
    conditions: list[str] = []
    parameters: list[Any] = []
    if (last := read_job_token(query)) is not None:
        conditions.append("(created_at, job_id) < (?, ?)")
        parameters += [time_text(last[0]), last[1]]
    if query.job_type:
        conditions.append("job_type = ?")
        parameters.append(query.job_type)
    if query.statuses:
        conditions.append(f"status IN ({_marks(query.statuses)})")
        parameters += [status.name for status in query.statuses]
    if query.job_ids:
        conditions.append(f"job_id IN ({_marks(query.job_ids)})")
        parameters += query.job_ids
    if query.labels:
        conditions.append(HAS_LABELS)
        parameters.append(msgspec.json.encode(query.labels).decode())
    if query.updated_after_unix_nano:
        conditions.append("updated_at > ?")
        parameters.append(time_text(query.updated_after_unix_nano))
    return f"WHERE {' AND '.join(conditions)}" if conditions else "", parameters


def _characters(job: Job) -> int:
    return len(job.message) + len(job.details_json)


def _marks(values: tuple[Any, ...]) -> str:
    return ", ".join("?" * len(values))
