"""`emitd.requests`: questions about jobs as messages."""

from collections.abc import Iterable
from typing import Any

import pytest

from emitd import RequestRejected, v1
from emitd.requests import list_jobs, watch_request


def listed(
    statuses: Iterable[str] = (), job_type: str = "", after: int = 0, page_size: int = 100
) -> v1.ListJobsRequest:
    request: v1.ListJobsRequest = list_jobs(job_type, statuses, after, page_size, (), None).request
    return request


def watched(**fields: Any) -> v1.WatchJobRequest:
    nothing: dict[str, Any] = {"after_revision": None, "wait_for_creation": False}
    nothing |= {"follow": False, "min_interval_ms": 0}
    return watch_request("j1", **(nothing | fields))


def test_every_filter_of_a_list_is_in_the_request() -> None:
    """By the contract's fields."""
    assert listed(["RUNNING", "FAILED"], job_type="sync", after=5, page_size=7) == v1.ListJobsRequest(
        job_type="sync",
        statuses=[v1.JOB_STATE_RUNNING, v1.JOB_STATE_FAILED],
        updated_after_unix_nano=5,
        page_size=7,
    )


def test_every_state_of_the_contract_has_its_name() -> None:
    """All but the unspecified one, which no job has."""
    names = [v1.JobState.Name(number).removeprefix("JOB_STATE_") for number in v1.JobState.values()]
    names.remove("UNSPECIFIED")
    assert list(listed(names).statuses) == [v1.JobState.Value(f"JOB_STATE_{name}") for name in names]


def test_one_status_alone_need_not_stand_in_a_list() -> None:
    """A text is taken for a name, not for its letters."""
    assert list(listed("QUEUED").statuses) == [v1.JOB_STATE_QUEUED]


@pytest.mark.parametrize("name", ["running", "UNSPECIFIED", "JOB_STATE_RUNNING", "", "CANCELLED"])
def test_an_unknown_status_is_refused_with_those_there_are(name: str) -> None:
    """By its field, before anything is sent."""
    with pytest.raises(RequestRejected) as caught:
        listed([name])
    assert caught.value.field == "statuses"
    assert str(caught.value) == (
        f"statuses: '{name}' is not a job state; expected QUEUED, RUNNING, COMPLETED, FAILED"
    )


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [
        ("updated_after_unix_nano", -1, 2**64 - 1),
        ("updated_after_unix_nano", 2**64, 2**64 - 1),
        ("page_size", -1, 2**31 - 1),
        ("page_size", 2**31, 2**31 - 1),
    ],
)
def test_a_number_of_a_list_that_does_not_fit_is_refused(field: str, value: int, most: int) -> None:
    """With the field's name, rather than protobuf's error without one."""
    with pytest.raises(RequestRejected, match=f"{field}: {value} is not from 0 to {most}") as caught:
        listed(
            **(
                {"after": 0, "page_size": 1}
                | {field.removeprefix("updated_").removesuffix("_unix_nano"): value}
            )
        )
    assert caught.value.field == field


def test_the_largest_numbers_fit() -> None:
    """Those that the contract's fields can just hold."""
    request = listed(after=2**64 - 1, page_size=2**31 - 1)
    assert (request.updated_after_unix_nano, request.page_size) == (2**64 - 1, 2**31 - 1)
    watch = watched(after_revision=2**64 - 1, min_interval_ms=2**31 - 1)
    assert (watch.after_revision, watch.min_interval_ms) == (2**64 - 1, 2**31 - 1)


def test_every_option_of_a_watch_is_in_the_request() -> None:
    """By the contract's fields."""
    request = watched(after_revision=4, wait_for_creation=True, follow=True, min_interval_ms=250)
    assert request == v1.WatchJobRequest(
        job_id="j1", after_revision=4, wait_for_creation=True, follow=True, min_interval_ms=250
    )
    assert watched(follow=True).wait_for_creation is False


def test_no_revision_is_not_revision_0() -> None:
    """None asks for no history, 0 for all of it."""
    assert not watched().HasField("after_revision")
    assert watched(after_revision=0).HasField("after_revision")


@pytest.mark.parametrize(
    ("field", "value"),
    [("after_revision", -1), ("after_revision", 2**64), ("min_interval_ms", -1), ("min_interval_ms", 2**31)],
)
def test_a_number_of_a_watch_that_does_not_fit_is_refused(field: str, value: int) -> None:
    """With the field's name."""
    with pytest.raises(RequestRejected, match=field) as caught:
        watched(**{field: value})
    assert caught.value.field == field


def test_an_id_of_any_shape_becomes_a_text() -> None:
    """One that was forgotten is empty, which the service refuses, and half a surrogate pair is escaped."""
    options: dict[str, Any] = {"after_revision": None, "wait_for_creation": False}
    options |= {"follow": False, "min_interval_ms": 0}
    wrong: list[Any] = [None, "a\ud800", 7]
    assert [watch_request(job_id, **options).job_id for job_id in wrong] == ["", "a\\ud800", "7"]
    assert listed(job_type=wrong[0]).job_type == ""
