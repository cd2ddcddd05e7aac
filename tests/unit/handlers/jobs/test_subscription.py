"""Subscription: what a removal means while a page of the snapshot is on its way."""

import pytest
from msgspec.structs import replace

from emitd_handlers.jobs.source import Job, JobChange, JobFilter
from emitd_handlers.jobs.watch.subscription import Subscription
from emitd_handlers.record import JobState
from emitd_handlers.scope import EVERYTHING, Rule, Scope


def job(revision: int, create_time: int = 1) -> Job:
    return Job(
        job_id="j",
        job_type="t",
        status=JobState.RUNNING,
        revision=revision,
        create_time_unix_nano=create_time,
    )


@pytest.mark.parametrize("in_page", [job(9), job(1, create_time=2)])
def test_a_job_whose_removal_is_noted_is_not_told_with_its_page(in_page: Job) -> None:
    """Whether the page was read before the removal or has the next job under its id, whose news are still to come."""
    reader = Subscription(JobFilter(), max_jobs=10)
    reader.is_reading = True
    reader.take("j", None)
    assert reader.take_page([in_page]) == []
    assert reader.take_changes() == []
    reader.take("j", job(1, create_time=2))
    assert reader.take_changes() == [JobChange("j", 1, job(1, create_time=2))]


def test_a_removal_between_two_jobs_is_told_once() -> None:
    """Also when the page already has the second: it is told after the first has left."""
    reader = Subscription(JobFilter(), max_jobs=10)
    reader.take("j", job(3))
    reader.take_changes()
    reader.is_reading = True
    reader.take("j", None)
    assert reader.take_page([job(1, create_time=2)]) == []
    assert reader.take_changes() == [JobChange("j", 3, left_filter=True)]
    reader.take("j", job(1, create_time=2))
    assert reader.take_changes() == [JobChange("j", 1, job(1, create_time=2))]


def test_a_job_that_was_made_anew_before_its_page_is_told_with_it() -> None:
    """Once: the removal was followed by news of the next."""
    reader = Subscription(JobFilter(), max_jobs=10)
    reader.is_reading = True
    reader.take("j", None)
    reader.take("j", job(1, create_time=2))
    assert reader.take_page([job(1, create_time=2)]) == [JobChange("j", 1, job(1, create_time=2))]
    assert reader.take_changes() == []


def test_a_job_that_leaves_what_the_reader_may_see_only_leaves() -> None:
    """Its new state is not shown, unlike that of a job that only matches no longer; what was not sent is not named."""
    mine, others = (
        replace(job(revision), source=source) for revision, source in ((1, "mine"), (2, "others"))
    )
    for scope, shown in (
        (Scope((Rule(sources=("mine",)),)), None),
        (EVERYTHING, replace(others, job_type="x")),
    ):
        reader = Subscription(JobFilter(job_type="t", scope=scope), max_jobs=10)
        reader.take("j", mine)
        assert reader.take_changes() == [JobChange("j", 1, mine)]
        reader.take("j", replace(others, job_type="x"))
        assert reader.take_changes() == [JobChange("j", 2, shown, left_filter=True)]
        reader.take("j", replace(others, revision=3, job_type="x"))
        assert reader.take_changes() == []
