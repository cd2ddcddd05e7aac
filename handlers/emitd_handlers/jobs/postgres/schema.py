"""The tables of jobs, their names and their migrations.

The database may be the application's own: nothing but these tables is touched, and a table that emitd has not made is
not used. People and other programs may read the tables of jobs and of transitions; the others are for emitd alone.
Columns whose names end in `_unix_nano` are nanoseconds since 1970-01-01T00:00:00Z.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Self

import msgspec
from msgspec.structs import asdict

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.postgres.database import Connection

DEFAULT_TABLE = "job_logs"


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """Names for statements: quoted, tables with their schema."""

    schema: str
    jobs: str
    transitions: str
    commits: str
    lease_watch: str
    versions: str
    #: The function that triggers of the table of jobs run.
    cleaner: str
    #: The start of the names of indexes and triggers; not quoted.
    prefix: str
    #: The row of `versions`.
    component: str
    #: The channel of notifications; channels belong to the whole database.
    channel: str

    @classmethod
    def named(cls, schema: str, table: str) -> Self:
        """Return the names for a table. Those of the other tables begin with its name, unless it is the default."""
        companion = "job" if table == DEFAULT_TABLE else table

        def qualified(name: str) -> str:
            return f"{_quoted(schema)}.{_quoted(name)}"

        return cls(
            schema=_quoted(schema),
            jobs=qualified(table),
            transitions=qualified(f"{companion}_transitions"),
            commits=qualified(f"{companion}_commits"),
            lease_watch=qualified(f"{companion}_lease_watch"),
            versions=qualified("emitd_schema"),
            cleaner=qualified(f"{table}_clean_up"),
            prefix=table,
            component="jobs" if table == DEFAULT_TABLE else f"jobs:{table}",
            channel=f"emitd_jobs_{blake2b(f'{schema}/{table}'.encode(), digest_size=16).hexdigest()}",
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


#: For each version of the schema, from 1: the statements that lead to it from the version before.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # A report that changes no status mostly changes no indexed column either: then PostgreSQL writes the new row
        # into the same page and touches no index, if the page has room. In one transaction that can be all its rows.
        """
        CREATE TABLE {jobs} (
            job_id text COLLATE "C" NOT NULL PRIMARY KEY,
            job_type text NOT NULL,
            status text NOT NULL CHECK (status IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED')),
            progress integer NOT NULL CHECK (progress BETWEEN 0 AND 100),
            message text NOT NULL,
            details text, -- one JSON object as it was sent, or NULL: json types do not keep every number
            labels jsonb NOT NULL,
            source text NOT NULL,
            attempt bigint NOT NULL,
            revision bigint NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            event_time_unix_nano bigint NOT NULL,
            lease_seconds bigint NOT NULL, -- 0: no lease
            lease_expires_at timestamptz,
            lease_slot bigint GENERATED ALWAYS AS ({slot}) STORED, -- of ten seconds: most reports do not change it
            failure_reason text,
            failure_message text,
            cancel_requested boolean NOT NULL DEFAULT false,
            cancel_reason text,
            started_at timestamptz,
            ended_at timestamptz,
            history_revision bigint NOT NULL DEFAULT 0, -- up to which the history was removed
            has_history boolean NOT NULL DEFAULT true -- it has changed a status since then
        ) WITH (fillfactor = 50)
        """,
        "CREATE INDEX {prefix}_by_creation ON {jobs} (created_at, job_id)",
        "CREATE INDEX {prefix}_by_end ON {jobs} (ended_at) WHERE ended_at IS NOT NULL",
        """
        CREATE INDEX {prefix}_by_end_with_history ON {jobs} (ended_at)
        WHERE ended_at IS NOT NULL AND has_history
        """,
        # A new job with labels costs a quarter more; without the index, a query for rare labels reads the whole table.
        """
        CREATE INDEX {prefix}_by_labels ON {jobs} USING gin (labels jsonb_path_ops) WHERE labels <> '{{}}'
        """,
        "CREATE INDEX {prefix}_by_lease ON {jobs} (lease_slot) WHERE lease_slot IS NOT NULL",
        # `time_unix_nano` is any 64 bits that a sender likes, read as a signed number.
        """
        CREATE TABLE {transitions} (
            job_id text COLLATE "C" NOT NULL,
            revision bigint NOT NULL,
            attempt bigint NOT NULL,
            status text NOT NULL,
            progress integer NOT NULL,
            time_unix_nano bigint NOT NULL,
            failure_reason text,
            failure_message text,
            progress_only boolean NOT NULL,
            opened_by text, -- the record that opened the attempt
            PRIMARY KEY (job_id, revision)
        )
        """,
        """
        CREATE INDEX {prefix}_transitions_by_opener ON {transitions} (job_id, opened_by) WHERE opened_by IS NOT NULL
        """,
        # A later job with the id of a deleted one must not get its history. A foreign key would do the same, but look
        # up the job for each transition that is written.
        """
        CREATE FUNCTION {cleaner}() RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN
            IF TG_OP = 'TRUNCATE' THEN
                TRUNCATE {transitions};
            ELSE
                DELETE FROM {transitions} WHERE job_id IN (SELECT job_id FROM deleted);
            END IF;
            RETURN NULL;
        END
        $body$
        """,
        """
        CREATE TRIGGER {prefix}_deleted AFTER DELETE ON {jobs} REFERENCING OLD TABLE AS deleted
        FOR EACH STATEMENT EXECUTE FUNCTION {cleaner}()
        """,
        "CREATE TRIGGER {prefix}_truncated AFTER TRUNCATE ON {jobs} EXECUTE FUNCTION {cleaner}()",
        # One row for each transaction that changed jobs or took reports with a record_id. `receipts` is in msgpack what
        # is needed to answer a copy of each such report.
        """
        CREATE TABLE {commits} (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            recorded_at timestamptz NOT NULL DEFAULT now(),
            job_ids text[] NOT NULL,
            receipts bytea,
            receipt_count integer NOT NULL
        )
        """,
        "CREATE INDEX {prefix}_commits_by_xid ON {commits} (xid)",
        # One row: when the leases were last looked at; NULL: never.
        """
        CREATE TABLE {lease_watch} (
            is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
            passed_at timestamptz
        )
        """,
        "INSERT INTO {lease_watch} DEFAULT VALUES",
    ),
    # The source of the record in `opened_by`; NULL in earlier rows. Receipts have a source too, and other fingerprints.
    ("ALTER TABLE {transitions} ADD COLUMN opened_by_source text",),
    # The principal, or its group as `group:NAME`, that may report on the job; NULL: the next that does takes it.
    ("ALTER TABLE {jobs} ADD COLUMN owner text",),
)


def lease_slot(time: str) -> str:
    """Return an expression for the value of a time in the index of leases."""
    return f"floor(date_part('epoch', {time} AT TIME ZONE 'UTC') / 10)::bigint"


async def migrate(connection: Connection, tables: Tables) -> None:
    """Make or migrate the tables, in the caller's transaction. Of several processes at once, one does it.

    Needs no right to make anything if the tables are up to date. Raises asyncpg's errors, and HandlerUnavailable for
    tables that a newer emitd has made.
    """
    if await _version(connection, tables) == len(MIGRATIONS):
        return
    # For all that is made in the schema: several tables share `emitd_schema`.
    lock = f"emitd: migration of {tables.schema}"
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", lock)
    if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", tables.schema):
        await connection.execute(f"CREATE SCHEMA {tables.schema}")
    if await connection.fetchval("SELECT to_regclass($1) IS NULL", tables.versions):
        await connection.execute(
            f"CREATE TABLE {tables.versions} (component text NOT NULL PRIMARY KEY, version integer NOT NULL)"
        )
    version = await _version(connection, tables)
    slot = lease_slot("lease_expires_at")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            await connection.execute(statement.format(slot=slot, **asdict(tables)))
    await connection.execute(
        f"INSERT INTO {tables.versions} VALUES ($1, $2) "
        "ON CONFLICT (component) DO UPDATE SET version = excluded.version",
        tables.component,
        len(MIGRATIONS),
    )


async def _version(connection: Connection, tables: Tables) -> int:
    """Return the version of the tables, 0 for none. Raises HandlerUnavailable for an unknown one."""
    if await connection.fetchval("SELECT to_regclass($1) IS NULL", tables.versions):
        return 0
    version: int | None = await connection.fetchval(
        f"SELECT version FROM {tables.versions} WHERE component = $1", tables.component
    )
    if version is not None and version > len(MIGRATIONS):
        raise HandlerUnavailable(
            f"the tables of jobs have version {version}, and this emitd knows none after {len(MIGRATIONS)}: "
            "use a newer emitd"
        )
    return version or 0
