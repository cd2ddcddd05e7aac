"""The columns of the tables of jobs and of transitions, the same in each database.

A database adds how it writes a time and labels. Text columns in NULLABLE hold NULL instead of an empty text.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.record import JobState

#: The columns of a job, and the fields of `Job` that they hold.
JOB_COLUMNS: Mapping[str, str] = {
    "job_id": "job_id",
    "job_type": "job_type",
    "status": "status",
    "progress": "progress",
    "message": "message",
    "details": "details_json",
    "labels": "labels",
    "source": "source",
    "attempt": "attempt",
    "revision": "revision",
    "created_at": "create_time_unix_nano",
    "updated_at": "update_time_unix_nano",
    "event_time_unix_nano": "event_time_unix_nano",
    "lease_seconds": "lease_seconds",
    "lease_expires_at": "lease_expire_time_unix_nano",
    "failure_reason": "failure_reason",
    "failure_message": "failure_message",
    "cancel_requested": "cancel_requested",
    "cancel_reason": "cancel_reason",
    "started_at": "start_time_unix_nano",
    "ended_at": "end_time_unix_nano",
    "owner": "owner",
}
#: Those that a report can change.
UPDATED_COLUMNS = [name for name in JOB_COLUMNS if name not in ("job_id", "job_type", "created_at")]
#: What is read of a transition.
TRANSITION_READ_COLUMNS = (
    "revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only"
)
TRANSITION_COLUMNS = ("job_id", *TRANSITION_READ_COLUMNS.split(", "), "opened_by", "opened_by_source")
NULLABLE = frozenset({"details", "failure_reason", "failure_message", "cancel_reason", "opened_by", "owner"})

_values_of = attrgetter(*JOB_COLUMNS.values())
_PLACES = {name: place for place, name in enumerate(JOB_COLUMNS)}
_STATUS, _LABELS = _PLACES["status"], _PLACES["labels"]
_TIMES = tuple([place for name, place in _PLACES.items() if name.endswith("_at")])
_UPDATED_TIMES = tuple([place for place in _TIMES if place != _PLACES["created_at"]])

#: By number.
_STATUS_TEXTS = ("", *(state.name for state in JobState))
_STATES = {state.name: state for state in JobState}
_decode_labels = msgspec.json.Decoder(dict[str, str]).decode
_decode_transitions = msgspec.json.Decoder(
    list[tuple[int, int, str, int, int, str | None, str | None, bool | int]]
).decode


def job_from_row(read_time: Callable[[Any], int], row: Iterable[Any]) -> Job:
    """Return the job in a row of JOB_COLUMNS."""
    # Written out, because it runs for each report in PostgreSQL: a loop over the columns takes twice as long.
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
        owner,
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
        create_time_unix_nano=read_time(created_at),
        update_time_unix_nano=read_time(updated_at),
        event_time_unix_nano=event_time,
        lease_seconds=lease_seconds,
        lease_expire_time_unix_nano=0 if lease_expires_at is None else read_time(lease_expires_at),
        failure_reason=failure_reason or "",
        failure_message=failure_message or "",
        cancel_requested=bool(cancel_requested),
        cancel_reason=cancel_reason or "",
        start_time_unix_nano=0 if started_at is None else read_time(started_at),
        end_time_unix_nano=0 if ended_at is None else read_time(ended_at),
        owner=owner or "",
    )


def job_to_row(
    job: Job, labels: object, write_time: Callable[[int], object], *, is_new: bool = True
) -> list[Any]:
    """Return the values of JOB_COLUMNS; `labels` are the job's as the database takes them.

    Unless the job `is_new`, `created_at` is not converted: no update writes it, and it can be the dearest of all.
    """
    values = list(_values_of(job))
    values[_STATUS] = _STATUS_TEXTS[values[_STATUS]]
    values[_LABELS] = labels
    for place in _TIMES if is_new else _UPDATED_TIMES:
        values[place] = write_time(values[place])
    return values


def transitions_from_json(text: str | None) -> Sequence[JobTransition]:
    """Return the transitions in a JSON array of arrays of TRANSITION_READ_COLUMNS; None: there are none."""
    if not text:
        return []
    return [
        JobTransition(
            revision,
            attempt,
            _STATES[status],
            progress,
            time_unix_nano % 2**64,
            failure_reason or "",
            failure_message or "",
            bool(progress_only),
        )
        for revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only in (
            _decode_transitions(text)
        )
    ]


def transition_to_row(job_id: str, transition: JobTransition) -> tuple[Any, ...]:
    """Return the values of TRANSITION_COLUMNS; the time, which is any 64 bits, as a signed number."""
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
        transition.opened_by_source,
    )
