"""The tables of jobs: made, migrated, and nobody else's touched."""

import sqlite3
from collections.abc import Iterator

import pytest

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.sqlite import schema
from emitd_handlers.jobs.sqlite.schema import MIGRATIONS, migrate, transaction


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
    connection.execute("INSERT INTO job_receipts VALUES (1, x'00')")
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
