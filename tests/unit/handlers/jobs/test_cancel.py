"""The wish to cancel a job: recorded once, told to everyone, kept until the job has ended; it changes no status."""

import asyncio
from collections.abc import AsyncIterator, Container, Sequence

import pytest
from msgspec.structs import replace

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.merge import ATTEMPT_ENDED, OUT_OF_ORDER, SUPERSEDED
from emitd_handlers.jobs.source import JobFilter
from emitd_handlers.jobs.store import Applied, JobStore
from emitd_handlers.outcome import Committed, JobReceipt
from emitd_handlers.record import JobState, LogRecord
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


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


@pytest.fixture
async def store(backend: JobBackend) -> AsyncIterator[JobStore]:
    async with opened(backend.make_store()) as store:
        yield store


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_a_wish_is_one_more_revision_and_nothing_else(store: JobStore, status: JobState) -> None:
    """The job as it was, with the wish, its reason and the time; no transition."""
    await applied(store, report(status=status, progress=7, message="m", lease_seconds=9, labels={"k": "v"}))
    before = await get(store)
    job, changes = await store.request_cancel("j", "too slow", {"j"})
    assert job == await get(store)
    assert job == replace(
        before,
        revision=2,
        update_time_unix_nano=job.update_time_unix_nano,
        cancel_requested=True,
        cancel_reason="too slow",
    )
    assert job.update_time_unix_nano >= before.update_time_unix_nano
    assert [(change.job, list(change.transitions), change.after_revision) for change in changes] == [
        (job, [], 1)
    ]
    assert await history(store) == [(1, status.name)]


async def test_a_wish_is_recorded_once(store: JobStore) -> None:
    """Whoever asks again gets the job as it stands; the first reason stays, and nobody is told anything."""
    await applied(store, report())
    first, _ = await store.request_cancel("j", "first", ())
    again, changes = await store.request_cancel("j", "second", {"j"})
    assert again == first
    assert list(changes) == []
    assert (await get(store)).cancel_reason == "first"


@pytest.mark.parametrize("end", [COMPLETED, FAILED])
async def test_a_job_that_has_ended_stays_as_it_is(store: JobStore, end: JobState) -> None:
    """There is nothing to cancel; the answer says so by its status."""
    await applied(store, report(), report(status=end))
    before = await get(store)
    job, changes = await store.request_cancel("j", "too late", {"j"})
    assert job == before == await get(store)
    assert list(changes) == []


async def test_an_unknown_job_is_none(store: JobStore) -> None:
    """And none is made by the wish."""
    assert await store.request_cancel("unknown", "why", {"unknown"}) == (None, ())
    assert await store.get("unknown") is None
    await applied(store, report("unknown"))
    assert not (await get(store, "unknown")).cancel_requested


async def test_only_the_job_that_is_meant_is_asked(store: JobStore) -> None:
    """Whatever its id looks like to a database; and its neighbours hear nothing of it."""
    ids = ["j", "J", "j%", "%", "_", "j' OR '1'='1", "'; DROP TABLE job_logs; --"]
    await applied(store, *[report(job_id) for job_id in ids])
    reason = '\'); DELETE FROM job_logs; --\n"ä€😀"'
    for number, job_id in enumerate(ids):
        job, _ = await store.request_cancel(job_id, reason, ())
        assert job is not None
        assert (job.job_id, job.cancel_reason) == (job_id, reason)
        asked = [(await get(store, other)).cancel_requested for other in ids]
        assert asked == [True] * (number + 1) + [False] * (len(ids) - number - 1)


async def test_a_wish_without_a_reason_is_one(store: JobStore) -> None:
    """The reason is for people."""
    await applied(store, report())
    await store.request_cancel("j", "", ())
    job = await get(store)
    assert (job.cancel_requested, job.cancel_reason) == (True, "")


async def test_every_receipt_of_the_job_tells_the_wish(store: JobStore) -> None:
    """Applied or not, of whatever attempt, and of a copy; other jobs' receipts do not."""
    opening = report(new_attempt=True, record_id="r")
    await applied(store, report(), report("other"), opening)
    await store.request_cancel("j", "", ())
    receipts = await applied(
        store,
        report(attempt=2, progress=5),
        report(attempt=1),
        report(status=QUEUED, attempt=2),
        opening,
        report("other", progress=1),
        report(status=COMPLETED, attempt=2),
        report(attempt=2),
    )
    assert [(item.stale_reason, item.cancel_requested) for item in receipts] == [
        ("", True),
        (SUPERSEDED, True),
        (OUT_OF_ORDER, True),
        ("", True),
        ("", False),
        ("", True),
        (ATTEMPT_ENDED, True),
    ]
    assert receipts[0] == JobReceipt("j", 4, 2, True, "", True)


@pytest.mark.parametrize("next_attempt", [{"attempt": 2}, {"new_attempt": True}], ids=str)
async def test_a_wish_stays_over_an_attempt_that_had_not_ended(
    store: JobStore, next_attempt: dict[str, int]
) -> None:
    """A worker that replaces a lost one is asked in its turn."""
    await applied(store, report())
    await store.request_cancel("j", "why", ())
    (receipt,) = await applied(store, report(**next_attempt))
    assert (receipt.attempt, receipt.cancel_requested) == (2, True)
    job = await get(store)
    assert (job.cancel_requested, job.cancel_reason) == (True, "why")


@pytest.mark.parametrize("next_attempt", [{"attempt": 2}, {"new_attempt": True}], ids=str)
async def test_a_wish_goes_with_the_first_attempt_begun_after_the_end(
    store: JobStore, next_attempt: dict[str, int]
) -> None:
    """It stays with the job that ended, and whoever runs it again wants it to run; then it can be asked anew."""
    await applied(store, report())
    await store.request_cancel("j", "why", ())
    await applied(store, report(status=FAILED))
    assert (await get(store)).cancel_requested
    (receipt,) = await applied(store, report(**next_attempt))
    assert not receipt.cancel_requested
    job = await get(store)
    assert (job.cancel_requested, job.cancel_reason) == (False, "")
    job_asked, _ = await store.request_cancel("j", "again", ())
    assert job_asked is not None
    assert (job_asked.revision, job_asked.cancel_reason) == (5, "again")


async def test_a_wish_does_not_keep_a_job_from_its_end(backend: JobBackend, store: JobStore) -> None:
    """By report, or by lease; the lease itself is not renewed by the wish."""
    await store.end_expired(60.0, 0.0, ())
    await applied(store, report("a"), report("b", lease_seconds=100))
    for job_id in "ab":
        await store.request_cancel(job_id, "", ())
    await applied(store, report("a", COMPLETED))
    await backend.shift_leases(-101)
    await store.end_expired(60.0, 0.0, ())
    a, b = await get(store, "a"), await get(store, "b")
    assert (a.status, a.cancel_requested) == (COMPLETED, True)
    assert (b.status, b.cancel_requested) == (FAILED, True)


async def test_a_wish_survives_a_restart(backend: JobBackend) -> None:
    """It is in the database when it is answered."""
    async with running(backend.make_handler()) as handler:
        await handler.emit(report())
        await handler.request_cancel("j", "why")
    async with running(backend.make_handler()) as handler:
        job = await get(handler)
        assert (job.cancel_requested, job.cancel_reason, job.revision) == (True, "why", 2)
        receipt = await handler.emit(report(progress=1))
        assert receipt == JobReceipt("j", 3, 1, True, "", True)


async def test_watchers_are_told_of_a_wish(backend: JobBackend) -> None:
    """Of one job, as a report without a change of status, and of many; by the time that it is answered."""
    async with running(backend.make_handler()) as handler:
        await handler.emit(report())
        watch, filtered_watch = handler.watch("j"), handler.watch_many(JobFilter(), max_jobs=10)
        await anext(watch)
        assert len(await anext(filtered_watch) or ()) == 1
        assert await anext(filtered_watch) == ()
        answer = await handler.request_cancel("j", "why")
        async with asyncio.timeout(10):
            update, part = await anext(watch), await anext(filtered_watch)
        assert update is not None
        assert update.job == answer
        assert (update.transitions, update.coalesced_count) == ((), 0)
        assert part is not None
        assert [change.job for change in part] == [answer]
        assert not part[0].left_filter
        await watch.aclose()
        await filtered_watch.aclose()


async def test_a_wish_takes_its_turn_among_the_reports(
    backend: JobBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that watchers are told of both in the order of their commits."""
    async with running(backend.make_handler()) as handler:
        await handler.emit(report())
        store = handler._store
        assert store is not None
        apply, begun, gate = store.apply, asyncio.Event(), asyncio.Event()

        async def apply_and_wait(records: Sequence[LogRecord], interest: Container[str]) -> Applied:
            applied = await apply(records, interest)
            begun.set()
            await gate.wait()
            return applied

        monkeypatch.setattr(store, "apply", apply_and_wait)
        sent = asyncio.create_task(handler.emit_batch([report(progress=1)]))
        await begun.wait()
        asked = asyncio.create_task(handler.request_cancel("j", ""))
        await asyncio.sleep(0.05)
        assert not (await get(handler)).cancel_requested
        gate.set()
        await sent
        job = await asked
        assert job is not None
        assert (job.revision, job.cancel_requested) == (3, True)


async def test_wishes_and_reports_of_one_moment_are_all_counted(backend: JobBackend) -> None:
    """Each takes its turn: no revision is lost or given twice."""
    async with running(backend.make_handler()) as handler:
        await handler.emit(report())
        reports = [handler.emit_batch([report(progress=number)]) for number in range(20)]
        wishes = [handler.request_cancel("j", str(number)) for number in range(20)]
        both = [call for pair in zip(reports, wishes, strict=True) for call in pair]
        answers = await asyncio.gather(*both)
        jobs = answers[1::2]
        assert [job.cancel_reason for job in jobs] == ["0"] * 20  # type: ignore[union-attr]
        revisions = [
            outcome.receipt.revision
            for (outcome,) in answers[::2]  # type: ignore[misc]
            if isinstance(outcome, Committed) and isinstance(outcome.receipt, JobReceipt)
        ]
        assert len({*revisions}) == 20
        assert (await get(handler)).revision == 22


async def test_a_wish_to_a_handler_that_does_not_run_is_refused(backend: JobBackend) -> None:
    """Before its start and after its stop."""
    handler = backend.make_handler()
    for word in ("not running", "stopped"):
        with pytest.raises(HandlerUnavailable, match=word):
            await handler.request_cancel("j", "")
        await handler.start()
        await handler.stop()
