"""Between jobs and the wire: every field of a job and a change arrives, and a filter that makes no sense is named."""

from typing import TypeAlias

import msgspec
import pytest

from emitd.v1 import job_pb2 as pb
from emitd.v1 import record_pb2 as rec
from emitd_handlers.jobs.source import Job, JobChange, JobFilter, JobTransition, TransitionPage
from emitd_handlers.record import JobState
from emitd_handlers.scope import EVERYTHING
from emitd_server.convert.jobs import (
    changes_to_wire,
    job_to_wire,
    read_filter,
    read_job_id,
    read_query,
    read_transition_query,
    transitions_to_wire,
)
from emitd_server.errors import RequestInvalid

FilterMessage: TypeAlias = type[pb.ListJobsRequest] | type[pb.WatchJobsRequest]

JOB = Job(
    job_id="j",
    job_type="sync",
    status=JobState.FAILED,
    progress=40,
    message="copying",
    details_json='{"rows":1}',
    labels={"team": "a"},
    source="worker-7",
    attempt=2,
    revision=9,
    create_time_unix_nano=1,
    update_time_unix_nano=2,
    event_time_unix_nano=3,
    lease_seconds=4,
    lease_expire_time_unix_nano=5,
    failure_reason="OOM",
    failure_message="out of memory",
    cancel_requested=True,
    cancel_reason="wrong source",
    start_time_unix_nano=6,
    end_time_unix_nano=7,
    owner="group:web",
)
#: What the service keeps for itself.
INTERNAL = {"event_time_unix_nano", "lease_seconds"}


def test_every_field_of_a_job_is_sent() -> None:
    """Under its own name; only what the service keeps for itself is left out, and `ended` is added."""
    message = job_to_wire(JOB)
    fields = {field.name: value for field, value in message.ListFields()}
    expected = {name: value for name, value in msgspec.structs.asdict(JOB).items() if name not in INTERNAL}
    assert fields == expected | {"status": rec.JOB_STATE_FAILED, "ended": True}
    assert len(fields) == len(pb.Job.DESCRIPTOR.fields)


def test_changes_are_sent_in_order() -> None:
    """With the whole job, with the mark of one that left, and of a removed one its id and revision alone."""
    gone = JobChange("gone", 3, left_filter=True)
    message = changes_to_wire([JobChange("j", 9, JOB), JobChange("j", 9, JOB, left_filter=True), gone])
    assert message == pb.WatchJobsResponse(
        changes=[
            pb.JobChange(job=job_to_wire(JOB)),
            pb.JobChange(job=job_to_wire(JOB), left_filter=True),
            pb.JobChange(job=pb.Job(job_id="gone", revision=3), left_filter=True),
        ]
    )


def test_a_page_of_history_is_sent() -> None:
    """With every field of each transition, the token and whether something is missing."""
    item = JobTransition(3, 2, JobState.FAILED, 40, 1, "OOM", "out of memory", progress_only=True)
    message = transitions_to_wire(TransitionPage([item], "next", history_truncated=True))
    assert (message.next_page_token, message.history_truncated) == ("next", True)
    (transition,) = message.transitions
    fields = {field.name: value for field, value in transition.ListFields()}
    values = msgspec.structs.asdict(item)
    expected = {name: value for name, value in values.items() if not name.startswith("opened_by")}
    assert fields == expected | {"status": rec.JOB_STATE_FAILED}


@pytest.mark.parametrize("message", [pb.ListJobsRequest, pb.WatchJobsRequest])
def test_a_filter_is_read_alike_from_both_requests(message: FilterMessage) -> None:
    """Type, statuses, ids and labels."""
    request = message(
        job_type="sync", statuses=[rec.JOB_STATE_QUEUED], job_ids=["a", "b"], labels={"team": "a"}
    )
    assert read_filter(request, EVERYTHING) == JobFilter(
        job_type="sync", statuses=(JobState.QUEUED,), job_ids=("a", "b"), labels={"team": "a"}
    )
    assert read_filter(message(), EVERYTHING) == JobFilter()


@pytest.mark.parametrize("message", [pb.ListJobsRequest, pb.WatchJobsRequest])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"statuses": [0]}, "statuses[0]"),
        ({"statuses": [rec.JOB_STATE_RUNNING, 99]}, "statuses[1]"),
        ({"job_ids": ["a", ""]}, "job_ids[1]"),
        ({"job_ids": [f"j{number}" for number in range(1001)]}, "job_ids"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(
    message: FilterMessage, fields: dict[str, object], field: str
) -> None:
    """The error names the field and the place in it."""
    with pytest.raises(RequestInvalid) as caught:
        read_filter(message(**fields), EVERYTHING)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_thousand_ids_are_taken() -> None:
    """That is the limit itself."""
    ids = [f"j{number}" for number in range(1000)]
    assert read_filter(pb.WatchJobsRequest(job_ids=ids), EVERYTHING).job_ids == tuple(ids)


def test_a_query_is_read() -> None:
    """The filter with what a page takes; sizes have a default and a limit."""
    query = read_query(
        pb.ListJobsRequest(job_ids=["a"], updated_after_unix_nano=5, page_size=7, page_token="t"), EVERYTHING
    )
    assert (query.job_ids, query.updated_after_unix_nano, query.page_size, query.page_token) == (
        ("a",),
        5,
        7,
        "t",
    )
    assert read_query(pb.ListJobsRequest(), EVERYTHING).page_size == 100
    assert read_query(pb.ListJobsRequest(page_size=5000), EVERYTHING).page_size == 1000
    assert read_transition_query(pb.ListJobTransitionsRequest(job_id="a", page_size=5000)).page_size == 1000


@pytest.mark.parametrize(
    ("read", "field"),
    [
        (lambda: read_job_id(""), "job_id"),
        (lambda: read_query(pb.ListJobsRequest(page_size=-1), EVERYTHING), "page_size"),
        (lambda: read_transition_query(pb.ListJobTransitionsRequest()), "job_id"),
        (lambda: read_transition_query(pb.ListJobTransitionsRequest(job_id="a", page_size=-1)), "page_size"),
    ],
)
def test_other_requests_that_make_no_sense_are_refused(read: object, field: str) -> None:
    """The error names the field."""
    with pytest.raises(RequestInvalid) as caught:
        read()  # type: ignore[operator]
    assert caught.value.field == field
