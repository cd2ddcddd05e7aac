"""Retention: what is removed of jobs that have ended, and what readers see of it; never anything of another job."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.jobs.source import JobQuery, JobUpdate, TransitionQuery
from emitd_handlers.jobs.store import JobStore, Retention
from emitd_handlers.outcome import JobReceipt
from emitd_handlers.record import JobState
from support.jobs.backends import (
    BACKENDS,
    JobBackend,
    applied,
    get,
    history,
    make_backend,
    opened,
    report,
    running,
)

QUEUED, RUNNING, COMPLETED, FAILED = JobState
DAY_SECONDS = 86_400


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


@pytest.fixture
async def store(backend: JobBackend) -> AsyncIterator[JobStore]:
    async with opened(backend.make_store()) as store:
        yield store


async def ids(source: JobStore | DatabaseJobHandler) -> list[str]:
    """The ids of all jobs, sorted."""
    return sorted([job.job_id for job in (await source.list(JobQuery(page_size=1000))).jobs])


async def end(store: JobStore, *job_ids: str, status: JobState = COMPLETED) -> None:
    """Report jobs that have ended, each later than the one before."""
    for job_id in job_ids:
        await applied(store, report(job_id), report(job_id, status))


async def removed(store: JobStore, limit: int = 1000, **retention: float) -> list[str]:
    """Remove what is not kept; return the ids of the jobs that have gone, sorted."""
    return sorted((await store.remove_ended(Retention(**retention), limit)).job_ids)  # type: ignore[arg-type]


async def transitions(store: JobStore, after_revision: int = 0) -> tuple[list[int], bool]:
    """The revisions of job `j`'s history after one, and whether it is said to be truncated."""
    page = await store.list_transitions(TransitionQuery(job_id="j", after_revision=after_revision))
    assert page is not None
    return [item.revision for item in page.transitions], page.history_truncated


async def test_by_age_jobs_go_that_ended_long_ago(backend: JobBackend, store: JobStore) -> None:
    """However they ended; with their history, for every reader."""
    await end(store, "a")
    await end(store, "b", status=FAILED)
    await backend.shift_ends(-101)
    await end(store, "c")
    assert await removed(store, ended_seconds=100) == ["a", "b"]
    assert await ids(store) == ["c"]
    assert await store.get("a") is None
    assert await store.load_history("a", 0) is None
    assert await store.list_transitions(TransitionQuery(job_id="a")) is None
    assert await history(store, "c") == [(1, "RUNNING"), (2, "COMPLETED")]
    assert await removed(store, ended_seconds=100) == []
    assert await removed(store, history_seconds=0.0) == []
    assert await history(store, "c") == []
    assert await removed(store, ended_seconds=0.0) == ["c"]


async def test_by_count_the_jobs_stay_that_ended_last(store: JobStore) -> None:
    """Whatever the order in which they began."""
    await applied(store, *[report(job_id) for job_id in "abcde"])
    for job_id in "cabed":
        await applied(store, report(job_id, COMPLETED))
    assert await removed(store, ended_count=2) == ["a", "b", "c"]
    assert await ids(store) == ["d", "e"]
    assert await removed(store, ended_count=2) == []
    assert await removed(store, ended_count=0) == ["d", "e"]


async def test_a_job_that_has_not_ended_stays_for_ever(backend: JobBackend, store: JobStore) -> None:
    """QUEUED, RUNNING, or running again after an attempt that ended; with its whole history, whatever is configured."""
    await applied(store, report("queued", QUEUED), report("running"))
    await end(store, "again")
    await backend.shift_ends(-DAY_SECONDS)
    await applied(store, report("again", new_attempt=True))
    everything = {"ended_seconds": 0.001, "ended_count": 0, "history_seconds": 0.001}
    assert await removed(store, **everything) == []
    assert await ids(store) == ["again", "queued", "running"]
    assert await history(store, "again") == [(1, "RUNNING"), (2, "COMPLETED"), (3, "RUNNING")]
    assert await history(store, "running") == [(1, "RUNNING")]


async def test_nothing_is_removed_unless_configured(backend: JobBackend, store: JobStore) -> None:
    """By default everything is kept."""
    await end(store, "j")
    await backend.shift_ends(-1000 * DAY_SECONDS)
    assert await removed(store) == []
    assert await history(store) == [(1, "RUNNING"), (2, "COMPLETED")]


async def test_age_and_count_together(backend: JobBackend, store: JobStore) -> None:
    """A job goes for either reason."""
    await end(store, "old")
    await backend.shift_ends(-101)
    await end(store, "a", "b", "c")
    assert await removed(store, ended_seconds=100, ended_count=2) == ["a", "old"]
    assert await ids(store) == ["b", "c"]


@pytest.mark.parametrize(
    "retention",
    [{"ended_seconds": 100}, {"ended_count": 0}, {"ended_seconds": 100, "ended_count": 0}],
    ids=["age", "count", "both"],
)
async def test_a_call_removes_no_more_jobs_than_it_may(
    backend: JobBackend, store: JobStore, retention: dict[str, float]
) -> None:
    """The rest is for the next."""
    await end(store, *[f"j{number}" for number in range(7)])
    await backend.shift_ends(-101)
    parts = [await removed(store, limit=3, **retention) for _ in range(4)]
    assert [len(part) for part in parts] == [3, 3, 1, 0]
    assert sorted([job_id for part in parts for job_id in part]) == [f"j{number}" for number in range(7)]


async def test_a_call_trims_no_more_histories_than_it_may(backend: JobBackend, store: JobStore) -> None:
    """Together with the jobs that it removes; those that ended first go first."""
    await end(store, "gone")
    await backend.shift_ends(-200)
    await end(store, "a", "b", "c")
    await backend.shift_ends(-101)
    assert await removed(store, limit=3, ended_seconds=250, history_seconds=100) == ["gone"]
    assert [await history(store, job_id) for job_id in "ab"] == [[], []]
    assert await history(store, "c") == [(1, "RUNNING"), (2, "COMPLETED")]
    assert await removed(store, limit=3, ended_seconds=250, history_seconds=100) == []
    assert await history(store, "c") == []


async def test_a_history_goes_and_its_job_stays(backend: JobBackend, store: JobStore) -> None:
    """With the state as it was; the list of transitions says that there were more."""
    await applied(store, report("j", QUEUED), report("j"), report("j", FAILED, failure_reason="OOM"))
    await backend.shift_ends(-101)
    before = await get(store)
    await end(store, "young")
    assert await removed(store, history_seconds=100) == []
    assert await get(store) == before
    assert await transitions(store) == ([], True)
    assert await transitions(store, after_revision=2) == ([], True)
    assert await transitions(store, after_revision=3) == ([], False)
    assert await history(store, "young") == [(1, "RUNNING"), (2, "COMPLETED")]


async def test_what_comes_after_a_removal_is_complete(backend: JobBackend, store: JobStore) -> None:
    """The next attempt's history is kept, until it has ended that long ago in turn."""
    await applied(store, report("j"), report("j", FAILED))
    await backend.shift_ends(-101)
    await removed(store, history_seconds=100)
    await applied(store, report("j", QUEUED, new_attempt=True), report("j", attempt=2))
    await applied(store, report("j", COMPLETED, attempt=2))
    assert await removed(store, history_seconds=100) == []
    assert await transitions(store) == ([3, 4, 5], True)
    assert await transitions(store, after_revision=1) == ([3, 4, 5], True)
    assert await transitions(store, after_revision=2) == ([3, 4, 5], False)
    await backend.shift_ends(-101)
    await removed(store, history_seconds=100)
    assert await transitions(store, after_revision=2) == ([], True)
    assert await transitions(store, after_revision=5) == ([], False)


async def test_a_history_between_two_pages_is_said_to_be_truncated(
    backend: JobBackend, store: JobStore
) -> None:
    """The page after the removal says so, and takes the token of the page before."""
    await applied(store, report("j", QUEUED), report("j"), report("j", FAILED))
    query = TransitionQuery(job_id="j", page_size=1)
    first = await store.list_transitions(query)
    assert first is not None
    assert ([item.revision for item in first.transitions], first.history_truncated) == ([1], False)
    await backend.shift_ends(-101)
    await removed(store, history_seconds=100)
    await applied(store, report("j", new_attempt=True))
    second = await store.list_transitions(
        TransitionQuery(job_id="j", page_size=1, page_token=first.next_page_token)
    )
    assert second is not None
    assert ([item.revision for item in second.transitions], second.history_truncated) == ([4], True)


async def test_a_removed_job_can_be_made_anew(backend: JobBackend, store: JobStore) -> None:
    """Under its id, as if it had never been: revision 1, no old history, maybe of another type."""
    await end(store, "j")
    old = await get(store)
    await removed(store, ended_count=0)
    record = report("j", QUEUED, new_attempt=True, record_id="r")
    assert await applied(store, record) == [JobReceipt("j", 1, 1, True)]
    assert await history(store) == [(1, "QUEUED")]
    new = await get(store)
    assert new.create_time_unix_nano > old.create_time_unix_nano
    assert new.end_time_unix_nano == 0
    await applied(store, report("j"))
    assert await transitions(store) == ([1, 2], False)


async def test_receipts_outlive_their_jobs(store: JobStore) -> None:
    """A late copy of a removed job's report is still known, and makes no job."""
    await applied(store, report("j", COMPLETED, record_id="r"))
    await removed(store, ended_count=0)
    (commit,) = await store.recent_commits(10)
    assert (commit.record_id, commit.receipt) == ("r", JobReceipt("j", 1, 1, True))


async def test_a_report_in_between_saves_nobody_but_its_own_job(store: JobStore) -> None:
    """A job that was kept in memory as ended is removed, and one that was started again is not."""
    await end(store, "a", "b")
    await applied(store, report("b", new_attempt=True))
    assert await removed(store, ended_count=0) == ["a"]
    assert await applied(store, report("a"), report("b", attempt=2, progress=5)) == [
        JobReceipt("a", 1, 1, True),
        JobReceipt("b", 4, 2, True),
    ]


async def first_update(backend: JobBackend, after_revision: int) -> JobUpdate:
    """What a watcher of job `j` is told that resumes from a revision."""
    async with running(backend.make_handler()) as handler:
        watch = handler.watch("j", after_revision=after_revision)
        update = await anext(watch)
        await watch.aclose()
        assert update is not None
        return update


async def test_a_watcher_that_resumes_from_before_a_removal_is_told(
    backend: JobBackend, store: JobStore
) -> None:
    """`history_truncated`, the state, and what there still is; from where the removal ended it is told all."""
    await applied(store, report("j"), report("j", FAILED))
    await backend.shift_ends(-101)
    await removed(store, history_seconds=100)
    update = await first_update(backend, 0)
    assert (update.job.revision, update.transitions, update.history_truncated) == (2, (), True)
    assert not (await first_update(backend, 2)).history_truncated
    await applied(store, report("j", new_attempt=True))
    for after_revision, is_truncated in ((0, True), (1, True), (2, False)):
        update = await first_update(backend, after_revision)
        assert [item.revision for item in update.transitions] == [3]
        assert (update.history_truncated, update.coalesced_count) == (is_truncated, 0)


async def test_who_follows_a_removed_job_waits_for_it_to_be_made_anew(backend: JobBackend) -> None:
    """Nothing is told of the removal; the new job's state then says that what was known counts no more."""
    async with running(backend.make_handler()) as handler:
        await handler.emit_batch([report("j"), report("j", progress=5), report("j", COMPLETED)])
        watch = handler.watch("j", after_revision=0, idle_seconds=0.05)
        update = await anext(watch)
        assert update is not None
        assert update.job.revision == 3
        assert handler._store is not None
        assert (await handler._store.remove_ended(Retention(ended_count=0), 10)).job_ids == ["j"]
        assert await anext(watch) is None
        await handler.emit(report("j", QUEUED))
        update = await anext(watch)
        assert update is not None
        assert (update.job.status, update.job.revision, update.history_truncated) == (QUEUED, 1, True)
        await handler.emit(report("j"))
        update = await anext(watch)
        assert update is not None
        assert [item.revision for item in update.transitions] == [2]
        assert not update.history_truncated
        await watch.aclose()


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_job_made_anew_is_another_whatever_its_revision(backend: JobBackend, count: int) -> None:
    """Below, at or beyond the one that its follower was told of the old job."""
    async with running(backend.make_handler()) as handler:
        await handler.emit_batch([report("j"), report("j", COMPLETED)])
        watch = handler.watch("j", after_revision=0)
        await anext(watch)
        assert handler._store is not None
        await handler._store.remove_ended(Retention(ended_count=0), 10)
        await handler.emit_batch([report("j", progress=number) for number in range(count)])
        async with asyncio.timeout(10):
            update = await anext(watch)
        assert update is not None
        assert (update.job.status, update.job.revision, update.history_truncated) == (RUNNING, count, True)
        await watch.aclose()


async def test_a_handler_keeps_what_its_settings_say(backend: JobBackend) -> None:
    """Days and counts, from its start on."""
    async with running(backend.make_handler()) as handler:
        await handler.emit_batch([report("old"), report("old", COMPLETED)])
        await backend.shift_ends(-3 * DAY_SECONDS)
        for job_id in "abc":
            await handler.emit_batch([report(job_id), report(job_id, COMPLETED)])
        await handler.emit(report("running"))
    await backend.shift_ends(-1.5 * DAY_SECONDS)
    settings = {"keep_ended_days": 4.0, "keep_ended_jobs": 2, "keep_history_days": 1.0}
    async with running(backend.make_handler(**settings)) as handler:
        async with asyncio.timeout(10):
            while await ids(handler) != ["b", "c", "running"]:
                await asyncio.sleep(0)
        assert [await history(handler, job_id) for job_id in "bc"] == [[], []]
        assert await history(handler, "running") == [(1, "RUNNING")]
