"""Leases, retention and cancellation in PostgreSQL where several processes are at it; see `test_job_leases` for one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.postgres import store, writer
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.store import Retention
from emitd_handlers.record import JobState
from support.jobs.backends import applied, get, history, opened, report
from support.processes.postgres import PostgresBackend

QUEUED, RUNNING, COMPLETED, FAILED = JobState
INTERVAL_SECONDS = 60.0


class Everything:
    """An interest in every job."""

    def __contains__(self, job_id: object) -> bool:
        return True


@pytest.fixture
async def first(postgres_dsn: str) -> AsyncIterator[PostgresJobStore]:
    """A store whose leases were looked at just now."""
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        assert isinstance(store, PostgresJobStore)
        await pass_over(store)
        yield store


async def pass_over(store: PostgresJobStore) -> list[str]:
    """Make a pass; return the ids of the jobs that it ended."""
    changes = await store.end_expired(INTERVAL_SECONDS, 0.0, Everything())
    return [change.job.job_id for change in changes]


async def wait_for_lock(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Return when somebody waits for a row that the connection's transaction has."""
    while not await connection.fetchval(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE NOT granted AND datname = current_database()"
    ):
        await asyncio.sleep(0.01)


async def test_each_lease_ends_once_however_many_replicas_look(
    first: PostgresJobStore, postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All passes together end all of them, each in its own change."""
    monkeypatch.setattr(writer, "MAX_EXPIRED", 50)
    ids = [f"j{number}" for number in range(300)]
    others = [PostgresJobStore(postgres.dsn) for _ in range(4)]
    try:
        await asyncio.gather(*[other.open() for other in others])
        await applied(first, *[report(job_id, lease_seconds=100) for job_id in ids])
        await postgres.shift_leases(-101)
        ended: Counter[str] = Counter()
        while len(ended) < len(ids):
            for found in await asyncio.gather(*[pass_over(other) for other in others]):
                assert len(found) <= 50
                ended.update(found)
        for found in await asyncio.gather(*[pass_over(other) for other in others]):
            assert found == []
    finally:
        await asyncio.gather(*[other.close() for other in others])
    assert ended == Counter(ids)
    assert await postgres.fetch("SELECT DISTINCT status, revision, failure_reason FROM job_logs") == [
        ("FAILED", 2, "LEASE_EXPIRED")
    ]
    assert await postgres.fetch("SELECT count(*) FROM job_transitions") == [(2 * len(ids),)]


async def test_a_pass_of_another_replica_is_not_waited_for(
    first: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """It does what there is to do."""
    await applied(first, report(lease_seconds=100))
    await postgres.shift_leases(-101)
    other = await asyncpg.connect(postgres.dsn)
    try:
        await other.execute("BEGIN")
        await other.execute("UPDATE job_lease_watch SET passed_at = now()")
        assert await pass_over(first) == []
        assert (await get(first)).status is RUNNING
    finally:
        await other.close()
    assert await pass_over(first) == ["j"]


async def test_a_report_that_is_just_being_committed_keeps_its_job(
    first: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """A job whose row is locked is left for the next pass, and so are no others."""
    await applied(first, report("a", lease_seconds=100), report("b", lease_seconds=100))
    await postgres.shift_leases(-101)
    other = await asyncpg.connect(postgres.dsn)
    try:
        await other.execute("BEGIN")
        await other.execute(
            "UPDATE job_logs SET lease_expires_at = now() + interval '1 h' WHERE job_id = 'a'"
        )
        assert await pass_over(first) == ["b"]
        await other.execute("COMMIT")
    finally:
        await other.close()
    assert await pass_over(first) == []
    assert (await get(first, "a")).status is RUNNING


async def test_leases_are_put_off_in_the_order_of_ids(
    first: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """So that a report which holds a later job, and wants an earlier one, does not wait for the pass in a circle."""
    await applied(first, report("a", lease_seconds=100), report("b", lease_seconds=100))
    await postgres.shift_last_pass(-10_000)
    ends = [(await get(first, job_id)).lease_expire_time_unix_nano for job_id in "ab"]
    other = await asyncpg.connect(postgres.dsn)
    try:
        await other.execute("BEGIN")
        await other.execute("SELECT * FROM job_logs WHERE job_id = 'a' FOR UPDATE")
        task = asyncio.create_task(pass_over(first))
        await wait_for_lock(other)
        await other.execute("SET LOCAL lock_timeout = '100ms'")
        await other.execute("SELECT * FROM job_logs WHERE job_id = 'b' FOR UPDATE")
        await other.execute("COMMIT")
        assert await task == []
    finally:
        await other.close()
    for job_id, end in zip("ab", ends, strict=True):
        assert (await get(first, job_id)).lease_expire_time_unix_nano > end


async def test_what_fails_after_a_pass_does_not_hide_what_it_has_done(
    first: PostgresJobStore, postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watchers are told of the jobs that it ended; the next call tells of the failure."""
    await applied(first, report(lease_seconds=100))
    await postgres.shift_leases(-101)
    monkeypatch.setattr(store, "PRUNE_SECONDS", 0.0)
    first._prune_at = 0.0

    async def fail(*_: object) -> bool:
        raise HandlerUnavailable("told to fail")

    monkeypatch.setattr(writer.PostgresJobs, "prune_commits", fail)
    assert await pass_over(first) == ["j"]


async def test_a_job_that_somebody_has_locked_is_not_removed(
    first: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """It may be about to start afresh. It is passed over, and not waited for."""
    await applied(first, *[report(job_id, COMPLETED) for job_id in "abc"])
    other = await asyncpg.connect(postgres.dsn)
    try:
        await other.execute("BEGIN")
        await other.execute("SELECT * FROM job_logs WHERE job_id = 'b' FOR UPDATE")
        assert sorted((await first.remove_ended(Retention(ended_seconds=0.0), 10)).job_ids) == ["a", "c"]
        assert (await first.remove_ended(Retention(ended_count=0), 10)).job_ids == []
        assert (await first.remove_ended(Retention(history_seconds=0.0), 10)).job_ids == []
        await other.execute("UPDATE job_logs SET ended_at = NULL WHERE job_id = 'b'")
        await other.execute("COMMIT")
    finally:
        await other.close()
    assert (await first.remove_ended(Retention(ended_seconds=0.0, ended_count=0), 10)).job_ids == []
    assert await history(first, "b") == [(1, "COMPLETED")]


async def test_a_job_that_ends_again_loses_the_new_history_too(
    first: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """What was removed before is not looked at again until the job has changed."""
    gone = Retention(history_seconds=0.0)
    await applied(first, report(), report(status=COMPLETED))
    await first.remove_ended(gone, 10)
    kept = await first.load_history("j", 0)
    assert kept is not None
    assert (kept.after_revision, kept.transitions) == (2, [])
    await applied(first, report(attempt=2), report(attempt=2, status=FAILED))
    assert await history(first) == [(3, "RUNNING"), (4, "FAILED")]
    await first.remove_ended(gone, 10)
    assert await history(first) == []
    assert await postgres.fetch("SELECT history_revision, has_history FROM job_logs") == [(4, False)]


async def test_an_age_beyond_all_times_removes_nothing(first: PostgresJobStore) -> None:
    """A number of days that no clock knows is as good as none."""
    await applied(first, report(status=COMPLETED))
    for seconds in (1e11, 1e18, 1e300):
        assert (
            await first.remove_ended(Retention(ended_seconds=seconds, history_seconds=seconds), 10)
        ).job_ids == []
    assert await history(first) == [(1, "COMPLETED")]


async def age_commits(postgres: PostgresBackend, minutes: int) -> None:
    await postgres.fetch(
        "UPDATE job_commits SET recorded_at = recorded_at - $1 * interval '1 minute'", float(minutes)
    )


async def test_old_commits_go_but_for_the_last_receipts(
    first: PostgresJobStore, postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row goes when it is old, and its receipts are not among the last that are to be kept."""
    monkeypatch.setattr(store, "PRUNE_SECONDS", 0.0)
    first._prune_at = 0.0
    await first.recent_commits(3)
    for number in range(1, 5):
        await applied(first, *[report(record_id=f"r{number}{one}") for one in "ab"])
        await applied(first, report())
    await pass_over(first)
    assert len(await postgres.fetch("SELECT FROM job_commits")) == 8
    await age_commits(postgres, 9)
    await pass_over(first)
    assert len(await postgres.fetch("SELECT FROM job_commits")) == 8
    await age_commits(postgres, 2)
    await pass_over(first)
    rows = await postgres.fetch("SELECT receipt_count FROM job_commits ORDER BY number")
    assert rows == [(2,), (2,)]
    assert [commit.record_id for commit in await first.recent_commits(3)] == ["r3b", "r4a", "r4b"]


async def test_many_old_commits_go_in_several_passes(
    first: PostgresJobStore, postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at once, so that no pass takes long; when all have gone, there is no hurry any more."""
    monkeypatch.setattr(writer, "MAX_PRUNED", 2)
    async with opened(PostgresJobStore(postgres.dsn)) as other:
        assert isinstance(other, PostgresJobStore)
        for _ in range(5):
            await applied(other, report())
        await age_commits(postgres, 11)
        counts = []
        for _ in range(4):
            await pass_over(other)
            counts.append(len(await postgres.fetch("SELECT FROM job_commits")))
        assert counts == [3, 1, 0, 0]
        await applied(other, report())
        await age_commits(postgres, 11)
        await pass_over(other)
        assert len(await postgres.fetch("SELECT FROM job_commits")) == 1


async def test_a_reason_to_cancel_is_kept_but_for_what_cannot_be_stored(first: PostgresJobStore) -> None:
    """And no job has an id that cannot be stored."""
    await applied(first, report())
    job, changes = await first.request_cancel("j", "no\0 more", {"j"})
    assert job is not None
    assert (job.cancel_requested, job.cancel_reason, job.revision) == (True, "no\ufffd more", 2)
    assert await get(first) == job
    assert [change.job for change in changes] == [job]
    assert await first.request_cancel("j\0", "", Everything()) == (None, ())


async def test_replicas_that_wish_the_same_at_once_change_the_job_once(
    first: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """The second finds that the wish stands already."""
    async with opened(PostgresJobStore(postgres.dsn)) as other:
        for number in range(10):
            job_id = f"j{number}"
            await applied(first, report(job_id))
            await asyncio.gather(
                first.request_cancel(job_id, "a", ()),
                other.request_cancel(job_id, "b", ()),
                applied(first, report(job_id, progress=1)),
            )
            job = await get(first, job_id)
            assert (job.cancel_requested, job.revision) == (True, 3)
