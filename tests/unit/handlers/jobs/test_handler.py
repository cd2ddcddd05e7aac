"""DatabaseJobHandler: reports committed, jobs read and watched, over a real SQLite file."""

import asyncio
import gc
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable, JobQueryInvalid, RecordInvalid
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler, DatabaseJobSettings
from emitd_handlers.jobs.source import Job, JobQuery, JobSource
from emitd_handlers.jobs.sqlite import queries
from emitd_handlers.jobs.sqlite.database import SqliteConnection, make_database_file
from emitd_handlers.jobs.sqlite.store import SqliteJobStore
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, Refused
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from emitd_handlers.settings import CommittedSettings, Delivery
from emitd_handlers.testing import make_record
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.memory import MemoryAccount
from support.processes.open_files import open_under
from support.processes.own_threads import own_threads

QUEUED, RUNNING, COMPLETED, FAILED = JobState
#: The loop alone would not keep them.
_blocking: set[asyncio.Task[None]] = set()


def make_handler(path: Path) -> DatabaseJobHandler:
    return DatabaseJobHandler(DatabaseJobSettings(database=DatabaseUrl(path)), name="jobs")


def delivery_of(handler: DatabaseJobHandler) -> CommittedDelivery:
    return CommittedDelivery(handler, CommittedSettings(), 1000, lambda _: None, MemoryAccount(1 << 30))


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[DatabaseJobHandler]:
    handler = make_handler(path)
    await handler.start()
    try:
        yield handler
    finally:
        await handler.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def handler(path: Path) -> AsyncIterator[DatabaseJobHandler]:
    async with running(path) as handler:
        yield handler


def report(
    job_id: str = "j", status: JobState = RUNNING, *, record_id: str = "", **fields: object
) -> LogRecord:
    payload = JobStatus(job_id, "t", status, **fields)  # type: ignore[arg-type]
    return make_record(Level.JOB_STATUS, record_id=record_id, payload=payload)


def receipt(outcome: Outcome) -> JobReceipt:
    assert isinstance(outcome, Committed), outcome
    assert isinstance(outcome.receipt, JobReceipt)
    return outcome.receipt


async def get(handler: DatabaseJobHandler, job_id: str = "j") -> Job:
    job = await handler.get(job_id)
    assert job is not None
    return job


def writer(handler: DatabaseJobHandler) -> SqliteConnection:
    assert isinstance(handler._store, SqliteJobStore)
    assert handler._store._writer is not None
    return handler._store._writer


def reader(handler: DatabaseJobHandler) -> SqliteConnection:
    assert isinstance(handler._store, SqliteJobStore)
    assert handler._store._reader is not None
    return handler._store._reader


async def join_all(threads: list[threading.Thread]) -> None:
    """Wait until the threads have ended."""
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)
    assert not [thread for thread in threads if thread.is_alive()]


async def block(handler: DatabaseJobHandler) -> threading.Event:
    """Keep the writer's thread busy until the event is set."""
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()
    gate = threading.Event()

    def wait(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(entered.set)
        gate.wait(20)

    task = asyncio.create_task(writer(handler).run(wait))
    _blocking.add(task)
    task.add_done_callback(_blocking.discard)
    await entered.wait()
    return gate


def test_it_takes_job_reports_and_commits_them() -> None:
    """Without a word in its entry; and it serves jobs."""
    handler = DatabaseJobHandler()
    assert [level for level in Level if handler.can_handle(level)] == [Level.JOB_STATUS]
    assert handler.default_delivery is Delivery.COMMITTED
    assert handler.settings.database == DatabaseUrl(Path("logs/jobs.db"))
    assert isinstance(handler, JobSource)


async def test_a_report_is_committed_and_read(handler: DatabaseJobHandler, path: Path) -> None:
    """The receipt says what it did; other programs see the row at once."""
    outcome = await handler.emit(report(progress=7))
    assert outcome == JobReceipt("j", 1, 1, True)
    assert (await get(handler)).progress == 7
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT status, progress FROM job_logs").fetchall() == [("RUNNING", 7)]
    other.close()
    with pytest.raises(RecordInvalid):
        await handler.emit(report(progress=101))
    assert await handler.get("unknown") is None


async def test_concurrent_calls_share_transactions(handler: DatabaseJobHandler) -> None:
    """What comes while one is under way goes into the next, in order, with outcomes for each call."""
    statements: list[str] = []
    await writer(handler).run(lambda connection: connection.set_trace_callback(statements.append))
    gate = await block(handler)
    delivery = delivery_of(handler)
    calls = [asyncio.create_task(delivery.take([report("first")], 1))]
    await asyncio.sleep(0.01)
    for number in range(20):
        batch = [report(f"j{number}", progress=index) for index in range(3)]
        calls.append(asyncio.create_task(delivery.take(batch, 1)))
    await asyncio.sleep(0.01)
    gate.set()
    _, *answers = await asyncio.gather(*calls)
    for number, outcomes in enumerate(answers):
        assert [(receipt(o).job_id, receipt(o).revision) for o in outcomes] == [
            (f"j{number}", revision) for revision in (1, 2, 3)
        ]
    passes = statements.count("SELECT passed_at FROM job_lease_watch")
    assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") == 2 + passes


async def test_it_is_set_up_to_keep_what_it_commits(handler: DatabaseJobHandler) -> None:
    """WAL, synchronous=FULL on the connection that writes, and a reader that cannot write."""

    def pragma(connection: sqlite3.Connection, name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert await writer(handler).run(pragma, "journal_mode") == "wal"
    assert await writer(handler).run(pragma, "synchronous") == 2
    assert await writer(handler).run(pragma, "fullfsync") == 1
    assert await reader(handler).run(pragma, "query_only") == 1


async def test_files_and_folders_are_for_the_owner_alone(tmp_path: Path) -> None:
    """Missing folders have mode 0700, the database and SQLite's files beside it 0600."""
    path = tmp_path / "a" / "b" / "jobs.db"
    async with running(path) as handler:
        await handler.emit(report())
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-shm": 0o600}
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["jobs.db"]


async def test_the_names_of_new_folders_and_of_the_database_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not take the folder away with what was committed in it."""
    synced: list[Path] = []
    monkeypatch.setattr(Disk, "sync_directory", lambda self, path: synced.append(path))
    make_database_file(tmp_path / "a" / "b" / "jobs.db")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


async def test_what_was_acknowledged_survives_a_kill(
    handler: DatabaseJobHandler, path: Path, tmp_path: Path
) -> None:
    """Files copied at any moment, without closing anything, hold every job state and receipt acknowledged before."""
    copies = []
    for number in range(5):
        await handler.emit_batch(
            [report(progress=number, record_id=str(number)), report(f"j{number}", COMPLETED)]
        )
        folder = tmp_path / f"copy{number}"
        folder.mkdir()
        for name in ("jobs.db", "jobs.db-wal"):
            shutil.copy(path.parent / name, folder / name)
        copies.append(folder / "jobs.db")
    for number, copy in enumerate(copies):
        async with running(copy) as survivor:
            job = await get(survivor)
            assert (job.progress, job.revision) == (number, number + 1)
            assert all([(await get(survivor, f"j{n}")).status is COMPLETED for n in range(number + 1)])
            commits = await survivor.recent_commits(10)
            assert [commit.record_id for commit in commits] == [str(n) for n in range(number + 1)]
            assert [receipt(Committed(commit.receipt)).revision for commit in commits] == list(
                range(1, number + 2)
            )
            assert receipt((await survivor.emit_batch([report(progress=99)]))[0]).revision == number + 2


async def test_what_a_killed_process_left_unsynced_is_synced_at_start(path: Path) -> None:
    """A commit can be readable and not on the medium; before it counts, it is brought into the database file."""
    async with running(path) as handler:
        await handler.emit(report(record_id="1"))
        shutil.copy(path, path.with_name("killed.db"))
        shutil.copy(path.with_name("jobs.db-wal"), path.with_name("killed.db-wal"))
    killed = path.with_name("killed.db")
    shutil.copy(killed, path.with_name("before.db"))
    assert await count_receipts(path.with_name("before.db")) == 0
    async with running(killed):
        shutil.copy(killed, path.with_name("after.db"))
    assert await count_receipts(path.with_name("after.db")) == 1


async def count_receipts(path: Path) -> int:
    """How many rows of receipts a database file has without its WAL."""
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM job_receipts").fetchone()[0])
    except sqlite3.OperationalError:  # not even the table
        return 0
    finally:
        connection.close()


async def test_a_restart_continues(path: Path) -> None:
    """Also where another process has changed the database meanwhile."""
    handler = make_handler(path)
    await handler.start()
    await handler.emit_batch([report(record_id="1"), report(record_id="2")])
    await handler.stop()
    other = sqlite3.connect(path)
    other.execute("UPDATE job_logs SET revision = 10")
    other.commit()
    other.close()
    await handler.start()
    assert [commit.record_id for commit in await handler.recent_commits(5)] == ["1", "2"]
    assert receipt((await handler.emit_batch([report()]))[0]).revision == 11
    await handler.stop()


async def test_start_and_stop_are_idempotent_and_leave_nothing(path: Path) -> None:
    """No thread, no task, no open file; and a stop without a start."""
    await make_handler(path).stop()
    tasks = asyncio.all_tasks()
    with own_threads() as threads:
        async with running(path) as handler:
            await handler.start()
            assert [thread.daemon for thread in threads] == [True, True], (
                "a call that hangs would keep the process"
            )
            await handler.emit(report())
            await handler.stop()
    await join_all(threads)
    assert asyncio.all_tasks() - tasks == set()
    assert open_under(path.parent) == []
    gc.collect()  # a connection left open would warn, and warnings are errors


async def test_after_stop_everything_is_unavailable(path: Path) -> None:
    """Emitting, reading and watching; before start, too."""
    handler = make_handler(path)
    for word in ("not running", "stopped"):
        with pytest.raises(HandlerUnavailable, match=word):
            await handler.emit_batch([report()])
        for answer in (handler.get("j"), handler.list(JobQuery()), anext(handler.watch("j"))):
            with pytest.raises(HandlerUnavailable):
                await answer
        await handler.start()
        await handler.stop()


async def test_stop_waits_for_what_was_taken(path: Path) -> None:
    """A batch that waits for its transaction is committed first; a new one is refused meanwhile."""
    async with running(path) as handler:
        gate = await block(handler)
        taken = [asyncio.create_task(handler.emit_batch([report()]))]
        await asyncio.sleep(0.01)
        taken.append(asyncio.create_task(handler.emit_batch([report()])))
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(handler.stop())
        await asyncio.sleep(0)
        with pytest.raises(HandlerUnavailable):
            await handler.emit_batch([report()])
        gate.set()
        assert [receipt((await task)[0]).revision for task in taken] == [1, 2]
        await stopping


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (
            lambda path: path.write_bytes(b"not a database, but long enough to be looked at" * 99),
            "not a database",
        ),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path.parent / "nowhere" / "jobs.db"), "No such file or directory"),
        (lambda path: path.symlink_to("/proc/jobs.db"), "No such file or directory"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_clear_line(
    path: Path, prepare: object, reason: str
) -> None:
    """It names the file, what is wrong and what to do; no thread is left."""
    prepare(path)  # type: ignore[operator]
    handler = make_handler(path)
    with own_threads() as threads, pytest.raises(HandlerUnavailable) as caught:
        await handler.start()
    line = str(caught.value)
    assert f"database '{path}' cannot be opened: " in line
    assert reason in line
    assert "expected a new file or an SQLite database that this user may write to" in line
    assert "\n" not in line
    await handler.stop()
    await join_all(threads)


async def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    """A file stands in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HandlerUnavailable, match="Not a directory; expected a new file"):
        await make_handler(tmp_path / "file" / "jobs.db").start()


async def test_tables_of_a_newer_emitd_are_refused(path: Path) -> None:
    """With what to do about it."""
    async with running(path):
        other = sqlite3.connect(path)
        other.execute("UPDATE emitd_schema SET version = 99")
        other.commit()
        other.close()
    with (
        own_threads() as threads,
        pytest.raises(HandlerUnavailable, match=r"jobs\.db' cannot be opened: .* use a newer emitd"),
    ):
        await make_handler(path).start()
    await join_all(threads)


async def test_a_database_that_fails_refuses_the_whole_group(handler: DatabaseJobHandler) -> None:
    """HandlerUnavailable for every call in it, nothing committed; then it goes on."""
    await handler.emit(report("a"))
    await writer(handler).run(
        lambda connection: connection.execute(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON main.job_logs BEGIN SELECT raise(ABORT, 'disk full'); END"
        )
    )
    delivery = delivery_of(handler)
    for (answer,) in await asyncio.gather(*(delivery.take([report(job_id)], 1) for job_id in ("a", "b"))):
        assert isinstance(answer, Refused)
        assert isinstance(answer.error, HandlerUnavailable)
        assert "disk full" in str(answer.error)
    assert (await get(handler, "a")).revision == 1
    await writer(handler).run(lambda connection: connection.execute("DROP TRIGGER full"))
    assert [receipt(o).revision for o in await handler.emit_batch([report("a"), report("b")])] == [2, 1]


async def test_another_process_that_writes_is_waited_for(handler: DatabaseJobHandler, path: Path) -> None:
    """And if it does not end, the reports are refused as retryable."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await writer(handler).run(lambda connection: connection.execute("PRAGMA busy_timeout = 50"))
    with pytest.raises(HandlerUnavailable, match="locked"):
        await handler.emit_batch([report()])
    await writer(handler).run(lambda connection: connection.execute("PRAGMA busy_timeout = 20000"))
    waiting = asyncio.create_task(handler.emit_batch([report()]))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    assert receipt((await waiting)[0]).revision == 1


async def test_reading_does_not_wait_for_the_writer(handler: DatabaseJobHandler) -> None:
    """While a transaction is under way, jobs can be read, listed and watched."""
    await handler.emit(report())
    gate = await block(handler)
    try:
        async with asyncio.timeout(10):
            assert (await get(handler)).revision == 1
            assert len((await handler.list(JobQuery())).jobs) == 1
            assert (await anext(handler.watch("j", after_revision=0))).job.revision == 1
    finally:
        gate.set()


async def test_what_is_acknowledged_is_read_even_while_a_page_is(
    handler: DatabaseJobHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that begins while another one is read would otherwise share its older snapshot."""
    monkeypatch.setattr(queries, "ROWS_AT_ONCE", 1)
    await handler.emit_batch([report(f"j{number}") for number in range(100)])
    listing = asyncio.create_task(handler.list(JobQuery(page_size=100)))
    await asyncio.sleep(0.003)
    await handler.emit(report())
    assert (await get(handler)).revision == 1
    assert len((await listing).jobs) == 100


async def test_jobs_are_listed_page_by_page(handler: DatabaseJobHandler) -> None:
    """Newest first, with a token that belongs to its filters."""
    for number in range(3):
        await handler.emit(report(f"j{number}"))
    page = await handler.list(JobQuery(page_size=2))
    assert [job.job_id for job in page.jobs] == ["j2", "j1"]
    page = await handler.list(JobQuery(page_token=page.next_page_token))
    assert ([job.job_id for job in page.jobs], page.next_page_token) == (["j0"], "")
    with pytest.raises(JobQueryInvalid):
        await handler.list(JobQuery(page_token="x"))


async def test_a_watcher_is_told_of_every_commit(handler: DatabaseJobHandler) -> None:
    """A batch with several reports of the job is one update; by the time a report is answered, it is published."""
    watch = handler.watch("j")
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.01)
    await handler.emit(report(status=QUEUED))
    assert (await waiting).job.revision == 1
    await handler.emit_batch([report("other"), report(), report(progress=5), report(progress=6)])
    update = await anext(watch)
    assert (update.job.progress, [t.revision for t in update.transitions], update.coalesced_count) == (
        6,
        [2],
        2,
    )
    await handler.emit(report(status=COMPLETED))
    update = await anext(watch)
    assert [(t.revision, t.status) for t in update.transitions] == [(5, COMPLETED)]
    await watch.aclose()


async def test_a_commit_under_way_is_not_missed(handler: DatabaseJobHandler) -> None:
    """A watcher that comes between the commit and its publication sees it, once."""
    await handler.emit(report(status=QUEUED))
    for number in range(50):
        committing = asyncio.create_task(handler.emit_batch([report(attempt=number + 2)]))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        watch = handler.watch("j", after_revision=0)
        update = await anext(watch)
        transitions = [transition.revision for transition in update.transitions]
        await committing
        if update.job.revision < number + 2:
            transitions += [transition.revision for transition in (await anext(watch)).transitions]
        assert transitions == list(range(1, number + 3))
        await watch.aclose()


async def test_stop_ends_the_watches(path: Path) -> None:
    """At once, with HandlerUnavailable."""
    async with running(path) as handler:
        await handler.emit(report())
        watch = handler.watch("j")
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        missing = asyncio.ensure_future(anext(handler.watch("missing")))
        await asyncio.sleep(0.01)
        await handler.stop()
        for ended in (waiting, missing):
            with pytest.raises(HandlerUnavailable, match="handler 'jobs' is stopped"):
                await asyncio.wait_for(ended, 30)


async def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lacks what the handler's statements need."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 0))
    with pytest.raises(HandlerUnavailable, match="is too old"):
        await make_handler(path).start()


async def test_a_large_batch_is_committed_whole(handler: DatabaseJobHandler) -> None:
    """In one transaction, however many reports it has."""
    count = 5_000
    outcomes = await handler.emit_batch([report(f"j{number}") for number in range(count)])
    assert not [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(outcomes) == count


async def test_postgresql_needs_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the handler does not start, and says what to install."""
    monkeypatch.setitem(sys.modules, "emitd_handlers.jobs.postgres.store", None)
    handler = DatabaseJobHandler(DatabaseJobSettings(database=DatabaseUrl(dsn="postgresql://db/jobs")))
    with pytest.raises(HandlerUnavailable, match=r"install emitd\[postgres\]"):
        await handler.start()
    await handler.stop()
