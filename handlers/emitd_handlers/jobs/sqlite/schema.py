"""The tables of jobs and their migrations.

The database may be the user's own: nothing but these tables is touched. People and other programs may read
`job_logs` and `job_transitions`; the other tables are for emitd alone. Times are UTC, in the form of SQLite's date
functions; columns whose names end in `_unix_nano` are nanoseconds since 1970-01-01T00:00:00Z.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from emitd_handlers.errors import HandlerUnavailable

#: For each version of the schema, from 1: the statements that lead to it from the version before.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # The check is spelt out because `status IN (...)` costs as much as the rest of an update.
        """
        CREATE TABLE job_logs (
            job_id TEXT NOT NULL PRIMARY KEY,
            job_type TEXT NOT NULL,
            status TEXT NOT NULL
                CHECK (status = 'RUNNING' OR status = 'QUEUED' OR status = 'COMPLETED' OR status = 'FAILED'),
            progress INTEGER NOT NULL CHECK (progress BETWEEN 0 AND 100),
            message TEXT NOT NULL,
            details TEXT, -- one JSON object, or NULL
            labels TEXT NOT NULL, -- one JSON object
            source TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            revision INTEGER NOT NULL,
            created_at TIMESTAMP NOT NULL,
            updated_at TIMESTAMP NOT NULL,
            event_time_unix_nano INTEGER NOT NULL,
            lease_seconds INTEGER NOT NULL, -- 0: no lease
            lease_expires_at TIMESTAMP,
            failure_reason TEXT,
            failure_message TEXT,
            cancel_requested INTEGER NOT NULL DEFAULT 0
        )
        """,
        "CREATE INDEX job_logs_by_creation ON job_logs (created_at, job_id)",
        # `time_unix_nano` is any 64 bits that a sender likes, read as a signed number.
        """
        CREATE TABLE job_transitions (
            job_id TEXT NOT NULL,
            revision INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            status TEXT NOT NULL,
            progress INTEGER NOT NULL,
            time_unix_nano INTEGER NOT NULL,
            PRIMARY KEY (job_id, revision)
        ) WITHOUT ROWID
        """,
        # A later job with the id of a deleted one must not get its history.
        """
        CREATE TRIGGER job_logs_deleted AFTER DELETE ON job_logs
        BEGIN DELETE FROM job_transitions WHERE job_id = old.job_id; END
        """,
        # One row for each transaction that took reports with a record_id: the number, counted from 1, of the
        # last of them, and in msgpack what is needed to answer a copy of each.
        "CREATE TABLE job_receipts (last_number INTEGER NOT NULL PRIMARY KEY, receipts BLOB NOT NULL)",
    ),
    (
        "ALTER TABLE job_logs ADD COLUMN cancel_reason TEXT",
        "ALTER TABLE job_logs ADD COLUMN started_at TIMESTAMP",
        "ALTER TABLE job_logs ADD COLUMN ended_at TIMESTAMP",
        # Up to which revision the history was removed, and whether there is some since then.
        "ALTER TABLE job_logs ADD COLUMN history_revision INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE job_logs ADD COLUMN has_history INTEGER NOT NULL DEFAULT 1",
        "UPDATE job_logs SET ended_at = updated_at WHERE status = 'COMPLETED' OR status = 'FAILED'",
        "CREATE INDEX job_logs_by_end ON job_logs (ended_at) WHERE ended_at IS NOT NULL",
        # Without a column that mere progress changes: it would cost each report a third more.
        "CREATE INDEX job_logs_by_end_with_history ON job_logs (ended_at) WHERE ended_at IS NOT NULL AND has_history",
        """
        CREATE INDEX job_logs_by_lease ON job_logs (lease_expires_at) WHERE lease_expires_at IS NOT NULL
        """,
        "ALTER TABLE job_transitions ADD COLUMN failure_reason TEXT",
        "ALTER TABLE job_transitions ADD COLUMN failure_message TEXT",
        "ALTER TABLE job_transitions ADD COLUMN progress_only INTEGER NOT NULL DEFAULT 0",
        # The record that opened the attempt.
        "ALTER TABLE job_transitions ADD COLUMN opened_by TEXT",
        """
        CREATE INDEX job_transitions_by_opener ON job_transitions (job_id, opened_by)
        WHERE opened_by IS NOT NULL
        """,
        # One row: when the leases were last looked at.
        "CREATE TABLE job_lease_watch (passed_at TIMESTAMP NOT NULL)",
    ),
    # The time of receipt of the transaction: times go on after it when the service starts.
    ("ALTER TABLE job_receipts ADD COLUMN recorded_at TIMESTAMP",),
    # The source of the record in `opened_by`; NULL in earlier rows. Receipts have a source too, and other fingerprints.
    ("ALTER TABLE job_transitions ADD COLUMN opened_by_source TEXT",),
    # The principal, or its group as `group:NAME`, that may report on the job; NULL: the next that does takes it.
    ("ALTER TABLE job_logs ADD COLUMN owner TEXT",),
)


def migrate(connection: sqlite3.Connection) -> None:
    """Make or migrate the tables, in one transaction.

    Raises sqlite3.Error, and HandlerUnavailable for tables that a newer emitd has made.
    """
    with transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS emitd_schema "
            "(component TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL)"
        )
        row = connection.execute("SELECT version FROM emitd_schema WHERE component = 'jobs'").fetchone()
        version = row[0] if row else 0
        if version > len(MIGRATIONS):
            raise HandlerUnavailable(
                f"the tables of jobs have version {version}, and this emitd knows none after {len(MIGRATIONS)}: "
                "use a newer emitd"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("REPLACE INTO emitd_schema VALUES ('jobs', ?)", (len(MIGRATIONS),))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction that writes; an exception undoes all of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have ended it
            connection.execute("ROLLBACK")
        raise
