"""Batches of reports in transactions of PostgreSQL."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.jobs.merge import merge
from emitd_handlers.jobs.postgres.database import CommitLost, Database, StartAgain
from emitd_handlers.jobs.postgres.rows import MAX_KEY_BYTES
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.store import JobStore
from emitd_handlers.jobs.transaction import Rules
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import JobState, JobStatus, LogRecord
from support.jobs.backends import applied, get, history, opened, receipt, report
from support.processes.postgres import PostgresBackend

QUEUED, RUNNING, COMPLETED, FAILED = JobState
SECOND = 1_000_000_000
MICROSECOND = 1000


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresJobStore]:
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        assert isinstance(store, PostgresJobStore)
        yield store


def is_refused(outcome: Outcome, field: str) -> bool:
    """Return whether the record is at fault, in that field."""
    return (
        isinstance(outcome, Refused)
        and isinstance(outcome.error, RecordInvalid)
        and outcome.error.field == field
    )


def incompressible(length: int) -> str:
    return "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))


async def test_a_row_holds_the_whole_job(postgres_dsn: str) -> None:
    """What was written is read back, after an insert, a tick and an update alike."""
    async with opened(PostgresJobStore(postgres_dsn, rules=Rules(max_attempt_jump=2**32))) as store:
        await the_whole_job_is_kept(store)


async def the_whole_job_is_kept(store: JobStore) -> None:
    await applied(
        store,
        report(
            details_json='{"a":1}',
            labels={"team": "ä", "": "x", "y": ""},
            message="m\n\x01\U0001f600",
            lease_seconds=2**32 - 1,
            progress=5,
            attempt=2**32 - 1,
        ),
    )
    job = await get(store)
    assert (job.details_json, job.message) == ('{"a":1}', "m\n\x01\U0001f600")
    assert job.labels == {"team": "ä", "": "x", "y": ""}
    assert (job.progress, job.attempt, job.source, job.revision) == (5, 2**32 - 1, "worker", 1)
    assert job.lease_expire_time_unix_nano == job.update_time_unix_nano + (2**32 - 1) * SECOND
    await applied(store, report(progress=6, message="tick", attempt=2**32 - 1))
    tick = await get(store)
    assert (tick.progress, tick.message, tick.lease_seconds) == (6, "tick", job.lease_seconds)
    assert tick.update_time_unix_nano > job.update_time_unix_nano
    await applied(store, report(status=FAILED, failure_reason="OOM", failure_message="x", attempt=2**32 - 1))
    job = await get(store)
    assert (job.status, job.failure_reason, job.failure_message) == (FAILED, "OOM", "x")
    assert (job.lease_expire_time_unix_nano, job.progress, job.revision) == (0, 6, 3)
    assert job.end_time_unix_nano == job.update_time_unix_nano


@pytest.mark.parametrize(
    "change",
    [
        {"progress": 50},
        {"message": "other"},
        {"details_json": '{"b":2}'},
        {"labels": {"other": ""}},
        {"lease_seconds": 9},
        {"lease_seconds": 0},
        {"status": COMPLETED},
        {"status": FAILED, "failure_reason": "r", "failure_message": "m"},
        {"attempt": 2},
        {"new_attempt": True, "record_id": "r"},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("first_status", [QUEUED, RUNNING])
async def test_every_change_is_written(
    store: PostgresJobStore, change: dict[str, Any], first_status: JobState
) -> None:
    """Whatever a report changes is in the row afterwards, and nothing else."""
    first = report(status=first_status, details_json='{"a":1}', labels={"k": "v"}, lease_seconds=30)
    second = replace(report(**change), source="other" if "message" in change else "worker")
    await applied(store, first)
    before = await get(store)
    (answer,) = await applied(store, second)
    after = await get(store)
    assert merge(None, first, before.update_time_unix_nano).job == before
    assert merge(before, second, after.update_time_unix_nano).job == after
    assert (answer.revision, answer.applied) == (2, True)


async def test_several_reports_of_a_job_in_one_batch_count_one_by_one(store: PostgresJobStore) -> None:
    """Each has its receipt, each change of status its place in the history."""
    batch = [
        report("a", QUEUED),
        report("b", RUNNING),
        report("a", RUNNING, progress=1),
        report("a", RUNNING, progress=2),
        report("a", COMPLETED),
        report("a", COMPLETED),
        report("b", RUNNING, progress=7),
    ]
    receipts = await applied(store, *batch)
    assert [(one.job_id, one.revision, one.stale_reason) for one in receipts] == [
        ("a", 1, ""),
        ("b", 1, ""),
        ("a", 2, ""),
        ("a", 3, ""),
        ("a", 4, ""),
        ("a", 4, "ATTEMPT_ENDED"),
        ("b", 2, ""),
    ]
    assert await history(store, "a") == [(1, "QUEUED"), (2, "RUNNING"), (4, "COMPLETED")]
    assert (await get(store, "b")).progress == 7


async def test_what_changes_nothing_writes_nothing(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """Stale and refused reports leave no row, but for what a copy is known by."""
    await applied(store, report(status=COMPLETED))
    commits = "SELECT number, job_ids, receipt_count FROM job_commits"
    assert await postgres.fetch(commits) == [(1, ["j"], 0)]
    await store.apply([report(), report(progress=101)], ())
    assert await postgres.fetch(commits) == [(1, ["j"], 0)]
    await store.apply([report(record_id="r")], ())
    assert await postgres.fetch(commits) == [(1, ["j"], 0), (2, [], 1)]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("job.job_id", {"job_id": "a\0b"}),
        ("job.labels", {"labels": {"a\0": ""}}),
        ("job.labels", {"labels": {"a": "\0"}}),
        ("job.failure_reason", {"status": FAILED, "failure_reason": "\0"}),
        ("job.details_json", {"details_json": '{"a":"\0"}'}),
        ("record_id", {"record_id": "\0", "new_attempt": True}),
        ("record_id", {"record_id": "\ud800"}),
        ("job.labels", {"labels": {"a": "\udfff"}}),
        ("job.job_id", {"job_id": incompressible(8000)}),
    ],
    ids=repr,
)
async def test_what_cannot_be_stored_is_refused_alone(
    store: PostgresJobStore, field: str, fields: dict[str, Any]
) -> None:
    """The error names the field; the others of the batch are committed."""
    batch = [report("good"), report(**({"job_id": "bad"} | fields)), report("good", progress=1)]
    first, second, third = (await store.apply(batch, ())).outcomes
    assert is_refused(second, field)
    assert (receipt(first).revision, receipt(third).revision) == (1, 2)
    assert await store.get("bad") is None
    assert (await get(store, "good")).progress == 1


@pytest.mark.parametrize("field", ["source", "job_type"])
async def test_a_name_that_cannot_be_stored_is_refused(store: PostgresJobStore, field: str) -> None:
    """Whoever compares it would compare another one."""
    bad = report("bad")
    assert isinstance(bad.payload, JobStatus)
    if field == "source":
        bad = replace(bad, source="a\0")
    else:
        bad = replace(bad, payload=replace(bad.payload, job_type="a\0"))
    first, second = (await store.apply([bad, report("good")], ())).outcomes
    assert is_refused(first, field if field == "source" else "job.job_type")
    assert receipt(second).revision == 1


async def test_a_text_for_people_is_kept_but_for_what_cannot_be_stored(store: PostgresJobStore) -> None:
    """The end of a job is not lost for one character of a program's output; watchers are told what is stored."""
    end = report(status=FAILED, message="a\0b\ud800", failure_message="\0core\0")
    result = await store.apply([report(), end], {"j"})
    assert [type(outcome) for outcome in result.outcomes] == [Committed, Committed]
    job = await get(store)
    assert (job.status, job.message, job.failure_message) == (FAILED, "a\ufffdb\ufffd", "\ufffdcore\ufffd")
    assert [change.job for change in result.changes] == [job]
    assert result.changes[0].transitions[-1].failure_message == "\ufffdcore\ufffd"


async def test_the_longest_id_that_is_promised_is_taken(store: PostgresJobStore) -> None:
    """Whatever its characters."""
    job_id = incompressible(MAX_KEY_BYTES)
    await applied(store, report(job_id), report(job_id, status=COMPLETED))
    assert (await get(store, job_id)).revision == 2


async def test_details_are_kept_character_by_character(store: PostgresJobStore) -> None:
    """Also numbers that no other type would keep, and spaces."""
    details = '{ "b" : 1.10, "a":12345678901234567890123.0e+400, "b":"\\u0000" }'
    await applied(store, report(details_json=details))
    assert (await get(store)).details_json == details


@pytest.mark.parametrize("time_unix_nano", [0, 2**63 - 1, 2**63, 2**64 - 1])
async def test_the_time_of_a_transition_is_any_64_bits(store: PostgresJobStore, time_unix_nano: int) -> None:
    """As the sender has it; the column is signed."""
    result = await store.apply([replace(report(), time_unix_nano=time_unix_nano)], {"j"})
    loaded = await store.load_history("j", 0)
    assert loaded is not None
    assert [item.time_unix_nano for item in loaded.transitions] == [time_unix_nano]
    assert result.changes == [loaded]


async def test_a_batch_that_is_too_large_for_one_statement_is_written_in_several(
    store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch, postgres: PostgresBackend
) -> None:
    """And is one transaction all the same."""
    monkeypatch.setattr("emitd_handlers.jobs.postgres.rows.MAX_STATEMENT_BYTES", 600)
    ids = [f"j{number}" for number in range(20)]
    await applied(store, *[report(job_id, record_id=job_id) for job_id in ids])
    await applied(store, *[report(job_id, progress=1) for job_id in ids[:10]])
    mixed = [report(job_id, COMPLETED) for job_id in ids] + [report(f"n{number}") for number in range(20)]
    await applied(store, *mixed, report("huge", message="m" * 1000))
    assert [(await get(store, job_id)).revision for job_id in ids] == [3] * 10 + [2] * 10
    assert len(await store.load_many([f"n{number}" for number in range(20)])) == 20
    rows = await postgres.fetch("SELECT cardinality(job_ids), receipt_count FROM job_commits ORDER BY number")
    assert rows == [(20, 20), (10, 0), (41, 0)]
    assert len(await store.recent_commits(100)) == 20


async def test_every_commit_is_on_the_medium_whatever_the_default(
    postgres_dsn: str, postgres: PostgresBackend
) -> None:
    """Neither a database, a role nor a connection that does not wait for the medium can change it."""
    name = (await postgres.fetch("SELECT current_database()"))[0][0]
    await postgres.fetch(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await postgres.fetch("CREATE TABLE seen (setting text, application text, isolation text)")
    async with opened(
        PostgresJobStore(f"{postgres_dsn}&default_transaction_isolation=serializable")
    ) as store:
        await postgres.fetch("""
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO seen VALUES (
                    current_setting('synchronous_commit'), current_setting('application_name'),
                    current_setting('transaction_isolation')
                );
                RETURN NULL;
            END $$
        """)
        await postgres.fetch("CREATE TRIGGER note AFTER INSERT ON job_commits EXECUTE FUNCTION note()")
        await applied(store, report())
        await store.request_cancel("j", "", ())
    assert await postgres.fetch("SHOW synchronous_commit") == [("off",)]
    assert await postgres.fetch("SELECT * FROM seen") == [("on", "emitd", "read committed")] * 2


async def deadlocks(postgres: PostgresBackend) -> int:
    """Return how many transactions in the database PostgreSQL has ended because they waited for each other."""
    rows = await postgres.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    count: int = rows[0][0]
    return count


async def test_jobs_that_somebody_else_makes_at_the_same_time_are_merged_with(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """Whatever the order of the reports; the transaction that finds them there begins again."""
    async with opened(PostgresJobStore(postgres.dsn)) as other:
        for number in range(30):
            ids = [f"{number}-{one}" for one in range(60)]
            await asyncio.gather(
                applied(store, *[report(job_id) for job_id in ids]),
                applied(other, *[report(job_id, progress=1) for job_id in reversed(ids)]),
            )
            assert all(job.revision in (1, 2) for job in await store.load_many(ids))
            assert await history(store, ids[0]) == [(1, "RUNNING")]
    assert await deadlocks(postgres) == 0


@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
async def test_a_job_that_is_just_being_made_is_waited_for(
    store: PostgresJobStore, postgres_dsn: str, ends: str
) -> None:
    """Whether it comes or not."""
    other = await asyncpg.connect(postgres_dsn)
    try:
        await other.execute("BEGIN")
        await other.execute(
            "INSERT INTO job_logs (job_id, job_type, status, progress, message, labels, source, attempt, revision, "
            "created_at, updated_at, event_time_unix_nano, lease_seconds) "
            "VALUES ('j', 't', 'QUEUED', 0, '', '{}', '', 1, 1, now(), now(), 0, 0)"
        )
        task = asyncio.create_task(applied(store, report("a"), report("j"), report("z")))
        while not await other.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)
        await other.execute(ends)
        receipts = await task
    finally:
        await other.close()
    assert [one.revision for one in receipts] == [1, 2 if ends == "COMMIT" else 1, 1]


async def test_who_others_get_in_the_way_of_begins_again_but_not_for_ever(postgres_dsn: str) -> None:
    """Whether the database or the transaction itself finds it out; what it has done is undone each time."""
    database = Database(postgres_dsn, pool_size=1)
    await database.open()
    try:
        await database.migrate(lambda connection: connection.execute("CREATE TABLE t (a int)"))
        troubles: list[Exception] = [StartAgain(), asyncpg.DeadlockDetectedError(), StartAgain()]

        async def work(connection: Any) -> int:
            await connection.execute("INSERT INTO t VALUES (1)")
            if troubles:
                raise troubles.pop()
            return 7

        assert await database.transact(work) == 7
        assert await database.fetch("SELECT count(*) FROM t") == [(1,)]
        troubles = [StartAgain() for _ in range(1000)]
        with pytest.raises(asyncpg.SerializationError, match="all the time"):
            await database.transact(work)
        assert len(troubles) == 990
        assert await database.fetch("SELECT count(*) FROM t") == [(1,)]
    finally:
        await database.close()


async def test_a_transaction_that_has_failed_unnoticed_is_not_taken_for_committed(postgres_dsn: str) -> None:
    """PostgreSQL answers the wish to commit it without an error."""
    database = Database(postgres_dsn, pool_size=1)
    await database.open()

    async def work(connection: Any) -> None:
        with suppress(asyncpg.PostgresError):
            await connection.execute("nonsense")

    try:
        with pytest.raises(CommitLost):
            await database.transact(work)
        assert await database.fetch("SELECT 1") == [(1,)]
    finally:
        await database.close()


async def test_a_row_that_somebody_keeps_locked_fails_the_batch_in_time(
    store: PostgresJobStore, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is changed then; the next batch works once the row is free."""
    begin = "BEGIN; SET LOCAL statement_timeout = '100ms'"
    monkeypatch.setattr("emitd_handlers.jobs.postgres.database._BEGIN", begin)
    await applied(store, report("a"), report("b"))
    other = await asyncpg.connect(postgres_dsn)
    try:
        await other.execute("BEGIN")
        await other.execute("SELECT * FROM job_logs WHERE job_id = 'b' FOR UPDATE")
        with pytest.raises(HandlerUnavailable, match="canceling statement due to statement timeout"):
            await store.apply([report("a", progress=1), report("b", progress=1)], ())
        assert (await get(store, "a")).progress == 0
    finally:
        await other.close()
    await applied(store, report("a", progress=1), report("b", progress=1))
    assert [(await get(store, job_id)).revision for job_id in "ab"] == [2, 2]


async def test_a_table_of_the_users_may_refer_to_jobs_that_are_reported(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """A reference needs no more than that the job stays, and waits for no report."""
    await applied(store, report())
    await postgres.fetch("CREATE TABLE runs (job_id text REFERENCES job_logs)")
    lock = "SELECT * FROM job_logs FOR NO KEY UPDATE"
    other = await asyncpg.connect(postgres.dsn)
    try:
        await other.execute("BEGIN")
        await other.execute("INSERT INTO runs VALUES ('j')")
        await applied(store, report(progress=1))
        assert len(await postgres.fetch(lock)) == 1
        await other.execute("COMMIT")
    finally:
        await other.close()


async def test_writers_with_overlapping_jobs_do_not_deadlock_and_lose_nothing(
    postgres_dsn: str, postgres: PostgresBackend
) -> None:
    """What stands in the end is the merge of all that was acknowledged as applied, in the order of revisions."""
    rng = random.Random(20261127)
    reported: dict[str, list[tuple[int, LogRecord]]] = {}

    async def write(batches: int) -> None:
        async with opened(PostgresJobStore(postgres_dsn, rules=Rules(keep_progress=True))) as store:
            for number in range(batches):
                # Old jobs and, as time goes by, new ones.
                ids = [
                    f"j{rng.randrange(number // 2, number // 2 + 12)}" for _ in range(rng.randrange(1, 16))
                ]
                batch = [
                    report(
                        job_id,
                        rng.choice([QUEUED, RUNNING, RUNNING, RUNNING, COMPLETED, FAILED]),
                        progress=rng.choice([None, rng.randrange(100)]),
                        attempt=rng.choice([1, 1, 1, 2]),
                        message=f"{number}",
                    )
                    for job_id in ids
                ]
                for record, answer in zip(batch, await applied(store, *batch), strict=True):
                    if answer.applied:
                        reported.setdefault(answer.job_id, []).append((answer.revision, record))

    await asyncio.gather(*[write(200) for _ in range(5)])
    assert await deadlocks(postgres) == 0
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        for job_id, reports in reported.items():
            reports.sort(key=lambda item: item[0])
            job = await get(store, job_id)
            assert [revision for revision, _ in reports] == list(range(1, job.revision + 1))
            assert [revision for revision, _ in await history(store, job_id)] == list(
                range(1, job.revision + 1)
            )
            expected = None
            for _, record in reports:
                expected = merge(expected, record, job.update_time_unix_nano).job
            assert expected is not None
            assert (expected.status, expected.progress, expected.message, expected.attempt) == (
                job.status,
                job.progress,
                job.message,
                job.attempt,
            )
