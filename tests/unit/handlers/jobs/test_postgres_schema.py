"""The tables of jobs in PostgreSQL: made, migrated, and nobody else's touched."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.postgres import schema
from emitd_handlers.jobs.postgres.schema import MIGRATIONS
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.outcome import JobReceipt, RecentCommit
from emitd_handlers.principal import Principal
from emitd_handlers.record import JobState
from emitd_handlers.scope import Caller
from support.jobs.backends import applied, get, history, opened, report
from support.processes.postgres import PostgresBackend

#: An ordinary table of a user, with an index and a row.
ORDERS = "CREATE TABLE orders (id integer PRIMARY KEY); INSERT INTO orders VALUES (7)"


async def tables(postgres: PostgresBackend) -> set[str]:
    """Return all tables but PostgreSQL's own, those of the schema `public` without its name."""
    rows = await postgres.fetch(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    return {f"{schema}.{table}".removeprefix("public.") for schema, table in rows}


async def open_and_close(store: PostgresJobStore) -> None:
    async with opened(store):
        pass


async def run_script(postgres: PostgresBackend, script: str) -> None:
    for statement in script.split(";"):
        await postgres.fetch(statement)


async def test_a_new_database_gets_the_newest_tables(postgres: PostgresBackend, postgres_dsn: str) -> None:
    """With their version; a second start changes nothing."""
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        await applied(store, report())
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        assert (await get(store)).revision == 1
    assert await tables(postgres) == {
        *("emitd_schema", "job_lease_watch", "job_logs", "job_commits", "job_transitions"),
    }
    assert await postgres.fetch("SELECT component, version FROM emitd_schema") == [("jobs", len(MIGRATIONS))]


async def test_a_schema_is_made_and_nothing_stands_outside_of_it(
    postgres: PostgresBackend, postgres_dsn: str
) -> None:
    """Also where it exists already."""
    for _ in range(2):
        async with opened(PostgresJobStore(postgres_dsn, schema="emitd")) as store:
            await store.apply([report()], ())
    found = await tables(postgres)
    assert len(found) == 5
    assert all(name.startswith("emitd.") for name in found)
    functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    assert await postgres.fetch(functions) == [(0,)]


async def test_without_a_schema_it_is_the_connections_own(
    postgres: PostgresBackend, postgres_dsn: str
) -> None:
    """Whatever its name: a role or a database can have another one than `public`."""
    await postgres.fetch('CREATE SCHEMA "My ""own"""')
    async with opened(PostgresJobStore(f'{postgres_dsn}&search_path="My%20""own"""')) as store:
        await applied(store, report(), report(status=JobState.COMPLETED))
        assert await history(store) == [(1, "RUNNING"), (2, "COMPLETED")]
    assert await postgres.fetch('SELECT count(*) FROM "My ""own""".job_logs') == [(1,)]


async def test_a_connection_without_a_schema_is_refused(postgres_dsn: str) -> None:
    """The error says which key names one."""
    with pytest.raises(HandlerUnavailable, match="no current schema: name one with the key `schema`"):
        await open_and_close(PostgresJobStore(f"{postgres_dsn}&search_path=none"))


async def test_two_tables_in_one_schema_know_nothing_of_each_other(
    postgres: PostgresBackend, postgres_dsn: str
) -> None:
    """Each has its own companions and its own version."""
    async with (
        opened(PostgresJobStore(postgres_dsn)) as first,
        opened(PostgresJobStore(postgres_dsn, table="runs")) as second,
    ):
        await applied(first, report(lease_seconds=1))
        await applied(second, report(progress=3), report(status=JobState.FAILED))
        assert (await get(first)).revision == 1
        assert (await get(second)).revision == 2
        await postgres.fetch("DELETE FROM runs")
        assert await second.get("j") is None
        assert await history(first) == [(1, "RUNNING")]
    assert {"runs", "runs_transitions", "runs_commits", "runs_lease_watch"} < await tables(postgres)
    assert sorted(await postgres.fetch("SELECT component, version FROM emitd_schema")) == [
        *(("jobs", len(MIGRATIONS)), ("jobs:runs", len(MIGRATIONS))),
    ]


async def test_the_users_own_tables_are_left_alone(postgres: PostgresBackend, postgres_dsn: str) -> None:
    """It may be the application's primary database."""
    await run_script(postgres, ORDERS)
    before = await postgres.fetch("SELECT oid, relfilenode, relname FROM pg_class WHERE relname ~ '^orders'")
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        await store.apply([report()], ())
    assert await postgres.fetch(
        "SELECT oid, relfilenode, relname FROM pg_class WHERE relname ~ '^orders'"
    ) == (before)
    assert await postgres.fetch("SELECT id FROM orders") == [(7,)]


@pytest.mark.parametrize("name", ["job_logs", "job_transitions", "job_commits", "job_lease_watch"])
async def test_a_table_of_somebody_else_is_not_taken_over(
    postgres: PostgresBackend, postgres_dsn: str, name: str
) -> None:
    """Nothing is made then, and the error says what to do."""
    await run_script(postgres, ORDERS.replace("orders", name))
    with pytest.raises(HandlerUnavailable, match="not emitd's: choose other names") as caught:
        await open_and_close(PostgresJobStore(postgres_dsn))
    assert name in str(caught.value)
    assert await tables(postgres) == {name}
    assert await postgres.fetch(f"SELECT id FROM {name}") == [(7,)]


async def test_a_name_whose_companions_are_those_of_another_table_is_refused(postgres_dsn: str) -> None:
    """`job` would share `job_transitions` with `job_logs`."""
    await open_and_close(PostgresJobStore(postgres_dsn))
    with pytest.raises(HandlerUnavailable, match="choose other names"):
        await open_and_close(PostgresJobStore(postgres_dsn, table="job"))


async def test_a_newer_version_is_refused(postgres: PostgresBackend, postgres_dsn: str) -> None:
    """Its tables may mean something else."""
    await open_and_close(PostgresJobStore(postgres_dsn))
    await postgres.fetch("UPDATE emitd_schema SET version = 99")
    with pytest.raises(HandlerUnavailable, match=r"have version 99, .* use a newer emitd"):
        await open_and_close(PostgresJobStore(postgres_dsn))
    assert await postgres.fetch("SELECT version FROM emitd_schema") == [(99,)]


async def test_an_older_version_is_migrated_step_by_step(
    postgres: PostgresBackend, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the steps that are missing are taken, in order."""
    await open_and_close(PostgresJobStore(postgres_dsn))
    steps = (
        *MIGRATIONS,
        ("ALTER TABLE {jobs} ADD COLUMN a int",),
        ("ALTER TABLE {jobs} RENAME COLUMN a TO b",),
    )
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    for _ in range(2):
        await open_and_close(PostgresJobStore(postgres_dsn))
    assert await postgres.fetch("SELECT b FROM job_logs") == []
    assert await postgres.fetch("SELECT version FROM emitd_schema") == [(len(MIGRATIONS) + 2,)]


async def test_jobs_of_the_version_before_owners_are_kept(
    postgres: PostgresBackend, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have none; the next that reports takes the job."""
    assert "owner" in "".join(MIGRATIONS[-1])
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:-1])
        await open_and_close(PostgresJobStore(postgres_dsn))
    await postgres.fetch(
        "INSERT INTO job_logs (job_id, job_type, status, progress, message, labels, source, attempt, revision, "
        "created_at, updated_at, event_time_unix_nano, lease_seconds) "
        "VALUES ('j', 't', 'RUNNING', 40, 'm', '{}', 's', 1, 3, now(), now(), 5, 0)"
    )
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        assert ((await get(store)).owner, (await get(store)).progress) == ("", 40)
        await applied(store, replace(report(progress=41), sender=Caller(Principal("ann", "token"))))
        assert ((await get(store)).owner, (await get(store)).revision) == ("ann", 4)


async def test_what_an_earlier_version_knew_of_retries_is_kept(
    postgres: PostgresBackend, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts and openings have no source: the receipt says so, and the opening is known whatever the source."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:1])
        await open_and_close(PostgresJobStore(postgres_dsn))
    stored = msgspec.msgpack.encode([("r1", 2**32 - 1, "j", 2, 1, "")])
    await postgres.fetch(
        "INSERT INTO job_commits (recorded_at, job_ids, receipts, receipt_count) "
        f"VALUES (now(), '{{}}', '\\x{stored.hex()}', 1)"
    )
    row = "'j', {}, {}, 'RUNNING', 0, 1, false, 'r1'"
    columns = "job_id, revision, attempt, status, progress, time_unix_nano, progress_only, opened_by"
    await postgres.fetch(f"INSERT INTO job_transitions ({columns}) VALUES ({row.format(7, 1)})")
    openings = [report(new_attempt=True, record_id="r1"), report(new_attempt=True, record_id="r2")]
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        (commit,) = await store.recent_commits(10)
        assert commit == RecentCommit("r1", "", 2**32 - 1, JobReceipt("j", 2, 1, True), None)
        await applied(store, report())  # the job itself
        assert [item.revision for item in await applied(store, *openings)] == [7, 2]
        await postgres.fetch(
            f"INSERT INTO job_transitions ({columns}, opened_by_source) VALUES ({row.format(9, 3)}, 'worker')"
        )
        assert [item.revision for item in await applied(store, openings[0])] == [9]


async def test_a_step_that_fails_leaves_everything_as_it_was(
    postgres: PostgresBackend, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration is one transaction."""
    steps = (*MIGRATIONS, ("ALTER TABLE {jobs} ADD COLUMN a int",), ("nonsense",))
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    with pytest.raises(HandlerUnavailable, match="syntax error"):
        await open_and_close(PostgresJobStore(postgres_dsn))
    assert await tables(postgres) == set()


async def test_replicas_that_start_at_once_make_the_tables_once(
    postgres: PostgresBackend, postgres_dsn: str
) -> None:
    """Whether they share a table or only the schema."""
    stores = [
        PostgresJobStore(postgres_dsn, schema="emitd", table=table)
        for _ in range(6)
        for table in ("job_logs", "runs")
    ]
    try:
        await asyncio.gather(*[store.open() for store in stores])
        outcomes: list[Any] = await asyncio.gather(*[applied(store, report()) for store in stores])
        assert sorted([receipt.revision for (receipt,) in outcomes]) == sorted([*range(1, 7)] * 2)
    finally:
        await asyncio.gather(*[store.close() for store in stores])
    assert await postgres.fetch("SELECT count(*) FROM emitd.emitd_schema") == [(2,)]


async def test_a_role_that_may_make_nothing_can_use_tables_that_are_there(
    postgres: PostgresBackend, postgres_dsn: str
) -> None:
    """And is told what it lacks where they are not."""
    as_role = postgres_dsn.replace("postgres@", "worker@")
    await postgres.fetch("CREATE ROLE worker LOGIN")
    try:
        with pytest.raises(HandlerUnavailable, match=r"permission denied.*let the user make tables"):
            await open_and_close(PostgresJobStore(as_role))
        await open_and_close(PostgresJobStore(postgres_dsn))
        await postgres.fetch("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker")
        async with opened(PostgresJobStore(as_role)) as store:
            await applied(store, report())
            assert (await get(store)).revision == 1
    finally:
        await postgres.fetch("DROP OWNED BY worker")
        await postgres.fetch("DROP ROLE worker")


@pytest.mark.parametrize(
    ("statement", "kept"),
    [("DELETE FROM job_logs WHERE job_id = 'j'", 1), ("DELETE FROM job_logs", 0), ("TRUNCATE job_logs", 0)],
)
async def test_a_job_takes_its_history_with_it(
    postgres: PostgresBackend, postgres_dsn: str, statement: str, kept: int
) -> None:
    """Whoever removes it: a later job under its id does not meet the old one's history. Others keep theirs."""
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        await applied(store, report(), report(status=JobState.COMPLETED), report("other"))
        await postgres.fetch(statement)
        assert await postgres.fetch("SELECT count(*) FROM job_transitions") == [(kept,)]
        await applied(store, report(status=JobState.QUEUED))
        assert await history(store) == [(1, "QUEUED")]


async def test_ids_are_compared_by_the_numbers_of_their_characters(
    postgres: PostgresBackend, postgres_dsn: str
) -> None:
    """Whatever the database's locale: rows are locked, and pages go, in the order that Python has."""
    await open_and_close(PostgresJobStore(postgres_dsn))
    columns = """
        SELECT count(*) FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
        WHERE attname = 'job_id' AND attcollation = '"C"'::regcollation AND relname IN ('job_logs', 'job_transitions')
    """
    assert await postgres.fetch(columns) == [(2,)]


@pytest.mark.parametrize(("lease_seconds", "least"), [(None, 540), (100, 360)])
async def test_progress_touches_no_index(
    postgres: PostgresBackend, postgres_dsn: str, lease_seconds: int | None, least: int
) -> None:
    """The new row mostly goes into the same page. Every ten seconds a report moves the job in the index of leases."""
    ids = [f"j{number}" for number in range(200)]
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        await applied(store, *[report(job_id, lease_seconds=lease_seconds) for job_id in ids])
        for progress in range(1, 4):
            await applied(store, *[report(job_id, progress=progress) for job_id in ids])
    async with asyncio.timeout(20):
        statistics = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'job_logs'"
        while (counts := (await postgres.fetch(statistics))[0])["n_tup_upd"] < 600:
            await asyncio.sleep(0.05)
    assert counts["n_tup_upd"] == 600
    assert counts["n_tup_hot_upd"] >= least
