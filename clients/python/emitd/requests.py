"""The questions that clients ask, as calls of the contract: built once, for `LogClient` and `AsyncLogClient`.

Pure. A question that makes no sense raises RequestRejected, which names the field.
"""

from collections.abc import Generator, Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar, Unpack, cast

import msgspec

from emitd.errors import AuditNotFound, EmitError, JobNotFound, RequestRejected
from emitd.records.encoding import as_field
from emitd.records.levels import JOB_STATES
from emitd.v1 import audit_service_pb2 as audit
from emitd.v1 import job_pb2
from emitd.v1 import record_pb2 as pb

Response = TypeVar("Response")

#: A server sends no more in one page.
_MAX_PAGE_SIZE = 1000
_NANOS_PER_SECOND = 1_000_000_000


class Call(NamedTuple, Generic[Response]):
    """One call: its method (of LogService, unless it names another service), its request, its answer's type."""

    method: str
    request: Any
    response: type[Response]
    #: What the status NOT_FOUND means.
    not_found: type[EmitError] = JobNotFound


class JobFilter(TypedDict, total=False):
    """Jobs that match in every respect. What is empty or missing, any job matches."""

    job_type: str
    #: Names such as `RUNNING`.
    statuses: Iterable[str]
    #: At most 1,000.
    job_ids: Iterable[str]
    labels: Mapping[str, str] | None


class JobsFilter(JobFilter, total=False):
    """What `watch_jobs` takes."""

    min_interval_ms: int


class AuditFilter(TypedDict, total=False):
    """Events of one log that match in every respect. What is empty or missing, any event matches."""

    #: Empty: the server's only log.
    log_id: str
    event_name_prefix: str
    user_id: str
    #: An address, or `unknown`.
    source_ip: str


class AuditQuery(AuditFilter, total=False):
    """What `audit_events` takes."""

    received_after_unix_nano: int
    received_before_unix_nano: int
    newest_first: bool
    page_size: int


class JobHistory(NamedTuple):
    """The transitions of a job, oldest first; `truncated`: the server has deleted some that were older."""

    transitions: list[job_pb2.JobTransition]
    truncated: bool


def get_job(job_id: str) -> Generator[Call[Any], Any, job_pb2.Job | None]:
    """Yield the call for one job, and return the job; None if the server knows none of this id."""
    try:
        answer = yield Call("GetJob", job_pb2.GetJobRequest(job_id=as_field(job_id)), job_pb2.GetJobResponse)
    except JobNotFound:
        return None
    return cast("job_pb2.Job", answer.job)


def list_jobs(
    job_type: str,
    statuses: Iterable[str],
    updated_after_unix_nano: int,
    page_size: int,
    job_ids: Iterable[str],
    labels: Mapping[str, str] | None,
) -> Call[job_pb2.ListJobsResponse]:
    """Return the call for the first page of jobs."""
    request = job_pb2.ListJobsRequest(
        **_job_filter(job_type, statuses, job_ids, labels),
        updated_after_unix_nano=number("updated_after_unix_nano", updated_after_unix_nano, 2**64),
        page_size=number("page_size", page_size, 2**31),
    )
    return Call("ListJobs", request, job_pb2.ListJobsResponse)


def watch_request(
    job_id: str,
    *,
    after_revision: int | None = None,
    wait_for_creation: bool = False,
    follow: bool = False,
    min_interval_ms: int = 0,
) -> job_pb2.WatchJobRequest:
    """Return the request that begins a watch."""
    return job_pb2.WatchJobRequest(
        job_id=as_field(job_id),
        after_revision=None if after_revision is None else number("after_revision", after_revision, 2**64),
        wait_for_creation=wait_for_creation,
        follow=follow,
        min_interval_ms=number("min_interval_ms", min_interval_ms, 2**31),
    )


def watch_jobs_request(min_interval_ms: int = 0, **jobs: Unpack[JobFilter]) -> job_pb2.WatchJobsRequest:
    """Return the request that begins a watch of many jobs."""
    return job_pb2.WatchJobsRequest(
        **_job_filter(**jobs), min_interval_ms=number("min_interval_ms", min_interval_ms, 2**31)
    )


def job_history(job_id: str, after_revision: int) -> Generator[Call[Any], Any, JobHistory]:
    """Yield the calls for a job's transitions, page by page; return them."""
    request = job_pb2.ListJobTransitionsRequest(
        job_id=as_field(job_id),
        after_revision=number("after_revision", after_revision, 2**64),
        page_size=_MAX_PAGE_SIZE,
    )
    transitions: list[job_pb2.JobTransition] = []
    truncated = False
    while True:
        page = yield Call("ListJobTransitions", request, job_pb2.ListJobTransitionsResponse)
        transitions += page.transitions
        truncated = truncated or page.history_truncated
        if not page.next_page_token:
            return JobHistory(transitions, truncated)
        request.page_token = page.next_page_token


def request_cancel(job_id: str, reason: str) -> Call[job_pb2.RequestCancelResponse]:
    """Return the call that asks a job to stop."""
    request = job_pb2.RequestCancelRequest(job_id=as_field(job_id), reason=as_field(reason))
    return Call("RequestCancel", request, job_pb2.RequestCancelResponse)


def audit_events(
    *,
    received_after_unix_nano: int = 0,
    received_before_unix_nano: int = 0,
    newest_first: bool = False,
    page_size: int = 100,
    **events: Unpack[AuditFilter],
) -> Call[audit.ListAuditEventsResponse]:
    """Return the call for the first page of events."""
    request = audit.ListAuditEventsRequest(
        **_audit_filter(**events),
        received_after_unix_nano=number("received_after_unix_nano", received_after_unix_nano, 2**64),
        received_before_unix_nano=number("received_before_unix_nano", received_before_unix_nano, 2**64),
        newest_first=newest_first,
        page_size=number("page_size", page_size, 2**31),
    )
    return list_events(request)


def tail_request(from_index: int | None, **events: Unpack[AuditFilter]) -> audit.TailAuditEventsRequest:
    """Return the request that begins a tail."""
    return audit.TailAuditEventsRequest(
        **_audit_filter(**events),
        from_index=None if from_index is None else number("from_index", from_index, 2**64),
    )


def audit_event(
    event: str | int, source: str | None, log_id: str
) -> Generator[Call[Any], Any, audit.AuditEntry | None]:
    """Yield the calls that find an event by its id or its index; return its entry, or None."""
    request = audit.ListAuditEventsRequest(log_id=as_field(log_id), newest_first=True)
    by_index = None
    if isinstance(event, int):
        try:
            by_index = yield inclusion_proof(event, 0, None, log_id)
        except AuditNotFound:
            return None
        _narrow_to_line(request, by_index.line)
    elif not event:
        raise RequestRejected("event: is empty", field="event")
    else:
        request.event_id = as_field(event)
        if source is not None:
            request.source = as_field(source)
    found: audit.AuditEntry | None = None
    while request.event_id:
        page = yield list_events(request)
        found = newest_event(
            found, [e for e in page.entries if not by_index or e.leaf_index == by_index.leaf_index]
        )
        if not page.next_page_token or (found and (by_index or request.HasField("source"))):
            break
        request.page_token = page.next_page_token
    if found or by_index is None:
        return found
    # A damaged line is no event: only the line itself is known.
    return audit.AuditEntry(leaf_index=by_index.leaf_index, line=by_index.line, leaf_hash=by_index.leaf_hash)


def newest_event(
    found: audit.AuditEntry | None, entries: Iterable[audit.AuditEntry]
) -> audit.AuditEntry | None:
    """Return the newest of the events with one id: `found` until now, and `entries` before it, newest first.

    Raises RequestRejected if they are of several sources: an id belongs to its source.
    """
    entries = [*filter(None, [found]), *entries]
    sources = sorted({entry.record.source for entry in entries})
    if len(sources) > 1:
        names = ", ".join(map(repr, sources))
        problem = f"source: several sources have an event with this id, {names}: name one"
        raise RequestRejected(problem, field="source")
    return entries[0] if entries else None


def list_events(request: audit.ListAuditEventsRequest) -> Call[audit.ListAuditEventsResponse]:
    """Return the call for one page of events."""
    return _audit_call("ListAuditEvents", request, audit.ListAuditEventsResponse)


def checkpoint(log_id: str) -> Call[audit.GetCheckpointResponse]:
    """Return the call for the newest checkpoint."""
    request = audit.GetCheckpointRequest(log_id=as_field(log_id))
    return _audit_call("GetCheckpoint", request, audit.GetCheckpointResponse)


def inclusion_proof(
    event: str | int, tree_size: int, source: str | None, log_id: str
) -> Call[audit.GetInclusionProofResponse]:
    """Return the call for the proof that an event, given by its id or index, is in the tree."""
    request = audit.GetInclusionProofRequest(
        log_id=as_field(log_id), tree_size=number("tree_size", tree_size, 2**64)
    )
    if isinstance(event, int):
        request.leaf_index = number("event", event, 2**64)
    else:
        request.event_id = as_field(event)
        if source is not None:
            request.source = as_field(source)
    return _audit_call("GetInclusionProof", request, audit.GetInclusionProofResponse)


def consistency_proof(old_size: int, new_size: int, log_id: str) -> Call[audit.GetConsistencyProofResponse]:
    """Return the call for the proof that one tree is a beginning of another."""
    request = audit.GetConsistencyProofRequest(
        log_id=as_field(log_id),
        old_size=number("old_size", old_size, 2**64),
        new_size=number("new_size", new_size, 2**64),
    )
    return _audit_call("GetConsistencyProof", request, audit.GetConsistencyProofResponse)


def _audit_call(method: str, request: Any, response: type[Response]) -> Call[Response]:
    return Call(f"AuditService/{method}", request, response, AuditNotFound)


def _job_filter(
    job_type: str = "",
    statuses: Iterable[str] = (),
    job_ids: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "job_type": as_field(job_type),
        "statuses": [_state(name) for name in listed(statuses)],
        "job_ids": [as_field(job_id) for job_id in listed(job_ids)],
        "labels": {as_field(name): as_field(value) for name, value in (labels or {}).items()},
    }


def _audit_filter(**events: Unpack[AuditFilter]) -> dict[str, Any]:
    if unknown := sorted(events.keys() - AuditFilter.__annotations__.keys()):
        raise TypeError(f"there is no filter '{unknown[0]}'")
    return {name: as_field(value) for name, value in events.items()}


def _narrow_to_line(request: audit.ListAuditEventsRequest, line: bytes) -> None:
    """Ask for the event of a line, within the second in which the server took it; for none if it is damaged."""
    try:
        event = msgspec.json.decode(line)
        second = int(datetime.fromisoformat(event["received_at"]).timestamp())
        request.event_id = event["event_id"]
    except (ValueError, TypeError, KeyError, msgspec.MsgspecError):
        return
    request.received_after_unix_nano = second * _NANOS_PER_SECOND
    request.received_before_unix_nano = (second + 1) * _NANOS_PER_SECOND


def listed(names: Iterable[str]) -> Iterable[str]:
    """Return the names. One name that stands alone is taken for what it is, not for its letters."""
    return [names] if isinstance(names, str) else names


def _state(name: str) -> pb.JobState:
    if name not in JOB_STATES:
        raise RequestRejected(
            f"statuses: '{name}' is not a job state; expected {', '.join(JOB_STATES)}", field="statuses"
        )
    return cast("pb.JobState", JOB_STATES[name])


def number(field: str, value: int, limit: int) -> int:
    """Return `value`. Raises RequestRejected if the contract's field cannot hold it."""
    if not 0 <= value < limit:
        raise RequestRejected(f"{field}: {value} is not from 0 to {limit - 1}", field=field)
    return value
