"""A job's history: every change of status, mere progress where configured, and attempts that are opened once."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.jobs.merge import OUT_OF_ORDER, SUPERSEDED
from emitd_handlers.jobs.source import JobTransition, TransitionQuery
from emitd_handlers.jobs.store import JobStore
from emitd_handlers.outcome import Committed, JobReceipt, Refused
from emitd_handlers.record import JobState
from support.jobs.backends import (
    BACKENDS,
    JobBackend,
    applied,
    get,
    history,
    make_backend,
    opened,
    receipt,
    report,
    running,
)

QUEUED, RUNNING, COMPLETED, FAILED = JobState


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


@pytest.fixture
async def store(backend: JobBackend) -> AsyncIterator[JobStore]:
    async with opened(backend.make_store()) as store:
        yield store


@pytest.fixture
async def keeping(backend: JobBackend) -> AsyncIterator[JobStore]:
    """A store that keeps progress too."""
    async with opened(backend.make_store(keep_progress=True)) as store:
        yield store


async def transitions(store: JobStore, **query: Any) -> list[JobTransition]:
    page = await store.list_transitions(TransitionQuery(job_id="j", **query))
    assert page is not None
    return list(page.transitions)


async def revisions(store: JobStore, **query: Any) -> list[int]:
    return [item.revision for item in await transitions(store, **query)]


async def test_each_change_of_status_is_kept_as_reported(store: JobStore) -> None:
    """With its attempt, progress, time and failure; over all attempts."""
    records = [
        report(status=QUEUED),
        report(progress=7),
        report(progress=50),
        report(status=FAILED, failure_reason="OOM", failure_message="out of memory"),
        report(status=RUNNING, new_attempt=True, progress=1),
        report(status=COMPLETED, attempt=2),
    ]
    await applied(store, *records)
    times = [record.time_unix_nano for record in records]
    assert await transitions(store) == [
        JobTransition(1, 1, QUEUED, 0, times[0]),
        JobTransition(2, 1, RUNNING, 7, times[1]),
        JobTransition(4, 1, FAILED, 50, times[3], "OOM", "out of memory"),
        JobTransition(5, 2, RUNNING, 1, times[4]),
        JobTransition(6, 2, COMPLETED, 100, times[5]),
    ]


async def test_a_history_can_be_asked_for_from_a_revision_on(store: JobStore) -> None:
    """What came after it; also after one that no job will ever reach, and of a job that does not exist."""
    await applied(store, report(status=QUEUED), report(), report(progress=5), report(status=COMPLETED))
    for after_revision, expected in (
        (0, [1, 2, 4]),
        (1, [2, 4]),
        (2, [4]),
        (3, [4]),
        (4, []),
        (2**63 - 1, []),
        (2**63, []),
        (2**64 - 1, []),
    ):
        assert await revisions(store, after_revision=after_revision) == expected
        loaded = await store.load_history("j", after_revision)
        assert loaded is not None
        assert [item.revision for item in loaded.transitions] == expected
        assert loaded.after_revision == min(after_revision, 4)
    assert await store.list_transitions(TransitionQuery(job_id="unknown")) is None


async def test_a_history_is_that_of_its_job(store: JobStore) -> None:
    """Ids that look like something else to a database are ids and nothing more."""
    ids = ["j", "J", "j'", "j%", "j_", "'; DROP TABLE job_logs; --", 'j"', "j\\", " j", "ä", "{j}", "$1", "?"]
    await applied(store, *[report(job_id) for job_id in ids])
    for number, job_id in enumerate(ids):
        await applied(store, *[report(job_id, attempt=attempt + 2) for attempt in range(number)])
    for number, job_id in enumerate(ids):
        assert len(await history(store, job_id)) == number + 1
        assert (await get(store, job_id)).revision == number + 1


async def test_progress_is_kept_where_configured(keeping: JobStore) -> None:
    """Each report that was applied, marked as mere progress, when it happened; those that were stale are not."""
    records = [
        report(progress=1),
        report(progress=2, message="two"),
        report(message="no progress"),
        report(status=COMPLETED),
        report(progress=3),
    ]
    await applied(keeping, *records)
    times = [record.time_unix_nano for record in records]
    assert await transitions(keeping) == [
        JobTransition(1, 1, RUNNING, 1, times[0]),
        JobTransition(2, 1, RUNNING, 2, times[1], progress_only=True),
        JobTransition(3, 1, RUNNING, 2, times[2], progress_only=True),
        JobTransition(4, 1, COMPLETED, 100, times[3]),
    ]


async def test_progress_is_not_kept_by_default(store: JobStore) -> None:
    """Changes of status alone."""
    await applied(store, report(), *[report(progress=number) for number in range(50)])
    assert await history(store) == [(1, "RUNNING")]


async def test_kept_progress_is_no_change_of_status(backend: JobBackend, keeping: JobStore) -> None:
    """A watch does not tell it, neither from the database nor from what is published."""
    await applied(keeping, report(), report(progress=1), report(progress=2))
    loaded = await keeping.load_history("j", 0)
    assert loaded is not None
    assert [item.revision for item in loaded.transitions] == [1]
    published = await keeping.apply([report(progress=3), report(status=COMPLETED)], {"j"})
    assert [[item.revision for item in change.transitions] for change in published.changes] == [[5]]
    async with running(backend.make_handler(keep_progress=True)) as handler:
        watch = handler.watch("j", after_revision=0)
        update = await anext(watch)
        assert update is not None
        assert [item.revision for item in update.transitions] == [1, 5]
        assert update.coalesced_count == 3
        await watch.aclose()


async def test_kept_progress_stays_when_it_is_kept_no_longer(backend: JobBackend, keeping: JobStore) -> None:
    """And the other way round."""
    await applied(keeping, report(), report(progress=1))
    await keeping.close()
    async with opened(backend.make_store()) as store:
        await applied(store, report(progress=2))
    async with opened(backend.make_store(keep_progress=True)) as store:
        await applied(store, report(progress=3))
        assert await history(store) == [(1, "RUNNING"), (2, "tick"), (4, "tick")]


async def test_a_wish_to_cancel_is_no_part_of_the_history(keeping: JobStore) -> None:
    """It is a revision without a status or progress of its own."""
    await applied(keeping, report())
    await keeping.request_cancel("j", "why", ())
    await applied(keeping, report(progress=1))
    assert await history(keeping) == [(1, "RUNNING"), (3, "tick")]


async def test_a_copy_of_an_opening_report_opens_nothing(store: JobStore) -> None:
    """It is answered as the first was, whatever has happened in the attempt since; others open the next one."""
    await applied(store, report())
    opening = report(status=QUEUED, new_attempt=True, record_id="r", progress=0)
    answer = JobReceipt("j", 2, 2, True)
    assert (await store.apply([opening, opening], ())).outcomes == [
        Committed(answer),
        Committed(answer, duplicate=True),
    ]
    for later in (
        report(status=QUEUED, attempt=2, progress=5),
        report(attempt=2),
        report(status=FAILED, attempt=2),
    ):
        await applied(store, later)
        before = await get(store)
        assert (await store.apply([opening], ())).outcomes == [Committed(answer, duplicate=True)]
        assert await get(store) == before
    assert await history(store) == [(1, "RUNNING"), (2, "QUEUED"), (4, "RUNNING"), (5, "FAILED")]
    assert await applied(store, report(new_attempt=True, record_id="s")) == [JobReceipt("j", 6, 3, True)]


async def test_a_copy_of_the_report_that_made_the_job_makes_nothing(store: JobStore) -> None:
    """A worker need not know whether it opens the first attempt."""
    opening = report(new_attempt=True, record_id="r")
    assert await applied(store, opening, opening) == [JobReceipt("j", 1, 1, True)] * 2
    assert (await get(store)).attempt == 1


async def test_a_copy_is_known_after_a_restart(backend: JobBackend) -> None:
    """Though nobody remembers the record any more: the job does."""
    opening = report(new_attempt=True, record_id="r")
    async with running(backend.make_handler()) as handler:
        await handler.emit_batch([report(), opening])
    async with running(backend.make_handler()) as handler:
        assert await handler.emit_batch([opening]) == [Committed(JobReceipt("j", 2, 2, True), duplicate=True)]
        await handler.emit_batch([report(status=COMPLETED, attempt=2)])
    async with running(backend.make_handler()) as handler:
        assert await handler.emit_batch([opening]) == [Committed(JobReceipt("j", 2, 2, True), duplicate=True)]
        assert (await get(handler)).attempt == 2


async def test_a_copy_is_known_after_the_lease_ended_the_attempt(
    backend: JobBackend, store: JobStore
) -> None:
    """The worker that sent it is late in every way; it is told of the attempt that it opened."""
    await store.end_expired(60.0, 0.0, ())
    opening = report(new_attempt=True, record_id="r", lease_seconds=1)
    await applied(store, report(), opening)
    await backend.shift_leases(-2)
    await store.end_expired(60.0, 0.0, ())
    assert await applied(store, opening) == [JobReceipt("j", 2, 2, True)]
    assert (await get(store)).status is FAILED


async def test_a_copy_is_known_though_others_have_opened_attempts_since(
    backend: JobBackend, store: JobStore
) -> None:
    """It opens nothing: its worker is told of the attempt that it opened, and finds out that it was superseded."""
    second, third = [report(new_attempt=True, record_id=record_id) for record_id in "ab"]
    await applied(store, report(), second, third)
    assert await applied(store, second, third) == [JobReceipt("j", 2, 2, True), JobReceipt("j", 3, 3, True)]
    async with running(backend.make_handler()) as handler:
        assert await handler.emit_batch([second]) == [Committed(JobReceipt("j", 2, 2, True), duplicate=True)]
        late = receipt((await handler.emit_batch([report(attempt=2)]))[0])
        assert (late.attempt, late.stale_reason) == (3, SUPERSEDED)


async def test_an_opening_report_without_an_id_opens_each_time(store: JobStore) -> None:
    """Nothing tells a copy of it from another."""
    record = report(new_attempt=True)
    assert [item.attempt for item in await applied(store, record, record, record)] == [1, 2, 3]


async def test_the_same_id_in_another_job_opens_its_own_attempt(store: JobStore) -> None:
    """What a report opened is known by job."""
    await applied(store, report("a"), report("b"))
    first, second = [report(job_id, new_attempt=True, record_id="r") for job_id in "ab"]
    assert [item.attempt for item in await applied(store, first, second, first)] == [2, 2, 2]


async def test_an_id_that_opened_nothing_is_no_copy(store: JobStore) -> None:
    """A report of a named attempt, or a mere tick, may come again: then the merge rule judges it."""
    first = report(attempt=2, record_id="r")
    await applied(store, report(), first)
    assert [item.attempt for item in await applied(store, report(new_attempt=True, record_id="r"))] == [3]


async def handled(handler: DatabaseJobHandler, *statuses: JobState) -> list[str]:
    """Report one status after the other, and return what became of each."""
    reasons = []
    for status in statuses:
        receipt = await handler.emit(report(status=status))
        assert isinstance(receipt, JobReceipt)
        reasons.append(receipt.stale_reason)
    return reasons


async def test_what_was_not_applied_leaves_no_trace(backend: JobBackend) -> None:
    """A report that comes out of order is not in the history, however much is kept."""
    async with running(backend.make_handler(keep_progress=True)) as handler:
        assert await handled(handler, RUNNING, RUNNING, QUEUED) == ["", "", OUT_OF_ORDER]
        assert await history(handler) == [(1, "RUNNING"), (2, "tick")]


async def test_an_opening_belongs_to_its_source(store: JobStore) -> None:
    """Another program may use the same id: it opens an attempt of its own, also in the same batch, and after that."""
    mine = report(new_attempt=True, record_id="r")
    others = [replace(report(new_attempt=True, record_id="r"), source=source) for source in ("other", "")]
    assert await applied(store, mine, *others, mine) == [
        JobReceipt("j", 1, 1, True),
        JobReceipt("j", 2, 2, True),
        JobReceipt("j", 3, 3, True),
        JobReceipt("j", 1, 1, True),
    ]
    again = [replace(record, received_unix_nano=record.received_unix_nano + 1) for record in (*others, mine)]
    assert [item.revision for item in await applied(store, *again)] == [2, 3, 1]
    assert (await get(store)).attempt == 3


async def test_an_attempt_that_jumps_far_is_refused_alone(store: JobStore) -> None:
    """The rest of its batch is applied, and the job can go on."""
    records = [
        report(attempt=2**32 - 1),
        report(attempt=1001),
        report(attempt=1000, progress=5),
        report(attempt=2001),
        report(attempt=2000),
        report("other", attempt=2**32 - 1),
        report(new_attempt=True),
    ]
    outcomes = (await store.apply(records, ())).outcomes
    refused = {index: outcome.error for index, outcome in enumerate(outcomes) if isinstance(outcome, Refused)}
    assert {index: error.field for index, error in refused.items()} == dict.fromkeys(
        (0, 1, 3, 5), "job.attempt"
    )
    assert str(refused[0]) == (
        "job.attempt: 4294967295 is more than 1000 above the job's last attempt, 0: send `new_attempt` instead, or "
        "raise the setting max_attempt_jump"
    )
    job = await get(store)
    assert (job.attempt, job.revision) == (2001, 3)
    assert await store.get("other") is None


async def test_how_far_an_attempt_may_jump_is_a_setting(backend: JobBackend) -> None:
    """Of the handler."""
    async with running(backend.make_handler(max_attempt_jump=3)) as handler:
        outcomes = await handler.emit_batch([report(attempt=4), report(attempt=3), report(attempt=6)])
    assert [isinstance(outcome, Refused) for outcome in outcomes] == [True, False, False]
