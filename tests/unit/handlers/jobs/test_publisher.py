"""ChangePublisher: who watches one job and who watches many are told the same."""

from collections.abc import Sequence

import pytest

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.source import Job, JobFilter, JobPage, JobQuery
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.watch.publisher import ChangePublisher
from emitd_handlers.record import JobState


class Jobs:
    """One job, and the news of it."""

    def __init__(self) -> None:
        self.job = self.make(1)
        self.publisher = ChangePublisher(self.load, self.list)

    @staticmethod
    def make(revision: int) -> Job:
        return Job(job_id="j", job_type="t", status=JobState.RUNNING, revision=revision)

    async def load(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        return JobHistory(self.job, (), self.job.revision) if job_id == "j" else None

    async def list(self, query: JobQuery) -> JobPage:
        jobs: Sequence[Job] = [self.job] if query.matches(self.job) else []
        return JobPage(jobs, "")


async def test_it_has_the_jobs_that_somebody_watches() -> None:
    """One, those with some ids, or all; nobody is no interest at all."""
    jobs = Jobs()
    assert not jobs.publisher
    one = jobs.publisher.broadcaster.watch("j")
    await anext(one)
    assert jobs.publisher
    assert ("j" in jobs.publisher, "k" in jobs.publisher) == (True, False)
    some = jobs.publisher.filtered_watch.watch(JobFilter(job_ids=("k",)), max_jobs=9)
    await anext(some)
    assert ("k" in jobs.publisher, "l" in jobs.publisher) == (True, False)
    every = jobs.publisher.filtered_watch.watch(JobFilter(), max_jobs=9)
    await anext(every)
    assert "l" in jobs.publisher
    for watch in (one, some, every):
        await watch.aclose()
    assert not jobs.publisher
    assert "j" not in jobs.publisher


async def test_changes_and_the_end_reach_both_kinds_of_watches() -> None:
    """What a transaction did is told to all, and so is why the watches end."""
    jobs = Jobs()
    one, many = (
        jobs.publisher.broadcaster.watch("j"),
        jobs.publisher.filtered_watch.watch(JobFilter(), max_jobs=9),
    )
    await anext(one)
    await anext(many)
    await anext(many)
    jobs.job = jobs.make(2)
    jobs.publisher.publish([JobHistory(jobs.job, (), 1)])
    update, part = await anext(one), await anext(many)
    assert update is not None
    assert part is not None
    assert update.job is jobs.job
    assert [change.job for change in part] == [jobs.job]
    jobs.publisher.close("it is stopped")
    for watch in (one, many):
        with pytest.raises(HandlerUnavailable, match="it is stopped"):
            await anext(watch)
