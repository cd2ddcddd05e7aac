"""Leases: renewed by reports, ended by passes of the database's clock, and fair to workers that nobody watched."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.jobs.merge import ATTEMPT_ENDED, LEASE_EXPIRED, SUPERSEDED
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.source import Job, TransitionQuery
from emitd_handlers.jobs.sqlite.store import SqliteJobStore
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
SECOND = 1_000_000_000
INTERVAL_SECONDS = 60.0
#: So often that a test need not wait.
OFTEN = 0.01


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


@pytest.fixture
async def store(backend: JobBackend) -> AsyncIterator[JobStore]:
    """A store whose leases were looked at just now."""
    async with opened(backend.make_store()) as store:
        await pass_over(store)
        yield store


async def pass_over(store: JobStore, waited_seconds: float = 0.0) -> list[str]:
    """Make a pass; return the ids of the jobs that it ended."""
    changes = await store.end_expired(INTERVAL_SECONDS, waited_seconds, Everything())
    return [change.job.job_id for change in changes]


class Everything:
    """An interest in every job."""

    def __contains__(self, job_id: object) -> bool:
        return True


async def lease_end(store: JobStore, job_id: str = "j") -> int:
    return (await get(store, job_id)).lease_expire_time_unix_nano


async def ended(handler: DatabaseJobHandler, job_id: str = "j") -> Job:
    """Wait until the job has ended."""
    async with asyncio.timeout(10):
        while not (await get(handler, job_id)).status.ended:
            await asyncio.sleep(OFTEN)
    return await get(handler, job_id)


@pytest.mark.parametrize(
    "later",
    [{"progress": 3}, {"message": "still here"}, {"lease_seconds": 100}, {"details_json": '{"a":1}'}],
    ids=str,
)
async def test_any_later_report_of_the_attempt_renews_the_lease(
    backend: JobBackend, store: JobStore, later: dict[str, Any]
) -> None:
    """Also one that says nothing of a lease: for as long as the last that did."""
    (first,) = await applied(store, report(lease_seconds=100))
    await backend.shift_leases(-99)
    (second,) = await applied(store, report(**later))
    assert (first.revision, second.revision) == (1, 2)
    job = await get(store)
    assert job.lease_expire_time_unix_nano == job.update_time_unix_nano + 100 * SECOND
    assert await pass_over(store) == []


async def test_a_report_that_is_stale_renews_nothing(backend: JobBackend, store: JobStore) -> None:
    """Not one of a superseded attempt, nor a copy of one that was applied."""
    newest = report(lease_seconds=100, attempt=2)
    await applied(store, newest)
    await backend.shift_leases(-101)
    copy = replace(newest, received_unix_nano=newest.received_unix_nano + SECOND)
    receipts = await applied(store, report(attempt=1, progress=50), copy)
    assert [receipt.applied for receipt in receipts] == [False, False]
    assert await pass_over(store) == ["j"]


async def test_a_lease_of_no_seconds_ends_the_lease(store: JobStore) -> None:
    """The job then lasts without reports, and stays so until a report asks for a lease."""
    await applied(store, report(lease_seconds=100))
    await applied(store, report(lease_seconds=0))
    assert await lease_end(store) == 0
    await applied(store, report(progress=1))
    assert await lease_end(store) == 0
    await applied(store, report(lease_seconds=5))
    assert await lease_end(store) > 0


@pytest.mark.parametrize("end", [COMPLETED, FAILED])
async def test_a_job_that_has_ended_has_no_lease(store: JobStore, end: JobState) -> None:
    """Whatever its last report asks for."""
    await applied(store, report(lease_seconds=100), report(status=end, lease_seconds=100))
    assert await lease_end(store) == 0


async def test_a_lease_that_ran_out_is_a_change_like_any_other(backend: JobBackend, store: JobStore) -> None:
    """FAILED with a reason, one more revision, a transition, and the time of the end; the rest stays as reported."""
    await applied(
        store,
        report(status=QUEUED),
        report(progress=7, message="copying", details_json='{"a":1}', labels={"k": "v"}, lease_seconds=30),
    )
    before = await get(store)
    await backend.shift_leases(-31)
    (change,) = await store.end_expired(INTERVAL_SECONDS, 0.0, {"j"})
    job = await get(store)
    assert change.job == job
    assert change.after_revision == 2
    assert (job.status, job.revision, job.attempt, job.progress) == (FAILED, 3, 1, 7)
    assert job.failure_reason == LEASE_EXPIRED
    assert job.failure_message == "no report came within the lease of 30 s"
    assert (job.message, job.details_json, job.labels) == ("copying", '{"a":1}', {"k": "v"})
    assert job.lease_expire_time_unix_nano == 0
    assert job.end_time_unix_nano == job.update_time_unix_nano >= before.update_time_unix_nano
    page = await store.list_transitions(TransitionQuery(job_id="j"))
    assert page is not None
    assert list(page.transitions)[2:] == list(change.transitions)
    (transition,) = change.transitions
    assert (transition.revision, transition.status, transition.progress) == (3, FAILED, 7)
    assert (transition.failure_reason, transition.failure_message) == (LEASE_EXPIRED, job.failure_message)
    assert await pass_over(store) == []


async def test_only_watched_jobs_are_told_and_all_are_ended(backend: JobBackend, store: JobStore) -> None:
    """As after a batch of reports."""
    await applied(store, report("a", lease_seconds=1), report("b", lease_seconds=1))
    await backend.shift_leases(-2)
    changes = await store.end_expired(INTERVAL_SECONDS, 0.0, {"b"})
    assert [change.job.job_id for change in changes] == ["b"]
    assert [(await get(store, job_id)).status for job_id in "ab"] == [FAILED, FAILED]


async def test_what_has_not_run_out_lasts(backend: JobBackend, store: JobStore) -> None:
    """Jobs without a lease, and leases that end later, one of them by little."""
    await applied(store, report("none"), report("soon", lease_seconds=100), report("late", lease_seconds=900))
    await backend.shift_leases(-95)
    assert await pass_over(store) == []
    await backend.shift_leases(-10)
    assert await pass_over(store) == ["soon"]


async def test_a_queued_jobs_lease_runs_out_too(backend: JobBackend, store: JobStore) -> None:
    """Whoever queued it promised to report again."""
    await applied(store, report(status=QUEUED, lease_seconds=1))
    await backend.shift_leases(-2)
    assert await pass_over(store) == ["j"]
    assert await history(store) == [(1, "QUEUED"), (2, "FAILED")]
    assert (await get(store)).start_time_unix_nano == 0


@pytest.mark.parametrize("end", [COMPLETED, FAILED])
async def test_a_job_that_has_ended_is_never_touched(
    backend: JobBackend, store: JobStore, end: JobState
) -> None:
    """However long ago its lease was to end."""
    await applied(store, report(lease_seconds=1), report(status=end))
    before = await get(store)
    await backend.shift_leases(-1000)
    assert await pass_over(store) == []
    assert await get(store) == before


async def test_a_job_that_another_program_ended_is_never_touched(
    backend: JobBackend, store: JobStore
) -> None:
    """Even if it left the lease in the row."""
    await applied(store, report("a", lease_seconds=1), report("b", lease_seconds=1))
    await backend.shift_leases(-2)
    await backend.write_job("a", status="COMPLETED")
    assert await pass_over(store) == ["b"]
    assert (await get(store, "a")).status is COMPLETED


async def test_a_newer_attempt_is_never_touched(backend: JobBackend, store: JobStore) -> None:
    """The lease was the old one's; the new attempt has none unless it asks for one."""
    await applied(store, report("a", lease_seconds=1), report("b", lease_seconds=1))
    await applied(store, report("a", new_attempt=True), report("b", attempt=2, lease_seconds=900))
    await backend.shift_leases(-800)
    assert await pass_over(store) == []
    assert await lease_end(store, "a") == 0
    assert [(await get(store, job_id)).attempt for job_id in "ab"] == [2, 2]


async def test_a_worker_that_comes_back_late_is_told_why(backend: JobBackend, store: JobStore) -> None:
    """Its reports change nothing: of the attempt that ended by lease, and once the next one has begun."""
    await applied(store, report(lease_seconds=1))
    await backend.shift_leases(-2)
    await pass_over(store)
    before = await get(store)
    assert await applied(store, report(progress=90), report(status=COMPLETED)) == [
        JobReceipt("j", 2, 1, False, ATTEMPT_ENDED),
        JobReceipt("j", 2, 1, False, ATTEMPT_ENDED),
    ]
    assert await get(store) == before
    await applied(store, report(new_attempt=True))
    assert await applied(store, report(status=COMPLETED)) == [JobReceipt("j", 3, 2, False, SUPERSEDED)]
    assert (await get(store)).status is RUNNING


async def test_a_job_goes_on_in_a_new_attempt_after_its_lease(backend: JobBackend, store: JobStore) -> None:
    """Without a lease unless it asks for one, without the failure, and to its own end."""
    await applied(store, report(progress=40, lease_seconds=1))
    await backend.shift_leases(-2)
    await pass_over(store)
    assert await applied(store, report(new_attempt=True)) == [JobReceipt("j", 3, 2, True)]
    job = await get(store)
    assert (job.status, job.progress, job.failure_reason, job.failure_message) == (RUNNING, 0, "", "")
    assert (job.lease_seconds, job.lease_expire_time_unix_nano, job.end_time_unix_nano) == (0, 0, 0)
    await applied(store, report(attempt=2, lease_seconds=1))
    await backend.shift_leases(-2)
    assert await pass_over(store) == ["j"]
    assert await history(store) == [(1, "RUNNING"), (2, "FAILED"), (3, "RUNNING"), (5, "FAILED")]


async def test_a_report_in_the_same_group_as_the_end_is_judged_by_what_is_committed(
    backend: JobBackend, store: JobStore
) -> None:
    """A renewal that is applied before the pass keeps the job; one after it comes too late."""
    await applied(store, report("a", lease_seconds=100), report("b", lease_seconds=100))
    await backend.shift_leases(-101)
    await applied(store, report("a", progress=1))
    assert await pass_over(store) == ["b"]
    assert [receipt.applied for receipt in await applied(store, report("a"), report("b"))] == [True, False]


async def test_without_any_pass_before_the_leases_begin_now(backend: JobBackend, store: JobStore) -> None:
    """Also those of tables that an older emitd has filled, which never looked at leases."""
    await applied(store, report("a", lease_seconds=100), report("b", lease_seconds=10), report("none"))
    await backend.shift_leases(-5000)
    await backend.forget_passes()
    assert await pass_over(store) == []
    a, b = await lease_end(store, "a"), await lease_end(store, "b")
    assert a - b == 90 * SECOND
    now = (await get(store, "a")).update_time_unix_nano
    assert now + 100 * SECOND <= a < now + 200 * SECOND
    assert await lease_end(store, "none") == 0
    await backend.shift_leases(-50)
    assert await pass_over(store) == ["b"]


async def test_a_gap_of_less_than_two_intervals_changes_no_lease(
    backend: JobBackend, store: JobStore
) -> None:
    """Passes may come late; a lease that ran out meanwhile has run out."""
    await applied(store, report("a", lease_seconds=100), report("b", lease_seconds=10))
    await backend.shift_leases(-50)
    await backend.shift_last_pass(-90)
    before = await lease_end(store, "a")
    assert await pass_over(store) == ["b"]
    assert await lease_end(store, "a") == before


async def test_time_in_which_nobody_watched_is_added_to_all_leases(
    backend: JobBackend, store: JobStore
) -> None:
    """After a gap of more than two intervals, whatever its cause; once, and readers see the new end."""
    await applied(store, report("a", lease_seconds=100), report("b", lease_seconds=700), report("none"))
    await backend.shift_leases(-500)
    await backend.shift_last_pass(-500)
    before = {job_id: await lease_end(store, job_id) for job_id in "ab"}
    assert await pass_over(store) == []
    for job_id in "ab":
        added = await lease_end(store, job_id) - before[job_id]
        assert 500 * SECOND <= added < 550 * SECOND
    assert await lease_end(store, "none") == 0
    after = await lease_end(store, "a")
    assert await pass_over(store) == []
    assert await lease_end(store, "a") == after
    await backend.shift_leases(-200)
    assert await pass_over(store) == ["a"]


async def test_a_lease_renewed_while_nobody_watched_gains_only_the_time_since(
    backend: JobBackend, store: JobStore
) -> None:
    """It ran unwatched only from then on: a worker that dies now is not waited for as long as the service was."""
    await applied(store, report(lease_seconds=100))
    await backend.shift_last_pass(-5000)
    before = await lease_end(store)
    assert await pass_over(store) == []
    assert before <= await lease_end(store) < before + 50 * SECOND


async def test_a_lease_that_was_over_when_the_watch_ended_is_over_when_it_begins_again(
    backend: JobBackend, store: JobStore
) -> None:
    """Only the gap is added: what had run out before it has still run out."""
    await applied(store, report(lease_seconds=10))
    await backend.shift_leases(-540)
    await backend.shift_last_pass(-500)
    assert await pass_over(store) == ["j"]


async def test_a_long_stop_is_not_held_against_a_job(backend: JobBackend) -> None:
    """The handler's first pass after a restart adds it, and the job can be reported on."""
    async with running(backend.make_handler()) as handler:
        await handler.emit(report(lease_seconds=100))
        before = (await get(handler)).lease_expire_time_unix_nano
    await backend.shift_leases(-100_000)
    await backend.shift_last_pass(-100_000)
    async with running(backend.make_handler(lease_check_seconds=OFTEN)) as handler:
        job = await get(handler)
        assert (job.status, job.revision) == (RUNNING, 1)
        assert job.lease_expire_time_unix_nano >= before
        assert (await handler.emit(report(progress=5))) == JobReceipt("j", 2, 1, True)
        await backend.shift_leases(-101)
        assert (await ended(handler)).failure_reason == LEASE_EXPIRED


async def test_time_that_a_pass_has_waited_is_not_held_against_a_job(
    backend: JobBackend, store: JobStore
) -> None:
    """What ran out in it is left for the next pass: the report that renews it may be waiting behind this one."""
    await applied(store, report("a", lease_seconds=100), report("b", lease_seconds=50))
    await backend.shift_leases(-110)
    assert await pass_over(store, waited_seconds=40.0) == ["b"]
    assert await pass_over(store) == ["a"]


async def test_more_leases_than_one_pass_takes_end_in_the_next(backend: JobBackend, store: JobStore) -> None:
    """A thousand a pass, each job once."""
    records = [report(f"j{number}", lease_seconds=1) for number in range(1500)]
    await applied(store, *records)
    await backend.shift_leases(-2)
    first, second, third = [await pass_over(store) for _ in range(3)]
    assert (len(first), len(second), len(third)) == (1000, 500, 0)
    assert len({*first, *second}) == 1500


async def test_watchers_are_told_at_once(backend: JobBackend) -> None:
    """Of one job and of many, though no report comes."""
    async with running(backend.make_handler(lease_check_seconds=OFTEN)) as handler:
        await handler.emit(report(lease_seconds=1000))
        watch = handler.watch("j", min_interval_seconds=1000)
        assert (await anext(watch)).job.revision == 1  # type: ignore[union-attr]
        await backend.shift_leases(-1001)
        async with asyncio.timeout(10):
            update = await anext(watch)
        assert update is not None
        assert [(item.revision, item.status) for item in update.transitions] == [(2, FAILED)]
        assert update.job.failure_reason == LEASE_EXPIRED
        await watch.aclose()


def set_clock(store: JobStore, seconds: float) -> None:
    """Make the store's wall clock one that was set: its steady clock goes the other way."""
    assert isinstance(store, (SqliteJobStore, PostgresJobStore))
    jobs = store._jobs if isinstance(store, SqliteJobStore) else store._opened.jobs  # type: ignore[union-attr]
    steady = jobs._clock.steady
    jobs._clock.steady = lambda: steady() - int(seconds * SECOND)


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_lease_that_was_given_while_the_clock_was_ahead_lasts_from_now(
    backend: JobBackend, store: JobStore, is_restarted: bool
) -> None:
    """After a step back, and after a start; the others stay as they are."""
    await applied(store, report("ahead", lease_seconds=100))
    await backend.shift_leases(7200)
    await applied(store, report("other", lease_seconds=100), report("none"))
    before = await lease_end(store, "other")
    assert await pass_over(store) == []
    assert await lease_end(store, "ahead") > before + 7000 * SECOND  # nothing says that it is wrong
    if is_restarted:
        await store.close()
        await store.open()
    else:
        set_clock(store, -7200)
    assert await pass_over(store) == []
    assert before <= await lease_end(store, "ahead") < before + 50 * SECOND
    assert await lease_end(store, "other") == before
    assert await lease_end(store, "none") == 0


async def test_a_step_forward_is_added_to_the_leases_that_were_given_before_it(
    backend: JobBackend, store: JobStore
) -> None:
    """Also if it is less than two intervals; what had run out has still run out."""
    await applied(store, report("dead", lease_seconds=30))
    await backend.shift_leases(-31)
    await applied(store, report("alive", lease_seconds=30))
    before = await lease_end(store, "alive")
    set_clock(store, 65)
    await backend.shift_leases(-65)
    await backend.shift_last_pass(-65)
    await applied(store, report("renewed", lease_seconds=30))
    renewed = await lease_end(store, "renewed")
    assert await pass_over(store) == ["dead"]
    assert await lease_end(store, "alive") == pytest.approx(before, abs=5 * SECOND)
    assert renewed <= await lease_end(store, "renewed") < renewed + 5 * SECOND


async def test_a_clock_that_was_ahead_for_a_moment_between_two_passes_leaves_no_lease_behind(
    backend: JobBackend, store: JobStore
) -> None:
    """Every transaction looks at the clock."""
    set_clock(store, 7200)
    await applied(store, report(lease_seconds=100))
    await backend.shift_leases(7200)
    set_clock(store, -7200)
    end = await lease_end(store)
    assert await pass_over(store) == []
    assert await lease_end(store) < end - 7000 * SECOND


async def test_nothing_is_removed_for_its_age_just_after_a_step(backend: JobBackend, store: JobStore) -> None:
    """The clock may soon be set back."""
    await applied(store, report(status=COMPLETED))
    await backend.shift_ends(-1000)
    await applied(store, report("k"))
    set_clock(store, 7200)
    assert await pass_over(store) == []
    assert (await store.remove_ended(Retention(ended_seconds=500), 10)).job_ids == ()
    set_clock(store, -7200)


async def test_times_go_on_after_the_last_before_a_restart(backend: JobBackend, store: JobStore) -> None:
    """If that is later than the clock: those of new jobs and of changes, each after the one before."""
    await applied(store, report("a", status=COMPLETED), report("b"))
    first = (await get(store, "b")).update_time_unix_nano
    await store.close()
    await backend.shift_ends(7200)
    await store.open()
    await applied(store, report("b", progress=3))
    second = (await get(store, "b")).update_time_unix_nano
    await asyncio.sleep(0.1)
    await applied(store, report("b", progress=4))
    third = (await get(store, "b")).update_time_unix_nano
    assert first + 7199 * SECOND < second
    assert second + SECOND // 25 < third < second + 2 * SECOND
