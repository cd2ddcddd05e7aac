"""Between jobs and the wire: requests about jobs read and checked, jobs and updates written."""

from emitd.v1 import job_pb2 as pb
from emitd_handlers.job import Job, JobQuery, JobTransition, JobUpdate
from emitd_handlers.record import JobState
from emitd_server.errors import RequestInvalid

__all__ = ["job_to_wire", "read_job_id", "read_query", "update_to_wire"]

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
_STATES = {state.value: state for state in JobState}


def read_job_id(job_id: str) -> str:
    """Return the id. Raises RequestInvalid if there is none."""
    if not job_id:
        raise RequestInvalid("job_id", "is mandatory")
    return job_id


def read_query(request: pb.ListJobsRequest) -> JobQuery:
    """Return the query that a request describes. Raises RequestInvalid."""
    if request.page_size < 0:
        raise RequestInvalid("page_size", f"{request.page_size} is negative")
    return JobQuery(
        job_type=request.job_type,
        statuses=tuple(_state(number, index) for index, number in enumerate(request.statuses)),
        updated_after_unix_nano=request.updated_after_unix_nano,
        page_size=min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE),
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
    )


def update_to_wire(update: JobUpdate) -> pb.WatchJobResponse:
    """Return the message that tells a watcher of an update."""
    return pb.WatchJobResponse(
        job=job_to_wire(update.job),
        transitions=[_transition_to_wire(transition) for transition in update.transitions],
        coalesced_count=update.coalesced_count,
        history_truncated=update.history_truncated,
    )


def _transition_to_wire(transition: JobTransition) -> pb.JobTransition:
    return pb.JobTransition(
        revision=transition.revision,
        attempt=transition.attempt,
        status=transition.status.value,  # type: ignore[arg-type]  # as above
        progress=transition.progress,
        time_unix_nano=transition.time_unix_nano,
    )


def _state(number: int, index: int) -> JobState:
    if number not in _STATES:
        raise RequestInvalid(f"statuses[{index}]", f"{number} is not a job state")
    return _STATES[number]
