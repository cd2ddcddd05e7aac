"""The questions about jobs as messages of the contract; what makes no sense is refused by its field."""

from collections.abc import Iterable
from typing import cast

from emitd.errors import RequestRejected
from emitd.records.encoding import as_field
from emitd.v1 import job_pb2
from emitd.v1 import record_pb2 as pb

__all__ = ["list_request", "watch_request"]

_STATES = ("QUEUED", "RUNNING", "COMPLETED", "FAILED")


def list_request(
    job_type: str, statuses: Iterable[str], updated_after_unix_nano: int, page_size: int
) -> job_pb2.ListJobsRequest:
    """Return the request for the first page of jobs."""
    return job_pb2.ListJobsRequest(
        job_type=as_field(job_type),
        # One name that stands alone is taken for what it is, not for its letters.
        statuses=[_state(name) for name in ([statuses] if isinstance(statuses, str) else statuses)],
        updated_after_unix_nano=_number("updated_after_unix_nano", updated_after_unix_nano, 2**64),
        page_size=_number("page_size", page_size, 2**31),
    )


def watch_request(
    job_id: str,
    *,
    after_revision: int | None,
    wait_for_creation: bool,
    follow: bool,
    min_interval_ms: int,
) -> job_pb2.WatchJobRequest:
    """Return the request that begins a watch."""
    return job_pb2.WatchJobRequest(
        job_id=as_field(job_id),
        after_revision=None if after_revision is None else _number("after_revision", after_revision, 2**64),
        wait_for_creation=wait_for_creation,
        follow=follow,
        min_interval_ms=_number("min_interval_ms", min_interval_ms, 2**31),
    )


def _state(name: str) -> pb.JobState:
    if name not in _STATES:
        raise RequestRejected(
            f"statuses: '{name}' is not a job state; expected {', '.join(_STATES)}", field="statuses"
        )
    return cast("pb.JobState", pb.JobState.Value(f"JOB_STATE_{name}"))


def _number(field: str, value: int, limit: int) -> int:
    """Return `value`. Raises RequestRejected where the contract's field cannot hold it."""
    if not 0 <= value < limit:
        raise RequestRejected(f"{field}: {value} is not from 0 to {limit - 1}", field=field)
    return value
