"""The tables of jobs: made, migrated, and nobody else's touched."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.source import JobTransition, TransitionQuery
from emitd_handlers.jobs.sqlite import schema, writer
from emitd_handlers.jobs.sqlite.schema import MIGRATIONS, migrate, transaction
from emitd_handlers.jobs.sqlite.store import SqliteJobStore
from emitd_handlers.jobs.sqlite.writer import SqliteJobs
from emitd_handlers.jobs.store import Retention
from emitd_handlers.outcome import JobReceipt, RecentCommit
from emitd_handlers.principal import Principal
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from emitd_handlers.scope import Caller
from support.jobs.backends import applied, get, opened, report
from support.jobs.sqlite_queries import get_job, list_transitions, load_history


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def test_a_new_database_gets_the_newest_tables(connection: sqlite3.Connection) -> None:
    """With their version; a second start changes nothing."""
    migrate(connection)
    assert tables(connection) == {
        *("emitd_schema", "job_lease_watch", "job_logs", "job_receipts", "job_transitions"),
    }
    connection.execute("INSERT INTO job_receipts VALUES (1, x'00', NULL)")
    migrate(connection)
    assert connection.execute("SELECT * FROM emitd_schema").fetchall() == [("jobs", len(MIGRATIONS))]
    assert connection.execute("SELECT count(*) FROM job_receipts").fetchone() == (1,)


def test_the_users_own_tables_are_left_alone(connection: sqlite3.Connection) -> None:
    """It may be the application's primary database."""
    connection.execute("PRAGMA user_version = 42")
    connection.execute("CREATE TABLE orders (id INTEGER)")
    migrate(connection)
    assert "orders" in tables(connection)
    assert connection.execute("PRAGMA user_version").fetchone() == (42,)


def test_an_older_version_is_migrated_step_by_step(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the steps that are missing are taken, in order."""
    migrate(connection)
    steps = (
        *MIGRATIONS,
        ("ALTER TABLE job_logs ADD COLUMN a",),
        ("ALTER TABLE job_logs RENAME COLUMN a TO b",),
    )
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    migrate(connection)
    migrate(connection)
    assert connection.execute("SELECT b FROM job_logs").fetchall() == []
    assert connection.execute("SELECT version FROM emitd_schema").fetchone() == (len(MIGRATIONS) + 2,)


@pytest.fixture
def first_version(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """Tables as the first emitd made them, with jobs."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:1])
        migrate(connection)
    insert = """
        INSERT INTO job_logs (job_id, job_type, status, progress, message, labels, source, attempt, revision,
            created_at, updated_at, event_time_unix_nano, lease_seconds, lease_expires_at, failure_reason)
        VALUES (?, 'sync', ?, 40, 'm', '{"k":"v"}', 's', 1, 3, '2026-11-01 10:00:00.000001', ?, 5, ?, ?, ?)
    """
    at = "2026-11-02 11:00:00.000002"
    for row in (
        ("queued", "QUEUED", at, 0, None, None),
        ("running", "RUNNING", at, 30, "2026-11-02 11:00:30.000002", None),
        ("completed", "COMPLETED", at, 30, None, None),
        ("failed", "FAILED", at, 0, None, "OOM"),
    ):
        connection.execute(insert, row)
        for revision, status in ((1, "QUEUED"), (3, row[1])):
            connection.execute(
                "INSERT INTO job_transitions VALUES (?, ?, 1, ?, 0, -1)", (row[0], revision, status)
            )
    return connection


def test_jobs_of_the_first_version_are_kept(first_version: sqlite3.Connection) -> None:
    """With an end for those that have ended, when they were last updated; nobody knows when they were started."""
    migrate(first_version)
    ends = first_version.execute(
        "SELECT job_id, started_at, ended_at FROM job_logs ORDER BY job_id"
    ).fetchall()
    assert ends == [
        ("completed", None, "2026-11-02 11:00:00.000002"),
        ("failed", None, "2026-11-02 11:00:00.000002"),
        ("queued", None, None),
        ("running", None, None),
    ]
    job = get_job(first_version, "failed")
    assert job is not None
    assert (job.status, job.progress, job.labels, job.revision) == (JobState.FAILED, 40, {"k": "v"}, 3)
    assert (job.cancel_requested, job.cancel_reason) == (False, "")
    assert job.start_time_unix_nano == 0
    assert job.end_time_unix_nano == job.update_time_unix_nano


def test_the_history_of_the_first_version_is_kept(first_version: sqlite3.Connection) -> None:
    """Complete, as changes of status, without reasons that were not kept."""
    migrate(first_version)
    history = load_history(first_version, "failed", 0)
    assert history is not None
    assert list(history.transitions) == [
        JobTransition(1, 1, JobState.QUEUED, 0, 2**64 - 1),
        JobTransition(3, 1, JobState.FAILED, 0, 2**64 - 1),
    ]
    page = list_transitions(first_version, TransitionQuery(job_id="failed"))
    assert page is not None
    assert (page.transitions, page.history_truncated) == (list(history.transitions), False)


def test_jobs_of_the_first_version_go_on(first_version: sqlite3.Connection) -> None:
    """A lease begins with the first pass, a report is merged, what has ended can be removed."""
    migrate(first_version)
    jobs = SqliteJobs(cache_size=10)
    assert jobs.end_expired(first_version, 1.0, 0.0) == ()
    running = get_job(first_version, "running")
    assert running is not None
    assert running.status is JobState.RUNNING
    assert running.lease_expire_time_unix_nano > running.update_time_unix_nano + 30 * 10**9
    now = running.lease_expire_time_unix_nano
    for number, status in enumerate((JobState.RUNNING, JobState.COMPLETED)):
        payload = JobStatus("running", "sync", status)
        times = (now + number, now + number)
        record = LogRecord(Level.JOB_STATUS, "m", "", *times, source="s", payload=payload)
        jobs.apply(first_version, [record])
        running = get_job(first_version, "running")
        assert running is not None
        assert (running.status, running.revision) == (status, 4 + number)
        # When it was seen to be RUNNING first is the best that is known.
        assert 0 < running.start_time_unix_nano <= running.update_time_unix_nano
    assert sorted(jobs.remove_ended(first_version, Retention(ended_count=1), 9).job_ids) == [
        "completed",
        "failed",
    ]


def test_what_an_earlier_version_knew_of_retries_is_kept(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts and openings have no source: the receipt says so, and the opening is known whatever the source."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:3])
        migrate(connection)
    stored = msgspec.msgpack.encode([("r1", 2**32 - 1, "j", 3, 2, ""), ("r2", 7, "j", 3, 2, "SUPERSEDED")])
    connection.execute("INSERT INTO job_receipts VALUES (2, ?, NULL)", (stored,))
    connection.execute("INSERT INTO job_transitions VALUES ('j', 3, 2, 'RUNNING', 0, 1, NULL, NULL, 0, 'r1')")
    migrate(connection)
    assert SqliteJobs(cache_size=10).recent_commits(connection, 10) == [
        RecentCommit("r1", "", 2**32 - 1, JobReceipt("j", 3, 2, True), None),
        RecentCommit("r2", "", 7, JobReceipt("j", 3, 2, False, "SUPERSEDED"), None),
    ]
    find = f"SELECT * FROM ({writer.SELECT_OPENING})"
    assert connection.execute(find, ("j", "r1", "any")).fetchall() == [(3, 2)]
    connection.execute(
        "INSERT INTO job_transitions VALUES ('j', 4, 3, 'RUNNING', 0, 1, NULL, NULL, 0, 'r1', 'any')"
    )
    assert connection.execute(find, ("j", "r1", "any")).fetchall() == [(4, 3), (3, 2)]
    assert connection.execute(find, ("j", "r1", "other")).fetchall() == [(3, 2)]


def test_a_first_version_that_cannot_be_migrated_stays_as_it_is(
    first_version: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older emitd can go on with it."""
    before = first_version.execute("SELECT sql FROM sqlite_schema").fetchall()
    monkeypatch.setattr(schema, "MIGRATIONS", (MIGRATIONS[0], (*MIGRATIONS[1], "nonsense")))
    with pytest.raises(sqlite3.OperationalError):
        migrate(first_version)
    assert first_version.execute("SELECT sql FROM sqlite_schema").fetchall() == before
    assert first_version.execute("SELECT version FROM emitd_schema").fetchone() == (1,)


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (writer.SELECT_EXPIRED, "job_logs_by_lease"),
        (writer.SELECT_LEASES, "job_logs_by_lease"),
        (writer.DELETE_ENDED_BEFORE, "job_logs_by_end"),
        (writer.DELETE_SURPLUS, "job_logs_by_end"),
        (writer.SELECT_WITH_HISTORY, "job_logs_by_end_with_history"),
    ],
)
def test_what_is_done_without_a_report_goes_along_an_index(
    connection: sqlite3.Connection, statement: str, index: str
) -> None:
    """A pass over a large table in which nothing is to be done looks at no row."""
    migrate(connection)
    parameters = [""] * statement.count("?")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    assert [step for step in plan if f"INDEX {index} " in f"{step} "]
    assert not [step for step in plan if step == "SCAN job_logs" or "TEMP B-TREE" in step]


def test_a_failed_migration_leaves_the_old_version(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction."""
    migrate(connection)
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE job_logs ADD COLUMN a", "nonsense"))
    )
    with pytest.raises(sqlite3.Error):
        migrate(connection)
    assert connection.execute("SELECT version FROM emitd_schema").fetchone() == (len(MIGRATIONS),)
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("SELECT a FROM job_logs")


def test_a_newer_version_is_left_alone(connection: sqlite3.Connection) -> None:
    """An older emitd does not write to tables that it does not know."""
    migrate(connection)
    connection.execute("UPDATE emitd_schema SET version = 99")
    with pytest.raises(HandlerUnavailable, match="version 99"):
        migrate(connection)


def test_a_table_of_that_name_that_is_not_ours_is_an_error(connection: sqlite3.Connection) -> None:
    """It is neither used nor changed."""
    connection.execute("CREATE TABLE job_logs (mine INTEGER)")
    with pytest.raises(sqlite3.OperationalError, match="job_logs already exists"):
        migrate(connection)
    assert tables(connection) == {"job_logs"}


def test_only_the_four_statuses_are_stored(connection: sqlite3.Connection) -> None:
    """Whoever writes to the table: its checks hold for all."""
    migrate(connection)
    insert = """
        INSERT INTO job_logs (job_id, job_type, status, progress, message, labels, source, attempt, revision,
            created_at, updated_at, event_time_unix_nano, lease_seconds)
        VALUES (?, 't', ?, ?, '', '{}', '', 1, 1, '', '', 0, 0)
    """
    for status in ("QUEUED", "RUNNING", "COMPLETED", "FAILED"):
        connection.execute(insert, (status, status, 0))
    for status, progress in (("DONE", 0), ("running", 0), ("RUNNING", 101), ("RUNNING", -1)):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(insert, ("x", status, progress))


def test_a_transaction_is_all_or_nothing(connection: sqlite3.Connection) -> None:
    """An exception undoes it; the connection can be used on."""
    connection.execute("CREATE TABLE t (a)")
    with pytest.raises(KeyError), transaction(connection):
        connection.execute("INSERT INTO t VALUES (1)")
        raise KeyError
    with transaction(connection):
        connection.execute("INSERT INTO t VALUES (2)")
    assert connection.execute("SELECT a FROM t").fetchall() == [(2,)]


async def test_jobs_of_the_version_before_owners_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have none; the next that reports takes the job."""
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:4])
        migrate(connection)
        connection.execute(
            "INSERT INTO job_logs (job_id, job_type, status, progress, message, labels, source, attempt, revision, "
            "created_at, updated_at, event_time_unix_nano, lease_seconds) VALUES ('j', 't', 'RUNNING', 40, 'm', '{}', "
            "'s', 1, 3, '2026-11-01 10:00:00.000001', '2026-11-02 11:00:00.000002', 5, 0)"
        )
    async with opened(SqliteJobStore(path, cache_size=10)) as store:
        assert ((await get(store)).owner, (await get(store)).progress) == ("", 40)
        sender = Caller(Principal("ann", "token"))
        await applied(store, replace(report(progress=41), sender=sender))
        assert ((await get(store)).owner, (await get(store)).revision) == ("ann", 4)
