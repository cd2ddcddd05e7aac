"""What is heard of other processes over a connection that can be lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from emitd_handlers.jobs.postgres import listener
from emitd_handlers.jobs.postgres.schema import DEFAULT_TABLE, Tables
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.store import Retention
from emitd_handlers.record import JobState
from support.jobs.backends import applied, opened, report
from support.processes.postgres import PostgresBackend, PostgresServer

COMPLETED = JobState.COMPLETED
#: The server's processes for connections that listen, by what they were last asked.
LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'emitd' AND query ~ '^(LISTEN|SELECT 1$)'"
)


class Hearing:
    """A store, and what it has heard and reported."""

    def __init__(self, dsn: str, **arguments: Any) -> None:
        #: Since the last `expect`.
        self.heard: list[Sequence[str] | None] = []
        self.reports: list[str] = []
        self.store = PostgresJobStore(
            dsn, on_foreign_change=self.heard.append, report=self.reports.append, **arguments
        )

    async def expect(self, *news: Sequence[str] | None) -> None:
        """Wait until something is heard, which must be this."""
        await until(lambda: len(self.heard) >= len(news))
        assert self.heard == list(news)
        self.heard.clear()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def hearing(postgres_dsn: str) -> AsyncIterator[Hearing]:
    """A store that listens."""
    hearing = Hearing(postgres_dsn)
    async with opened(hearing.store):
        await hearing.expect(None)
        yield hearing
    assert not [task for task in asyncio.all_tasks() if "listener" in task.get_name()]


@pytest.fixture
async def other(postgres_dsn: str) -> AsyncIterator[PostgresJobStore]:
    """Another process's store."""
    async with opened(PostgresJobStore(postgres_dsn)) as store:
        assert isinstance(store, PostgresJobStore)
        yield store


async def test_what_others_change_is_heard_once_a_transaction(
    hearing: Hearing, other: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """Whatever kind of change it is; and what changes nothing is not."""
    await applied(other, report("a"), report("b", lease_seconds=100), report("a", progress=1))
    await hearing.expect(["a", "b"])
    await applied(other, report("ü\n\"'"))
    await hearing.expect(["ü\n\"'"])
    await other.end_expired(60.0, 0.0, ())
    await postgres.shift_leases(-101)
    await other.end_expired(60.0, 0.0, ())
    await hearing.expect(["b"])
    await other.request_cancel("a", "", ())
    await hearing.expect(["a"])
    await applied(other, report("a", COMPLETED))
    await hearing.expect(["a"])
    await other.apply([report("a", record_id="stale")], ())
    await other.request_cancel("a", "", ())
    removed = (await other.remove_ended(Retention(ended_seconds=0.0), 10)).job_ids
    await hearing.expect(removed)
    assert hearing.reports == []


async def test_what_oneself_changes_is_known(hearing: Hearing, other: PostgresJobStore) -> None:
    """Over whichever connection of the pool, also after one has been replaced."""
    await asyncio.gather(*[hearing.store.get("a") for _ in range(8)])
    for number in range(3):
        await applied(hearing.store, report(f"own-{number}"))
        await applied(other, report(f"foreign-{number}"))
        await hearing.expect([f"foreign-{number}"])
        pool = hearing.store._database._pool
        assert pool is not None
        await pool.expire_connections()


async def test_many_changes_are_heard_without_their_ids(hearing: Hearing, other: PostgresJobStore) -> None:
    """A notification has no room for more than a few thousand bytes, whatever the characters."""
    await applied(other, *[report(f"job-{number:04}") for number in range(300)])
    await hearing.expect([f"job-{number:04}" for number in range(300)])
    await applied(other, *[report(f"job-{number:04}", progress=1) for number in range(400)])
    await hearing.expect(None)
    long = "\U0001f600" * 490  # 1,960 bytes
    await applied(other, report(f"1{long}"), report(f"2{long}"))
    await hearing.expect([f"1{long}", f"2{long}"])
    await applied(other, report(f"1{long}", progress=1), report(f"2{long}", progress=1), report("m" * 100))
    await hearing.expect(None)


async def test_what_is_not_understood_is_heard_as_anything(
    hearing: Hearing, postgres: PostgresBackend
) -> None:
    """A later version may say it otherwise."""
    channel = Tables.named("public", DEFAULT_TABLE).channel
    for payload in ("", "other", "7", '{"a":1}', "[1]"):
        await postgres.fetch("SELECT pg_notify($1, $2)", channel, payload)
        await hearing.expect(None)


async def test_other_tables_are_not_heard(hearing: Hearing, postgres_dsn: str) -> None:
    """Neither another one in the same schema, nor one of the same name in another."""
    for arguments in ({"table": "runs"}, {"schema": "elsewhere"}):
        async with opened(PostgresJobStore(postgres_dsn, **arguments)) as store:
            await applied(store, report())
    async with opened(PostgresJobStore(postgres_dsn, schema="public")) as store:
        await applied(store, report("same"))
    await hearing.expect(["same"])


async def test_a_connection_that_is_cut_is_replaced(
    hearing: Hearing, other: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """What was missed meanwhile can be anything. It is reported once that it is lost, and once that there is one."""
    await postgres.fetch(f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) AS listeners")
    await hearing.expect(None)
    await applied(other, report("a"))
    await hearing.expect(["a"])
    lost, again = hearing.reports
    assert "lost the connection that notifications come over" in lost
    assert "has a connection for notifications again" in again


async def test_a_connection_that_is_silent_is_replaced(
    postgres_dsn: str, postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says that it is lost but that no answer comes."""
    monkeypatch.setattr(listener, "PING_SECONDS", 0.05)
    monkeypatch.setattr(listener, "PING_TIMEOUT_SECONDS", 0.2)
    hearing = Hearing(postgres_dsn)
    async with opened(hearing.store):
        await hearing.expect(None)
        stopped = [pid for (pid,) in await postgres.fetch(LISTENERS)]
        assert len(stopped) == 1
        os.kill(stopped[0], signal.SIGSTOP)
        try:
            await hearing.expect(None)
            async with opened(PostgresJobStore(postgres_dsn)) as other:
                await applied(other, report("a"))
            await hearing.expect(["a"])
        finally:
            os.kill(stopped[0], signal.SIGCONT)


async def test_a_server_that_is_away_is_tried_again_and_reported_once(
    hearing: Hearing, postgres_server: PostgresServer
) -> None:
    """However long it takes."""
    postgres_server.stop()
    try:
        await until(lambda: bool(hearing.reports))
        await asyncio.sleep(0.3)
        assert hearing.heard == []
    finally:
        await asyncio.to_thread(postgres_server.start)
    await hearing.expect(None)
    assert len(hearing.reports) == 2


async def test_a_store_that_is_closed_hears_nothing_more(
    postgres_dsn: str, other: PostgresJobStore, postgres: PostgresBackend
) -> None:
    """And has left no connection behind; opened again, it hears."""
    hearing = Hearing(postgres_dsn)
    for number in range(2):
        async with opened(hearing.store):
            await hearing.expect(None)
            await applied(other, report(f"heard-{number}"))
            await hearing.expect([f"heard-{number}"])
        await applied(other, report(f"not-{number}"))
    assert hearing.heard == []
    async with asyncio.timeout(20):
        while len(await postgres.fetch(LISTENERS)) > 1:
            await asyncio.sleep(0.02)
