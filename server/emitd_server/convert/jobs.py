"""Converts between jobs and messages: reads and checks requests, writes jobs and updates."""

from collections.abc import Sequence

from msgspec.structs import asdict

from emitd.v1 import job_pb2 as pb
from emitd_handlers.jobs.source import (
    Job,
    JobChange,
    JobFilter,
    JobQuery,
    JobTransition,
    JobUpdate,
    TransitionPage,
    TransitionQuery,
)
from emitd_handlers.record import JobState
from emitd_handlers.scope import Scope
from emitd_server.convert import read_page_size
from emitd_server.errors import RequestInvalid

#: Ids in one filter.
MAX_JOB_IDS = 1000
_STATES = {state.value: state for state in JobState}


def read_job_id(job_id: str) -> str:
    """Return the id. Raises RequestInvalid if there is none."""
    if not job_id:
        raise RequestInvalid("job_id", "is mandatory")
    return job_id


def read_query(request: pb.ListJobsRequest, scope: Scope) -> JobQuery:
    """Return the query that a request of a caller with a scope describes. Raises RequestInvalid."""
    return JobQuery(
        **asdict(read_filter(request, scope)),
        updated_after_unix_nano=request.updated_after_unix_nano,
        page_size=read_page_size(request.page_size),
        page_token=request.page_token,
    )


def read_filter(request: pb.ListJobsRequest | pb.WatchJobsRequest, scope: Scope) -> JobFilter:
    """Return the filter of a request of a caller with a scope. Raises RequestInvalid."""
    if len(request.job_ids) > MAX_JOB_IDS:
        raise RequestInvalid("job_ids", f"has {len(request.job_ids)} ids, more than {MAX_JOB_IDS}")
    for index, job_id in enumerate(request.job_ids):
        if not job_id:
            raise RequestInvalid(f"job_ids[{index}]", "is empty")
    return JobFilter(
        job_type=request.job_type,
        statuses=tuple(_state(number, index) for index, number in enumerate(request.statuses)),
        job_ids=tuple(request.job_ids),
        labels=dict(request.labels),
        scope=scope,
    )


def read_transition_query(request: pb.ListJobTransitionsRequest) -> TransitionQuery:
    """Return the query for a part of a job's history. Raises RequestInvalid."""
    return TransitionQuery(
        job_id=read_job_id(request.job_id),
        after_revision=request.after_revision,
        page_size=read_page_size(request.page_size),
        page_token=request.page_token,
    )


def job_to_wire(job: Job) -> pb.Job:
    """Return the job's message."""
    return pb.Job(
        job_id=job.job_id,
        job_type=job.job_type,
        status=job.status.value,  # type: ignore[arg-type]  # the stubs want their own enum; numbers will do
        ended=job.status.ended,
        progress=job.progress,
        message=job.message,
        details_json=job.details_json,
        labels=job.labels,
        source=job.source,
        attempt=job.attempt,
        revision=job.revision,
        create_time_unix_nano=job.create_time_unix_nano,
        update_time_unix_nano=job.update_time_unix_nano,
        lease_expire_time_unix_nano=job.lease_expire_time_unix_nano,
        failure_reason=job.failure_reason,
        failure_message=job.failure_message,
        cancel_requested=job.cancel_requested,
        start_time_unix_nano=job.start_time_unix_nano,
        end_time_unix_nano=job.end_time_unix_nano,
        cancel_reason=job.cancel_reason,
        owner=job.owner,
    )


def update_to_wire(update: JobUpdate) -> pb.WatchJobResponse:
    """Return the message for an update of one job."""
    job = job_to_wire(update.job)
    if update.has_more:
        job.ended = False  # a reader that stops when the job has ended goes on
    return pb.WatchJobResponse(
        job=job,
        transitions=[_transition_to_wire(transition) for transition in update.transitions],
        coalesced_count=update.coalesced_count,
        history_truncated=update.history_truncated,
        has_more=update.has_more,
    )


def changes_to_wire(changes: Sequence[JobChange]) -> pb.WatchJobsResponse:
    """Return the message for changes of many jobs."""
    return pb.WatchJobsResponse(
        changes=[
            pb.JobChange(
                job=pb.Job(job_id=change.job_id, revision=change.revision)
                if change.job is None
                else job_to_wire(change.job),
                left_filter=change.left_filter,
            )
            for change in changes
        ]
    )


def transitions_to_wire(page: TransitionPage) -> pb.ListJobTransitionsResponse:
    """Return the message with a page of a job's history."""
    return pb.ListJobTransitionsResponse(
        transitions=[_transition_to_wire(item) for item in page.transitions],
        next_page_token=page.next_page_token,
        history_truncated=page.history_truncated,
    )


def _transition_to_wire(transition: JobTransition) -> pb.JobTransition:
    return pb.JobTransition(
        revision=transition.revision,
        attempt=transition.attempt,
        status=transition.status.value,  # type: ignore[arg-type]  # as above
        progress=transition.progress,
        time_unix_nano=transition.time_unix_nano,
        failure_reason=transition.failure_reason,
        failure_message=transition.failure_message,
        progress_only=transition.progress_only,
    )


def _state(number: int, index: int) -> JobState:
    if number not in _STATES:
        raise RequestInvalid(f"statuses[{index}]", f"{number} is not a job state")
    return _STATES[number]
