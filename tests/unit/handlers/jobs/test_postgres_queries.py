"""Questions about jobs in PostgreSQL that only several replicas ask, and what only PostgreSQL makes of the others."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from emitd_handlers.jobs.postgres import queries
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.source import JobPage, JobQuery, TransitionQuery
from emitd_handlers.jobs.store import Retention
from emitd_handlers.record import JobState
from support.jobs.backends import applied, get, opened, report
from support.processes.postgres import PostgresBackend

QUEUED, RUNNING, COMPLETED, FAILED = JobState
NOTHING = JobPage((), "")


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresJobStore]:
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        assert isinstance(store, PostgresJobStore)
        yield store


async def changed(store: PostgresJobStore, mark: int) -> tuple[int, list[str]]:
    """Return a new mark, and what has changed since one, in the order of ids."""
    new_mark, job_ids = await store.changes_since(mark)
    return new_mark, sorted(job_ids)


async def start_mark(store: PostgresJobStore) -> int:
    mark, job_ids = await store.changes_since(None)
    assert list(job_ids) == []
    return mark


async def test_changes_are_told_from_a_mark_on(store: PostgresJobStore) -> None:
    """Those before it, and what changed nothing, are not; a job that changed twice is told once."""
    await applied(store, report("a"))
    mark = await start_mark(store)
    assert await changed(store, mark) == (mark, [])
    await applied(store, report("b"), report("c"))
    await applied(store, report("b", progress=1))
    await store.apply([report("a", QUEUED, record_id="stale")], ())
    later, job_ids = await changed(store, mark)
    assert job_ids == ["b", "c"]
    assert (await changed(store, later))[1] == []
    assert (await changed(store, mark))[1] == ["b", "c"]


async def test_whatever_changes_a_job_is_told(store: PostgresJobStore, postgres: PostgresBackend) -> None:
    """Leases that end, wishes to cancel, and removals as much as reports."""
    await store.end_expired(60.0, 0.0, ())
    await applied(store, report("a", lease_seconds=100), report("b"), report("c", COMPLETED))
    mark = await start_mark(store)
    await postgres.shift_leases(-101)
    await store.end_expired(60.0, 0.0, ())
    mark, job_ids = await changed(store, mark)
    assert job_ids == ["a"]
    await store.request_cancel("b", "", ())
    mark, job_ids = await changed(store, mark)
    assert job_ids == ["b"]
    await store.request_cancel("b", "", ())
    mark, job_ids = await changed(store, mark)
    assert job_ids == []
    await store.remove_ended(Retention(ended_seconds=0.0), 10)
    assert (await changed(store, mark))[1] == ["a", "c"]


async def begin(postgres: PostgresBackend, job_id: str) -> "asyncpg.Connection[asyncpg.Record]":
    """Begin a transaction that has changed a job, and leave it open."""
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute("BEGIN")
    await connection.execute(
        "INSERT INTO job_commits (job_ids, receipt_count) VALUES ($1::text[], 0)", [job_id]
    )
    return connection


async def test_transactions_that_commit_in_another_order_than_they_began_are_told(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """Each once, however long it takes; one that never commits is not."""
    slow, slower, undone = [await begin(postgres, job_id) for job_id in ("slow", "slower", "undone")]
    try:
        mark = await start_mark(store)
        await applied(store, report("quick"))
        mark, job_ids = await changed(store, mark)
        assert job_ids == ["quick"]
        assert (await changed(store, mark))[1] == []
        await slow.execute("COMMIT")
        await undone.execute("ROLLBACK")
        mark, job_ids = await changed(store, mark)
        assert job_ids == ["slow"]
        await applied(store, report("quick", progress=1))
        await slower.execute("COMMIT")
        mark, job_ids = await changed(store, mark)
        assert job_ids == ["quick", "slower"]
        assert (await changed(store, mark))[1] == []
    finally:
        for connection in (slow, slower, undone):
            await connection.close()


async def test_no_change_is_missed_while_many_write(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """Whoever asks again and again has heard of each job in the end."""
    mark = await start_mark(store)
    others = [PostgresJobStore(postgres.dsn) for _ in range(3)]

    async def write(number: int, other: PostgresJobStore) -> None:
        for batch in range(40):
            await applied(other, *[report(f"{number}-{batch}-{one}") for one in range(3)])

    heard: list[str] = []
    try:
        await asyncio.gather(*[other.open() for other in others])
        writing = asyncio.gather(*[write(number, other) for number, other in enumerate(others)])
        while not writing.done():
            mark, job_ids = await changed(store, mark)
            heard += job_ids
        await writing
        heard += (await changed(store, mark))[1]
    finally:
        await asyncio.gather(*[other.close() for other in others])
    assert len(heard) == len(set(heard)) == 3 * 40 * 3


async def test_a_mark_of_another_database_tells_everything(store: PostgresJobStore) -> None:
    """The database was restored into another server, which counts transactions from anew."""
    await applied(store, report("a"))
    mark = int.from_bytes(b"900000000000:900000000000:")
    later, job_ids = await changed(store, mark)
    assert job_ids == ["a"]
    assert (await changed(store, later))[1] == []


async def test_revisions_and_jobs_are_told_of_those_that_exist(store: PostgresJobStore) -> None:
    """What cannot be an id is none of them."""
    await applied(store, report("a"), report("b"), report("b", progress=1))
    ids = ["b", "unknown", "a", "a\0", "\ud800"]
    assert await store.revisions(ids) == {"a": 1, "b": 2}
    assert {job.job_id: job.revision for job in await store.load_many(ids)} == {"a": 1, "b": 2}
    assert list(await store.load_many([])) == []


@pytest.mark.parametrize("text", ["\0", "a\0", "\ud800"], ids=repr)
async def test_what_cannot_be_stored_is_not_found(store: PostgresJobStore, text: str) -> None:
    """A question about it fails nothing."""
    await applied(store, report("a", labels={"k": "v"}))
    assert await store.get(text) is None
    assert await store.load_history(text, 0) is None
    assert await store.list_transitions(TransitionQuery(job_id=text)) is None
    for query in (
        JobQuery(job_type=text),
        JobQuery(job_ids=(text,)),
        JobQuery(labels={text: "v"}),
        JobQuery(labels={"k": text}),
    ):
        assert await store.list(query) == NOTHING
    assert len((await store.list(JobQuery(job_ids=(text, "a")))).jobs) == 1


@pytest.mark.parametrize("after_revision", [2**63 - 1, 2**63, 2**64 - 1])
async def test_a_revision_beyond_all_is_answered_with_the_state(
    store: PostgresJobStore, after_revision: int
) -> None:
    """Also one that the column has no room for."""
    await applied(store, report())
    loaded = await store.load_history("j", after_revision)
    assert loaded is not None
    assert (loaded.job.revision, list(loaded.transitions), loaded.after_revision) == (1, [], 1)


async def test_a_history_is_of_one_moment(store: PostgresJobStore, postgres: PostgresBackend) -> None:
    """However fast the job changes, the transitions that are told are those up to its revision."""
    await applied(store, report(status=QUEUED))

    async def change() -> None:
        async with opened(PostgresJobStore(postgres.dsn)) as other:
            for attempt in range(2, 80):
                await applied(other, report(attempt=attempt), report(attempt=attempt, progress=1))

    changing = asyncio.create_task(change())
    while not changing.done():
        loaded = await store.load_history("j", 0)
        assert loaded is not None
        last = loaded.transitions[-1]
        assert (last.attempt, len(loaded.transitions)) == (loaded.job.attempt, loaded.job.attempt)
        assert last.revision <= loaded.job.revision <= last.revision + 1
    await changing


async def test_ids_of_any_script_stand_in_one_order(store: PostgresJobStore) -> None:
    """That of their characters' numbers, whatever the database's locale: pages go by it."""
    ids = ["Z", "a", "ä", "é", "\uffff", "\U0001f600", "_", "1"]
    record = report("x")
    batch = [report(job_id) for job_id in ids]
    await applied(store, record, *batch)
    listed: list[str] = []
    token = ""
    while True:
        page = await store.list(JobQuery(page_size=2, page_token=token))
        listed += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert sorted(listed) == sorted([*ids, "x"])
    times = {job.job_id: job.create_time_unix_nano for job in await store.load_many(listed)}
    assert listed == sorted(listed, key=lambda job_id: (times[job_id], job_id), reverse=True)


async def test_recent_commits_are_read_in_parts(
    store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are asked for, the oldest first, of whichever transaction."""
    monkeypatch.setattr(queries, "COMMITS_PAGE_SIZE", 2)
    async with opened(make_again(store)) as again:
        for number in range(5):
            await applied(store, *[report(record_id=f"r{number}{one}") for one in "ab"])
            await applied(store, report())
        every = [f"r{number}{one}" for number in range(5) for one in "ab"]

        async def recent(limit: int) -> Sequence[str]:
            return [commit.record_id for commit in await again.recent_commits(limit)]

        assert await recent(100) == every
        assert await recent(10) == every
        assert await recent(5) == every[-5:]
        assert await recent(1) == every[-1:]
        assert await recent(0) == []


def make_again(store: PostgresJobStore) -> PostgresJobStore:
    """Return another store over the same database."""
    return PostgresJobStore(store._database._arguments["dsn"])


async def test_a_job_of_every_time_is_listed_by_its_update(store: PostgresJobStore) -> None:
    """Only later ones than the time that is asked for."""
    await applied(store, report("a"))
    await applied(store, report("b"))
    earlier = (await get(store, "a")).update_time_unix_nano
    page = await store.list(JobQuery(updated_after_unix_nano=earlier))
    assert [job.job_id for job in page.jobs] == ["b"]
    page = await store.list(JobQuery(updated_after_unix_nano=earlier - 1000))
    assert [job.job_id for job in page.jobs] == ["b", "a"]
