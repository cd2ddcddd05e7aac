"""Questions about jobs in SQLite. Blocking, for the thread of a connection that only reads."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from emitd_handlers.jobs.paging import job_page, read_job_token, read_transition_token, transition_page
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, TransitionPage, TransitionQuery
from emitd_handlers.jobs.sqlite.rows import (
    SELECT_JOB,
    SELECT_TRANSITIONS,
    job_from_row,
    time_text,
    transition_from_row,
)
from emitd_handlers.jobs.store import JobHistory

__all__ = ["get_job", "list_jobs", "list_transitions", "load_history"]

#: One condition for any number of labels: SQLite refuses to join more than 1,000 of them.
HAS_LABELS = """
    NOT EXISTS (
        SELECT * FROM json_each(?) AS wanted WHERE NOT EXISTS (
            SELECT * FROM json_each(labels) AS own WHERE own.key = wanted.key AND own.value = wanted.value
        )
    )
"""


def get_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """Return the job, or None. Raises sqlite3.Error."""
    row = connection.execute(f"{SELECT_JOB} WHERE job_id = ?", (job_id,)).fetchone()
    return job_from_row(row) if row else None


def load_history(
    connection: sqlite3.Connection, job_id: str, after_revision: int | None
) -> JobHistory | None:
    """Return the job and its changes of status after a revision; see `JobStore`. Raises sqlite3.Error."""
    with _one_moment(connection):
        job = get_job(connection, job_id)
        if job is None:
            return None
        if after_revision is None or after_revision >= job.revision:
            return JobHistory(job, (), job.revision)
        after_revision = max(after_revision, _kept_after(connection, job_id))
        rows = connection.execute(
            f"{SELECT_TRANSITIONS} AND NOT progress_only ORDER BY revision", (job_id, after_revision)
        )
        return JobHistory(job, [transition_from_row(row) for row in rows], after_revision)


def list_jobs(connection: sqlite3.Connection, query: JobQuery) -> JobPage:
    """Return a page of jobs. Raises JobQueryInvalid for a token of another query, and sqlite3.Error.

    Pages go by (created_at, job_id), which no report changes.
    """
    where, parameters = _conditions(query)
    rows = connection.execute(
        f"{SELECT_JOB} {where} ORDER BY created_at DESC, job_id DESC LIMIT ?",
        (*parameters, query.page_size + 1),
    )
    return job_page(query, map(job_from_row, rows))


def list_transitions(connection: sqlite3.Connection, query: TransitionQuery) -> TransitionPage | None:
    """Return a page of a job's history; see `list_jobs`."""
    after_revision = read_transition_token(query)
    with _one_moment(connection):
        if get_job(connection, query.job_id) is None:
            return None
        rows = connection.execute(
            f"{SELECT_TRANSITIONS} ORDER BY revision LIMIT ?",
            (query.job_id, after_revision, query.page_size + 1),
        )
        kept_after = _kept_after(connection, query.job_id)
        return transition_page(query, map(transition_from_row, rows), kept_after=kept_after)


@contextmanager
def _one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Let all that is read in the block be of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def _kept_after(connection: sqlite3.Connection, job_id: str) -> int:
    """Return the revision up to which the job's history was removed."""
    row = connection.execute("SELECT history_revision FROM job_logs WHERE job_id = ?", (job_id,)).fetchone()
    revision: int = row[0]
    return revision


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


def _marks(values: tuple[Any, ...]) -> str:
    return ", ".join("?" * len(values))
