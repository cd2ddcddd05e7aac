"""A store over PostgreSQL: how it starts, and what it says and does when the database fails."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.postgres import database
from emitd_handlers.jobs.postgres.database import reason
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.source import JobQuery, TransitionQuery
from emitd_handlers.jobs.store import Retention
from emitd_handlers.record import JobState
from support.jobs.backends import applied, get, opened, report
from support.processes.postgres import PostgresBackend, PostgresServer
from support.soak.server import free_port

PASSWORD = "s3cret"


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresJobStore]:
    async with opened(PostgresJobStore(postgres_dsn, report=[].append)) as store:
        assert isinstance(store, PostgresJobStore)
        yield store


async def open_error(dsn: str) -> str:
    """Return what is said of a database that cannot be opened; it is one line, and does not hold the password."""
    store = PostgresJobStore(dsn)
    with pytest.raises(HandlerUnavailable) as caught:
        await store.open()
    text = str(caught.value)
    assert PASSWORD not in text
    assert "\n" not in text
    with pytest.raises(HandlerUnavailable, match="is not open"):
        await store.get("j")
    await store.close()
    return text


async def use(store: PostgresJobStore) -> None:
    """Do everything that a store can."""
    await store.apply([report()], ())
    await store.end_expired(1.0, 0.0, ())
    await store.request_cancel("j", "", ())
    await store.remove_ended(Retention(ended_count=10), 10)
    await read(store)


async def read(store: PostgresJobStore) -> None:
    await store.get("j")
    await store.list(JobQuery())
    await store.list_transitions(TransitionQuery(job_id="j"))
    await store.load_history("j", 0)
    await store.recent_commits(1)
    await store.revisions(["j"])
    await store.changes_since(None)
    await store.load_many(["j"])


def test_options_that_make_no_sense_are_refused() -> None:
    """As an error of the configuration, before anything is connected."""
    with pytest.raises(ValueError, match="statement_cache_size is not a whole number"):
        PostgresJobStore("postgresql:///jobs?statement_cache_size=many")


async def test_a_server_that_is_not_there(postgres_dsn: str) -> None:
    """The error says where it was looked for, and what to check."""
    port = free_port()
    text = await open_error(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/jobs")
    assert text.startswith(f"database 'postgresql://me:***@127.0.0.1:{port}/jobs' cannot be opened: ")
    assert str(port) in text.partition("opened: ")[2]
    assert text.endswith("; check that the server runs, and that host and port in the URL are right")


async def test_a_database_that_is_not_there(postgres_dsn: str) -> None:
    """Databases are made by whoever runs the server."""
    text = await open_error(postgres_dsn.replace("postgres@/test", f"postgres:{PASSWORD}@/unknown"))
    assert 'database "unknown" does not exist; make the database first: emitd makes only its tables' in text


async def test_a_user_that_is_not_there(postgres_dsn: str) -> None:
    """Nor is any of these."""
    text = await open_error(postgres_dsn.replace("postgres@", f"nobody:{PASSWORD}@"))
    assert 'role "nobody" does not exist; check user and password in the URL' in text


async def test_an_option_that_the_server_does_not_know(postgres_dsn: str) -> None:
    """What is no option of the connection is a setting of the server's."""
    text = await open_error(f"{postgres_dsn}&nonsense={PASSWORD}")
    assert 'unrecognized configuration parameter "nonsense"' in text


async def test_an_encoding_that_cannot_hold_every_text(postgres_server: PostgresServer) -> None:
    """It would lose reports, later."""
    await postgres_server.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        assert "its encoding is LATIN1: use a database with encoding UTF8" in await open_error(
            postgres_server.dsn("latin")
        )
    finally:
        await postgres_server.execute("DROP DATABASE latin WITH (FORCE)")


async def test_a_store_can_be_opened_again(postgres_dsn: str, postgres: PostgresBackend) -> None:
    """Also without `close`; it leaves no connection behind."""
    store = PostgresJobStore(postgres_dsn)
    await store.close()
    for _ in range(3):
        await store.open()
        await use(store)
        await store.open()
        await use(store)
        await store.close()
        await store.close()
        with pytest.raises(HandlerUnavailable, match="is not open"):
            await store.apply([report()], ())
    assert await postgres.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'emitd'") == []


async def test_the_name_of_the_application_can_be_another(
    postgres_dsn: str, postgres: PostgresBackend
) -> None:
    """As the URL has it."""
    async with opened(PostgresJobStore(f"{postgres_dsn}&application_name=mine")) as store:
        await store.get("j")
        names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()"
        assert ("mine",) in await postgres.fetch(names)
        assert ("emitd",) not in await postgres.fetch(names)


async def test_it_works_without_prepared_statements(postgres_dsn: str, postgres: PostgresBackend) -> None:
    """As behind a pooler that knows nothing of them."""
    async with opened(PostgresJobStore(f"{postgres_dsn}&statement_cache_size=0", pool_size=1)) as store:
        assert isinstance(store, PostgresJobStore)
        await use(store)
        ((statements,),) = await store._database.fetch(
            "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
        )
        assert statements == 0
    async with opened(PostgresJobStore(postgres_dsn, pool_size=1)) as store:
        assert isinstance(store, PostgresJobStore)
        await use(store)
        ((statements,),) = await store._database.fetch(
            "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
        )
        assert statements > 0


async def test_more_calls_than_connections_wait_for_each_other(postgres_dsn: str) -> None:
    """None of them fails, and there are never more connections."""
    async with opened(PostgresJobStore(postgres_dsn, pool_size=2)) as store:
        assert isinstance(store, PostgresJobStore)
        await asyncio.gather(
            *[read(store) for _ in range(20)], *[store.apply([report()], ()) for _ in range(20)]
        )
        ((count,),) = await store._database.fetch(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'emitd' AND datname = current_database()"
        )
        assert count <= 3  # with the listener's, if that is there already
        assert (await get(store)).revision == 20


async def test_a_server_that_is_stopped_and_started_again(
    store: PostgresJobStore, postgres_server: PostgresServer
) -> None:
    """Every call says so while it is away, and works when it is back."""
    await applied(store, report())
    postgres_server.stop()
    try:
        for call in (
            store.apply([report(progress=1)], ()),
            store.end_expired(1.0, 0.0, ()),
            store.request_cancel("j", "", ()),
            store.remove_ended(Retention(ended_count=0), 10),
            store.get("j"),
            store.load_history("j", 0),
            store.changes_since(None),
        ):
            with pytest.raises(HandlerUnavailable, match=r"^database 'postgresql://\S+' failed: ."):
                await call
    finally:
        await asyncio.to_thread(postgres_server.start)
    (answer,) = await applied(store, report(progress=1))
    assert answer.revision == 2
    await use(store)


async def test_connections_that_are_cut_are_replaced(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """At most the call that was using one fails."""
    cut = (
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE application_name = 'emitd' AND query !~ 'LISTEN'"
    )
    await asyncio.gather(*[read(store) for _ in range(4)])
    for number in range(1, 4):
        await postgres.fetch(cut)
        (answer,) = await applied(store, report(progress=number))
        assert answer.revision == number


async def test_a_call_that_is_cut_off_changes_nothing(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """Unless it was just committed; here it waits for a row."""
    await applied(store, report("a"))
    other = await asyncpg.connect(postgres.dsn)
    try:
        await other.execute("BEGIN")
        await other.execute("SELECT * FROM job_logs FOR UPDATE")
        task = asyncio.create_task(store.apply([report("a", progress=1), report("b")], ()))
        waiting = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'emitd' AND wait_event_type = 'Lock'"
        )
        while not (rows := await other.fetch(waiting)):
            await asyncio.sleep(0.01)
        await other.execute("SELECT pg_terminate_backend($1)", rows[0]["pid"])
        with pytest.raises(HandlerUnavailable, match=r"failed: .*connection"):
            await task
    finally:
        await other.close()
    assert (await get(store, "a")).progress == 0
    assert await store.get("b") is None


async def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    store: PostgresJobStore, postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once it does, or another connection does, all is well."""
    await applied(store, report())
    monkeypatch.setattr(database, "CALL_SECONDS", 0.3)
    idle = "SELECT pid FROM pg_stat_activity WHERE application_name = 'emitd' AND query !~ 'LISTEN'"
    stopped = [pid for (pid,) in await postgres.fetch(idle)]
    assert stopped
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(HandlerUnavailable, match="it did not answer in time"):
            await store.apply([report(progress=1)], ())
        monkeypatch.setattr(database, "CALL_SECONDS", 15.0)
        assert (await get(store)).progress == 0
        await applied(store, report(progress=2))
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert (await get(store)).progress == 2


async def test_a_call_whose_caller_has_gone_leaves_its_connection_to_nobody(
    postgres_dsn: str, postgres: PostgresBackend
) -> None:
    """The next one gets another, and no answer that was meant for the one before."""
    async with opened(PostgresJobStore(postgres_dsn, pool_size=1)) as store:
        await applied(store, report("a"), report("b"))
        for _ in range(10):
            task = asyncio.create_task(get(store, "a"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await get(store, "b")).job_id == "b"


async def test_a_server_that_may_only_be_read_is_left(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """It was the primary one before: the next call looks for the one that is now."""
    await applied(store, report())
    pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'emitd' AND query !~ 'LISTEN'"
    before = set(await postgres.fetch(pids))
    await postgres.fetch(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE SQLSTATE '25006' USING MESSAGE = 'cannot write here'; END $$"
    )
    await postgres.fetch("CREATE TRIGGER refuse BEFORE INSERT ON job_commits EXECUTE FUNCTION refuse()")
    with pytest.raises(HandlerUnavailable, match="failed: cannot write here"):
        await store.apply([report(progress=1)], ())
    await postgres.fetch("DROP TRIGGER refuse ON job_commits")
    await applied(store, report(progress=1))
    assert not before & set(await postgres.fetch(pids))


async def test_a_transaction_that_the_database_undoes_is_not_taken_for_committed(
    store: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """Also where it does so at the very end."""
    await postgres.fetch(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$"
    )
    await postgres.fetch(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON job_commits DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(HandlerUnavailable, match="failed: not this one"):
        await store.apply([report()], ())
    assert await store.get("j") is None
    await postgres.fetch("DROP TRIGGER refuse ON job_commits")
    (answer,) = await applied(store, report(status=JobState.QUEUED))
    assert answer.revision == 1


def test_a_pooler_that_mixes_up_statements_is_named() -> None:
    """The error of the server alone says nothing of the cause."""
    text = reason(asyncpg.InvalidSQLStatementNameError('prepared statement "s" does not exist'))
    assert text.endswith("; behind a pooler in transaction mode, add statement_cache_size=0 to the URL")


def test_an_error_without_words_has_its_name() -> None:
    """Some have none."""
    assert reason(ConnectionResetError()) == "ConnectionResetError"
    assert reason(asyncpg.PostgresError("what\nDETAIL: more")) == "what"
