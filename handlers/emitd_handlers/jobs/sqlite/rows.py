"""Between jobs and the rows of `job_logs` and `job_transitions`.

The functions for writing run for each report. Their tuples are in the order of the statement above them, and hold
no None, which Python's sqlite3 takes longer to bind than any text: NULL is written as ''.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.jobs.sqlite.bulk_statement import ManyRows
from emitd_handlers.record import JobState

__all__ = [
    "INSERT_JOBS",
    "INSERT_TRANSITIONS",
    "SELECT_JOB",
    "SELECT_TRANSITIONS",
    "UPDATE_JOBS",
    "UPDATE_LEASED_TICKS",
    "UPDATE_TICKS",
    "job_from_row",
    "job_to_row",
    "leased_tick_to_row",
    "read_time",
    "tick_to_row",
    "time_text",
    "transition_from_row",
    "transition_to_row",
    "update_to_row",
]

Row: TypeAlias = tuple[Any, ...]

_EPOCH = datetime(1970, 1, 1)  # in UTC, as all times here
_MICROSECOND = timedelta(microseconds=1)
_STATUS_TEXTS = ("", *(state.name for state in JobState))
_STATES = {state.name: state for state in JobState}
_encode_labels = msgspec.json.Encoder().encode
_decode_labels = msgspec.json.Decoder(dict[str, str]).decode


@lru_cache(maxsize=64)
def time_text(unix_nano: int) -> str:
    """Return the time as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, whose order is that of time."""
    return (_EPOCH + timedelta(microseconds=unix_nano // 1000)).isoformat(" ", "microseconds")


def read_time(text: str | None) -> int:
    """Return the time in such a text, in nanoseconds since 1970-01-01T00:00:00Z; None: 0."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND * 1000 if text else 0


def _text_or_empty(unix_nano: int) -> str:
    return time_text(unix_nano) if unix_nano else ""


def _labels_text(job: Job) -> str:
    return _encode_labels(job.labels).decode() if job.labels else "{}"


#: Followed by a WHERE clause; the columns are those that `job_from_row` takes.
SELECT_JOB = """
    SELECT rowid, job_id, job_type, status, progress, message, details, labels, source, attempt, revision,
        created_at, updated_at, event_time_unix_nano, lease_seconds, lease_expires_at, failure_reason,
        failure_message, cancel_requested, cancel_reason, started_at, ended_at
    FROM job_logs
"""


def job_from_row(row: Row) -> Job:
    """Return the job in a row of `SELECT_JOB`."""
    (
        _,
        job_id,
        job_type,
        status,
        progress,
        message,
        details,
        labels,
        source,
        attempt,
        revision,
        created_at,
        updated_at,
        event_time,
        lease_seconds,
        lease_expires_at,
        failure_reason,
        failure_message,
        cancel_requested,
        cancel_reason,
        started_at,
        ended_at,
    ) = row
    return Job(
        job_id=job_id,
        job_type=job_type,
        status=_STATES[status],
        progress=progress,
        message=message,
        details_json=details or "",
        labels=_decode_labels(labels),
        source=source,
        attempt=attempt,
        revision=revision,
        create_time_unix_nano=read_time(created_at),
        update_time_unix_nano=read_time(updated_at),
        event_time_unix_nano=event_time,
        lease_seconds=lease_seconds,
        lease_expire_time_unix_nano=read_time(lease_expires_at),
        failure_reason=failure_reason or "",
        failure_message=failure_message or "",
        cancel_requested=bool(cancel_requested),
        cancel_reason=cancel_reason or "",
        start_time_unix_nano=read_time(started_at),
        end_time_unix_nano=read_time(ended_at),
    )


INSERT_JOBS = ManyRows(
    """
    INSERT INTO job_logs (
        rowid, job_id, job_type, status, progress, message, details, labels, source, attempt, revision,
        created_at, updated_at, event_time_unix_nano, lease_seconds, lease_expires_at, failure_reason,
        failure_message, started_at, ended_at
    )
    """,
    "(?, ?, ?, ?, ?, ?, nullif(?, ''), ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, ''), "
    "nullif(?, ''), nullif(?, ''))",
)


def job_to_row(rowid: int, job: Job) -> Row:
    """Return the parameters of `INSERT_JOBS`."""
    return (
        rowid,
        job.job_id,
        job.job_type,
        _STATUS_TEXTS[job.status],
        job.progress,
        job.message,
        job.details_json,
        _labels_text(job),
        job.source,
        job.attempt,
        job.revision,
        time_text(job.create_time_unix_nano),
        time_text(job.update_time_unix_nano),
        job.event_time_unix_nano,
        job.lease_seconds,
        _text_or_empty(job.lease_expire_time_unix_nano),
        job.failure_reason,
        job.failure_message,
        _text_or_empty(job.start_time_unix_nano),
        _text_or_empty(job.end_time_unix_nano),
    )


UPDATE_JOBS = ManyRows(
    """
    UPDATE job_logs SET
        status = column2, progress = column3, message = column4, details = column5, labels = column6,
        source = column7, attempt = column8, revision = column9, updated_at = column10,
        event_time_unix_nano = column11, lease_seconds = column12, lease_expires_at = column13,
        failure_reason = column14, failure_message = column15, started_at = column16, ended_at = column17,
        cancel_requested = column18, cancel_reason = column19, has_history = 1
    FROM (
    """,
    "(?, ?, ?, ?, nullif(?, ''), ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, ''), "
    "nullif(?, ''), nullif(?, ''), ?, nullif(?, ''))",
    ") WHERE job_logs.rowid = column1",
)


def update_to_row(rowid: int, job: Job) -> Row:
    """Return the parameters of `UPDATE_JOBS`."""
    return (
        rowid,
        _STATUS_TEXTS[job.status],
        job.progress,
        job.message,
        job.details_json,
        _labels_text(job),
        job.source,
        job.attempt,
        job.revision,
        time_text(job.update_time_unix_nano),
        job.event_time_unix_nano,
        job.lease_seconds,
        _text_or_empty(job.lease_expire_time_unix_nano),
        job.failure_reason,
        job.failure_message,
        _text_or_empty(job.start_time_unix_nano),
        _text_or_empty(job.end_time_unix_nano),
        job.cancel_requested,
        job.cancel_reason,
    )


_TICK = """
    UPDATE job_logs SET
        updated_at = ?, progress = column2, message = column3, revision = column4, event_time_unix_nano = column5
"""
#: For what most reports change: fewer columns, none of them indexed, and half the time. The first parameter is
#: `updated_at`.
UPDATE_TICKS = ManyRows(f"{_TICK} FROM (", "(?, ?, ?, ?, ?)", ") WHERE job_logs.rowid = column1")
#: Likewise, for jobs with a lease.
UPDATE_LEASED_TICKS = ManyRows(
    f"{_TICK}, lease_expires_at = column6 FROM (", "(?, ?, ?, ?, ?, ?)", ") WHERE job_logs.rowid = column1"
)


def tick_to_row(rowid: int, job: Job) -> Row:
    """Return the parameters of `UPDATE_TICKS`."""
    return (rowid, job.progress, job.message, job.revision, job.event_time_unix_nano)


def leased_tick_to_row(rowid: int, job: Job) -> Row:
    """Return the parameters of `UPDATE_LEASED_TICKS`."""
    return (*tick_to_row(rowid, job), time_text(job.lease_expire_time_unix_nano))


#: Followed by more conditions and an order.
SELECT_TRANSITIONS = """
    SELECT revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only
    FROM job_transitions WHERE job_id = ? AND revision > ?
"""


def transition_from_row(row: Row) -> JobTransition:
    """Return the transition in a row of `SELECT_TRANSITIONS`."""
    revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only = row
    return JobTransition(
        revision,
        attempt,
        _STATES[status],
        progress,
        time_unix_nano % 2**64,
        failure_reason or "",
        failure_message or "",
        bool(progress_only),
    )


INSERT_TRANSITIONS = ManyRows(
    "INSERT INTO job_transitions", "(?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), ?, nullif(?, ''))"
)


def transition_to_row(job_id: str, transition: JobTransition) -> Row:
    """Return the parameters of `INSERT_TRANSITIONS`."""
    time_unix_nano = transition.time_unix_nano
    return (
        job_id,
        transition.revision,
        transition.attempt,
        _STATUS_TEXTS[transition.status],
        transition.progress,
        time_unix_nano if time_unix_nano < 2**63 else time_unix_nano - 2**64,
        transition.failure_reason,
        transition.failure_message,
        transition.progress_only,
        transition.opened_by,
    )
