"""Whose jobs are: the first report makes the owner, and the merge refuses all others, in its transaction."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from emitd_handlers.errors import RecordForbidden, RecordInvalid
from emitd_handlers.jobs.merge import MAX_ATTEMPT, expire, merge, request_cancel
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.store import JobStore
from emitd_handlers.outcome import Committed, Refused
from emitd_handlers.principal import Principal
from emitd_handlers.record import JobState, LogRecord
from emitd_handlers.scope import ANYONE, EVERYTHING, Caller, Rule, Scope
from support.jobs.backends import BACKENDS, JobBackend, applied, get, make_backend, opened, report

QUEUED, RUNNING, COMPLETED, FAILED = JobState
NOW = 2**60


def caller(name: str, *groups: str, scope: Scope = EVERYTHING) -> Caller:
    return Caller(Principal(name, "token", groups), scope)


ANN, BEN = caller("ann", "web", "eu"), caller("ben", "eu", "web")
EVE, BARE = caller("eve", "us"), caller("ann")


def by(sender: Caller, job_id: str = "j", status: JobState = RUNNING, **fields: Any) -> LogRecord:
    return replace(report(job_id, status, **fields), sender=sender)


def begun(sender: Caller, **fields: Any) -> Job:
    return merge(None, by(sender, **fields), NOW).job


@pytest.mark.parametrize(
    ("sender", "owner"),
    [
        (ANN, "group:web"),
        (BARE, "ann"),
        (ANYONE, ""),
        (Caller(Principal("me", "socket")), "me"),
        (Caller(Principal("till", "relayed")), "till"),
    ],
)
def test_the_first_report_makes_the_owner(sender: Caller, owner: str) -> None:
    """The first group of its sender, or else the name; of a relay's report, the name that the relay passes on."""
    assert begun(sender).owner == owner


@pytest.mark.parametrize(
    ("owner", "sender", "is_let"),
    [
        (ANN, ANN, True),
        (ANN, BEN, True),
        (ANN, EVE, False),
        (ANN, BARE, False),
        (BEN, EVE, False),
        (BARE, BARE, True),
        (BARE, ANN, True),
        (BARE, caller("web", "ann"), False),
        (ANN, caller("web"), False),
        (ANN, ANYONE, True),
    ],
)
def test_those_of_the_owner_report_and_others_do_not(owner: Caller, sender: Caller, is_let: bool) -> None:
    """By any group or the name; a listener that asks for no name lets everyone. The owner stays."""
    job = begun(owner)
    if is_let:
        assert merge(job, by(sender), NOW + 1).job.owner == job.owner
        return
    with pytest.raises(RecordForbidden) as caught:
        merge(job, by(sender), NOW + 1)
    assert caught.value.field == "job.job_id"
    assert str(caught.value).endswith(f"belongs to '{job.owner}', not to '{sender.principal.name}'")


@pytest.mark.parametrize(
    "fields",
    [
        {"status": QUEUED},
        {"new_attempt": True},
        {"attempt": 2},
        {"attempt": MAX_ATTEMPT},
        {"attempt": 0},
        {"status": COMPLETED},
        {"progress": 1},
    ],
)
def test_a_stranger_learns_nothing_of_the_job(fields: dict[str, Any]) -> None:
    """It is refused before the report is compared with the job, whatever has become of that: stale, ended, expired."""
    running = begun(ANN, lease_seconds=1)
    for job in (running, expire(running, NOW * 2).job, request_cancel(running, "why", NOW)):
        with pytest.raises(RecordForbidden, match="belongs to 'group:web', not to 'eve'"):
            merge(job, by(EVE, **fields), NOW)
    with pytest.raises(RecordInvalid):
        merge(running, by(ANN, attempt=MAX_ATTEMPT), NOW)


@pytest.mark.parametrize("sender", [ANN, EVE, BARE])
def test_a_job_without_an_owner_is_the_next_reporters(sender: Caller) -> None:
    """One that was made before there were owners, or by a caller whose name nobody asked for."""
    job = begun(ANYONE)
    assert merge(job, by(ANYONE), NOW).job.owner == ""
    taken = merge(job, by(sender), NOW).job
    assert taken.owner
    with pytest.raises(RecordForbidden):
        merge(taken, by(caller("other")), NOW)
    # A report that changes nothing does not take it either.
    ended = merge(job, by(ANYONE, status=FAILED), NOW).job
    assert merge(ended, by(sender), NOW).job is ended


def test_the_type_that_is_stored_is_judged() -> None:
    """Also if the report leaves its type out; and whose job it is comes first."""
    imports = Scope((Rule(job_types=("import",)), Rule(sources=("other",))))
    job = begun(ANYONE)
    for job_type in ("t", ""):
        record = by(caller("ann", scope=imports))
        record = replace(record, payload=replace(record.payload, job_type=job_type))  # type: ignore[type-var]
        with pytest.raises(RecordForbidden) as caught:
            merge(job, record, NOW)
        assert caught.value.field == "job.job_type"
        assert caught.value.problem == "no grant covers jobs of type 't', for 'ann'"
        assert merge(job, replace(record, source="other"), NOW).applied
    with pytest.raises(RecordForbidden, match="belongs to"):
        merge(begun(EVE), by(caller("ann", scope=imports)), NOW)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


@pytest.fixture
async def store(backend: JobBackend) -> AsyncIterator[JobStore]:
    async with opened(backend.make_store()) as store:
        yield store


async def refused(store: JobStore, *records: LogRecord) -> None:
    for outcome in (await store.apply(records, ())).outcomes:
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.error, RecordForbidden)


async def test_a_stranger_changes_nothing_that_is_stored(store: JobStore) -> None:
    """By none of its reports, also not with the record of the owner; others of the transaction are applied."""
    opening = by(ANN, record_id="r1", new_attempt=True)
    await applied(store, opening)
    before = await get(store)
    assert before.owner == "group:web"
    await refused(
        store,
        by(EVE, status=FAILED),
        by(EVE, new_attempt=True, record_id="r2"),
        by(EVE, attempt=2),
        replace(opening, sender=EVE),
    )
    assert await get(store) == before
    outcomes = (await store.apply([by(EVE, "k"), by(EVE), replace(opening, sender=BEN)], ())).outcomes
    assert [type(outcome) for outcome in outcomes] == [Committed, Refused, Committed]
    assert (await get(store, "k")).owner == "group:us"
    assert await get(store) == before


async def test_two_that_begin_a_job_at_once(store: JobStore) -> None:
    """The first of the transaction owns it."""
    outcomes = (await store.apply([by(EVE), by(ANN), by(ANYONE), by(EVE)], ())).outcomes
    assert [type(outcome) for outcome in outcomes] == [Committed, Refused, Committed, Committed]
    assert (await get(store)).owner == "group:us"


async def test_an_owner_is_stored_by_the_report_that_takes_the_job(
    backend: JobBackend, store: JobStore
) -> None:
    """Also by one that changes nothing else but progress; another store finds it there."""
    await applied(store, by(ANYONE, progress=1))
    await applied(store, by(ANYONE, progress=2))
    assert (await get(store)).owner == ""
    await applied(store, by(ANN, progress=3))
    async with opened(backend.make_store()) as other:
        assert (await get(other)).owner == "group:web"
        await refused(other, by(EVE, progress=4))
        await applied(other, by(BEN, progress=4))
    await refused(store, by(EVE, progress=5))


async def test_the_job_of_a_lost_worker_stays_its_owners(backend: JobBackend, store: JobStore) -> None:
    """A lease that ran out lets nobody else begin the next attempt."""
    await store.end_expired(3600.0, 0.0, ())
    await applied(store, by(ANN, lease_seconds=1))
    await backend.shift_leases(-10)
    await store.end_expired(3600.0, 0.0, ())
    job = await get(store)
    assert (job.status, job.owner) == (FAILED, "group:web")
    await refused(store, by(EVE, new_attempt=True))
    await applied(store, by(BEN, new_attempt=True))
