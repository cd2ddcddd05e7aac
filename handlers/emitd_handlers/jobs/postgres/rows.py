"""Between jobs and the rows of the tables of jobs and of transitions.

The functions run for each report. Times are microseconds since 2000-01-01T00:00:00Z here, as `Database` exchanges them.
"""

from typing import Any, TypeAlias

import msgspec

from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.record import JobState

__all__ = [
    "JOB_COLUMNS",
    "MAX_BIGINT",
    "STATUS_TEXTS",
    "TransitionRow",
    "Values",
    "job_from_row",
    "job_to_row",
    "pg_time",
    "tick_to_row",
    "transition_from_row",
    "transition_to_row",
    "unix_nano",
    "update_to_row",
]

#: The values of one row that is to be written.
Values: TypeAlias = tuple[Any, ...]
#: revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only.
TransitionRow: TypeAlias = tuple[int, int, str, int, int, str | None, str | None, bool]

MAX_BIGINT = 2**63 - 1
#: From 1970 to 2000, in microseconds.
_EPOCH = 946_684_800_000_000
#: By number.
STATUS_TEXTS = ("", *(state.name for state in JobState))
_STATES = {state.name: state for state in JobState}
_decode_labels = msgspec.json.Decoder(dict[str, str]).decode


def pg_time(unix_nano: int) -> int:
    """Return the time in microseconds since 2000."""
    return unix_nano // 1000 - _EPOCH


def unix_nano(time: int | None) -> int:
    """Return the time in nanoseconds since 1970; None: 0."""
    return 0 if time is None else (time + _EPOCH) * 1000


#: What `job_from_row` takes, with the clock as a bare number of the type of times.
JOB_COLUMNS = (
    "job_id, job_type, status, progress, message, details, labels, source, attempt, revision, created_at, updated_at, "
    "event_time_unix_nano, lease_seconds, lease_expires_at, failure_reason, failure_message, cancel_requested, "
    "cancel_reason, started_at, ended_at"
)


def job_from_row(row: Any) -> Job:
    """Return the job in a row of `JOB_COLUMNS`."""
    (
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
        labels={} if labels == "{}" else _decode_labels(labels),
        source=source,
        attempt=attempt,
        revision=revision,
        create_time_unix_nano=(created_at + _EPOCH) * 1000,
        update_time_unix_nano=(updated_at + _EPOCH) * 1000,
        event_time_unix_nano=event_time,
        lease_seconds=lease_seconds,
        lease_expire_time_unix_nano=0 if lease_expires_at is None else (lease_expires_at + _EPOCH) * 1000,
        failure_reason=failure_reason or "",
        failure_message=failure_message or "",
        cancel_requested=cancel_requested,
        cancel_reason=cancel_reason or "",
        start_time_unix_nano=0 if started_at is None else (started_at + _EPOCH) * 1000,
        end_time_unix_nano=0 if ended_at is None else (ended_at + _EPOCH) * 1000,
    )


def job_to_row(job: Job) -> Values:
    """Return the values of a new row, in the order of its part in `statements`."""
    return (
        job.job_id,
        job.job_type,
        STATUS_TEXTS[job.status],
        job.progress,
        job.message,
        job.details_json or None,
        job.labels,
        job.source,
        job.attempt,
        job.revision,
        pg_time(job.create_time_unix_nano),
        pg_time(job.update_time_unix_nano),
        job.event_time_unix_nano,
        job.lease_seconds,
        _time_or_none(job.lease_expire_time_unix_nano),
        job.failure_reason or None,
        job.failure_message or None,
        _time_or_none(job.start_time_unix_nano),
        _time_or_none(job.end_time_unix_nano),
    )


def update_to_row(before: Job, job: Job) -> Values:
    """Return the values for a row of which anything may have changed, likewise."""
    return (
        job.job_id,
        before.revision,
        STATUS_TEXTS[job.status],
        job.progress,
        job.message,
        job.details_json or None,
        job.labels,
        job.source,
        job.attempt,
        job.revision,
        pg_time(job.update_time_unix_nano),
        job.event_time_unix_nano,
        job.lease_seconds,
        _time_or_none(job.lease_expire_time_unix_nano),
        job.failure_reason or None,
        job.failure_message or None,
        job.cancel_requested,
        job.cancel_reason or None,
        _time_or_none(job.start_time_unix_nano),
        _time_or_none(job.end_time_unix_nano),
    )


def tick_to_row(before: Job, job: Job) -> Values:
    """Return the values for a row of which a report has changed no more than most do, likewise."""
    return (
        job.job_id,
        before.revision,
        job.progress,
        job.message,
        job.revision,
        job.event_time_unix_nano,
        _time_or_none(job.lease_expire_time_unix_nano),
    )


def transition_to_row(job_id: str, transition: JobTransition) -> Values:
    """Return the values of a new row of the table of transitions."""
    time_unix_nano = transition.time_unix_nano
    return (
        job_id,
        transition.revision,
        transition.attempt,
        STATUS_TEXTS[transition.status],
        transition.progress,
        time_unix_nano if time_unix_nano <= MAX_BIGINT else time_unix_nano - 2**64,
        transition.failure_reason or None,
        transition.failure_message or None,
        transition.progress_only,
        transition.opened_by or None,
    )


def transition_from_row(row: TransitionRow) -> JobTransition:
    """Return the transition in a row."""
    revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only = row
    return JobTransition(
        revision,
        attempt,
        _STATES[status],
        progress,
        time_unix_nano % 2**64,
        failure_reason or "",
        failure_message or "",
        progress_only,
    )


def _time_or_none(unix_nano: int) -> int | None:
    return unix_nano // 1000 - _EPOCH if unix_nano else None
