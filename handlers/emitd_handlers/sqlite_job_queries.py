"""Questions about jobs in SQLite. Blocking, for the thread of a connection that only reads."""

import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Any

import msgspec

from emitd_handlers.errors import JobQueryInvalid
from emitd_handlers.job import Job, JobPage, JobQuery
from emitd_handlers.job_hub import JobHistory
from emitd_handlers.sqlite_job_rows import (
    SELECT_JOB,
    SELECT_TRANSITIONS,
    job_from_row,
    time_text,
    transition_from_row,
)

__all__ = ["get_job", "list_jobs", "load_history"]

#: A page ends with the job that makes it this large.
MAX_PAGE_BYTES = 2 * 1024 * 1024
#: What a job takes in a page beside its texts, about.
JOB_OVERHEAD_BYTES = 100

#: A digest of the query's filters; created_at and job_id of the last job of the page before.
_Token = tuple[bytes, str, str]

_encode = msgspec.msgpack.Encoder().encode
_decode_token = msgspec.msgpack.Decoder(_Token).decode


def get_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """Return the job, or None. Raises sqlite3.Error."""
    row = connection.execute(f"{SELECT_JOB} WHERE job_id = ?", (job_id,)).fetchone()
    return job_from_row(row) if row else None


def load_history(
    connection: sqlite3.Connection, job_id: str, after_revision: int | None
) -> JobHistory | None:
    """Return the job and its transitions after a revision; None: without any. Raises sqlite3.Error."""
    connection.execute("BEGIN")  # so that both are of one moment
    try:
        job = get_job(connection, job_id)
        if job is None:
            return None
        if after_revision is None or after_revision >= job.revision:
            return JobHistory(job, (), job.revision)
        rows = connection.execute(SELECT_TRANSITIONS, (job_id, after_revision))
        return JobHistory(job, [transition_from_row(row) for row in rows], after_revision)
    finally:
        connection.execute("COMMIT")


def list_jobs(connection: sqlite3.Connection, query: JobQuery) -> JobPage:
    """Return a page of jobs. Raises JobQueryInvalid for a token of another query, and sqlite3.Error.

    Pages go by (created_at, job_id), which no report changes.
    """
    where, parameters = _conditions(query)
    rows = connection.execute(
        f"{SELECT_JOB} {where} ORDER BY created_at DESC, job_id DESC LIMIT ?",
        (*parameters, query.page_size + 1),
    )
    jobs: list[Job] = []
    size = 0
    for row in rows:
        if len(jobs) == query.page_size or size >= MAX_PAGE_BYTES:
            return JobPage(jobs, _make_token(query, jobs[-1]))
        jobs.append(job_from_row(row))
        size += _size(jobs[-1])
    return JobPage(jobs, "")


def _conditions(query: JobQuery) -> tuple[str, list[Any]]:
    conditions: list[str] = []
    parameters: list[Any] = []
    if query.page_token:
        conditions.append("(created_at, job_id) < (?, ?)")
        parameters += _read_token(query)
    if query.job_type:
        conditions.append("job_type = ?")
        parameters.append(query.job_type)
    if query.statuses:
        conditions.append(f"status IN ({', '.join('?' * len(query.statuses))})")
        parameters += [status.name for status in query.statuses]
    if query.updated_after_unix_nano:
        conditions.append("updated_at > ?")
        parameters.append(time_text(query.updated_after_unix_nano))
    return f"WHERE {' AND '.join(conditions)}" if conditions else "", parameters


def _make_token(query: JobQuery, last: Job) -> str:
    token: _Token = (_digest(query), time_text(last.create_time_unix_nano), last.job_id)
    return urlsafe_b64encode(_encode(token)).decode()


def _read_token(query: JobQuery) -> tuple[str, str]:
    try:
        digest, created_at, job_id = _decode_token(urlsafe_b64decode(query.page_token))
    except (ValueError, msgspec.MsgspecError):
        raise JobQueryInvalid("page_token", "is none that this server has made") from None
    if digest != _digest(query):
        raise JobQueryInvalid("page_token", "was made for other filters")
    return created_at, job_id


def _digest(query: JobQuery) -> bytes:
    filters = (query.job_type, sorted(set(query.statuses)), query.updated_after_unix_nano)
    return blake2b(_encode(filters), digest_size=8).digest()


def _size(job: Job) -> int:
    """Return about how many bytes a job takes in a page."""
    texts = [job.job_id, job.job_type, job.message, job.details_json, job.source, job.failure_message]
    return JOB_OVERHEAD_BYTES + len("".join([*texts, *job.labels, *job.labels.values()]).encode())
