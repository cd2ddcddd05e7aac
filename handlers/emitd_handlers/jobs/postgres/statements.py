"""`WriteStatements`: the one statement that writes all that a transaction has done to jobs.

It has a part for each kind of row that is to be written, and only those: new jobs, jobs of which anything may have
changed, jobs with mere progress, transitions; and the transaction's own row and its notification. A part gets its rows
as one JSON text: asyncpg takes ten times longer to encode them as arrays, and PostgreSQL twice as long to take them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emitd_handlers.jobs.postgres.tables import Tables

__all__ = ["WriteStatements"]

#: A notification that would be larger says `many`. PostgreSQL takes less than 8,000.
MAX_PAYLOAD_BYTES = 4000


class _Part(NamedTuple):
    """A CTE that writes rows of one kind: `{rows}` are the rows, `{condition}` says whether to write them at all."""

    name: str
    #: Names and types, in the order of a row's values.
    columns: Sequence[tuple[str, str]]
    text: str
    #: It waits for no other transaction if the jobs that were to be new are.
    needs_new_jobs: bool = True


def _columns(text: str) -> Sequence[tuple[str, str]]:
    words = [item.split() for item in text.split(",")]
    return [(name, kind) for name, kind in words]


_PARTS = (
    _Part(
        "inserted",
        _columns(
            "job_id text, job_type text, status text, progress int, message text, details text, labels jsonb, "
            "source text, attempt bigint, revision bigint, created_at timestamptz, updated_at timestamptz, "
            "event_time_unix_nano bigint, lease_seconds bigint, lease_expires_at timestamptz, failure_reason text, "
            "failure_message text, started_at timestamptz, ended_at timestamptz"
        ),
        """
        INSERT INTO {jobs} (
            job_id, job_type, status, progress, message, details, labels, source, attempt, revision, created_at,
            updated_at, event_time_unix_nano, lease_seconds, lease_expires_at, failure_reason, failure_message,
            started_at, ended_at
        )
        SELECT
            job_id, job_type, status, progress, message, details, labels, source, attempt, revision, created_at,
            updated_at, event_time_unix_nano, lease_seconds, lease_expires_at, failure_reason, failure_message,
            started_at, ended_at
        FROM {rows} ORDER BY job_id COLLATE "C"
        ON CONFLICT (job_id) DO NOTHING
        RETURNING 1
        """,
        needs_new_jobs=False,
    ),
    _Part(
        "updated",
        _columns(
            "job_id text, old_revision bigint, status text, progress int, message text, details text, labels jsonb, "
            "source text, attempt bigint, revision bigint, updated_at timestamptz, event_time_unix_nano bigint, "
            "lease_seconds bigint, lease_expires_at timestamptz, failure_reason text, failure_message text, "
            "cancel_requested bool, cancel_reason text, started_at timestamptz, ended_at timestamptz"
        ),
        """
        UPDATE {jobs} AS job SET
            status = new.status, progress = new.progress, message = new.message, details = new.details,
            labels = new.labels, source = new.source, attempt = new.attempt, revision = new.revision,
            updated_at = new.updated_at, event_time_unix_nano = new.event_time_unix_nano,
            lease_seconds = new.lease_seconds, lease_expires_at = new.lease_expires_at,
            failure_reason = new.failure_reason, failure_message = new.failure_message,
            cancel_requested = new.cancel_requested, cancel_reason = new.cancel_reason,
            started_at = new.started_at, ended_at = new.ended_at, has_history = true
        FROM {rows}
        WHERE job.job_id = new.job_id AND job.revision = new.old_revision AND {condition}
        RETURNING 1
        """,
    ),
    _Part(
        "ticked",
        _columns(
            "job_id text, old_revision bigint, progress int, message text, revision bigint, "
            "event_time_unix_nano bigint, lease_expires_at timestamptz"
        ),
        """
        UPDATE {jobs} AS job SET
            updated_at = {now}, progress = new.progress, message = new.message, revision = new.revision,
            event_time_unix_nano = new.event_time_unix_nano, lease_expires_at = new.lease_expires_at
        FROM {rows}
        WHERE job.job_id = new.job_id AND job.revision = new.old_revision AND {condition}
        RETURNING 1
        """,
    ),
    _Part(
        "noted",
        _columns(
            "job_id text, revision bigint, attempt bigint, status text, progress int, time_unix_nano bigint, "
            "failure_reason text, failure_message text, progress_only bool, opened_by text"
        ),
        """
        INSERT INTO {transitions} (
            job_id, revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only,
            opened_by
        )
        SELECT
            job_id, revision, attempt, status, progress, time_unix_nano, failure_reason, failure_message, progress_only,
            opened_by
        FROM {rows} WHERE {condition}
        RETURNING 1
        """,
    ),
)


class WriteStatements:
    """The statements for the tables of one store. Each is put together once, and is then the same object."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._texts: dict[tuple[bool, ...], str] = {}

    def text(self, present: tuple[bool, ...]) -> str:
        """Return the statement with those parts that are present, of new jobs, changed ones, progress, transitions.

        Its parameters: the time of update of mere progress; the ids of the jobs that are changed, as a JSON text, or
        None if the transaction's row is not to be written now; its receipts, or None; how many these are; and a JSON
        text for each part. It returns one row: how many rows the parts have written, and the transaction's number.
        """
        text = self._texts.get(present)
        if text is None:
            text = self._texts[present] = self._put_together(present)
        return text

    def _put_together(self, present: Sequence[bool]) -> str:
        tables = self._tables
        condition = "true"
        ctes: list[str] = []
        parts = [part for part, is_present in zip(_PARTS, present, strict=True) if is_present]
        for number, part in enumerate(parts, start=5):
            text = part.text.format(
                jobs=tables.jobs,
                transitions=tables.transitions,
                rows=_rows(part, number),
                condition=condition if part.needs_new_jobs else "true",
                now="$1::timestamptz",
            )
            ctes.append(f"{part.name} AS ({text})")
            if not part.needs_new_jobs:
                condition = f"(SELECT count(*) FROM {part.name}) = jsonb_array_length(${number}::jsonb)"
        ctes.append(
            f"""committed AS (
                INSERT INTO {tables.commits} (job_ids, receipts, receipt_count)
                SELECT ARRAY(SELECT jsonb_array_elements_text($2::text::jsonb)), $3::bytea, $4::int
                WHERE $2::text IS NOT NULL
            )"""
        )
        counts = [f"(SELECT count(*) FROM {part.name})" for part in parts]
        payload = f"CASE WHEN octet_length($2::text) <= {MAX_PAYLOAD_BYTES} THEN $2::text ELSE 'many' END"
        return f"""
            WITH {", ".join(ctes)}
            SELECT {" + ".join(counts) or 0}, pg_current_xact_id()::xid, $1::timestamptz,
                CASE WHEN $2::text <> '[]' THEN pg_notify('{tables.channel}', {payload}) END
        """


def _rows(part: _Part, number: int) -> str:
    """Return a table of the rows of a part, whose JSON text is the parameter with that number."""
    values = ", ".join(
        [f"{_value(index, kind)} AS {name}" for index, (name, kind) in enumerate(part.columns)]
    )
    return f"(SELECT {values} FROM jsonb_array_elements(${number}::jsonb) AS item) AS new"


def _value(index: int, kind: str) -> str:
    match kind:
        case "text":
            return f"item ->> {index}"
        case "jsonb":
            return f"item -> {index}"
        case "timestamptz":
            # As `Database` exchanges them.
            return f"'2000-01-01Z'::timestamptz + (item ->> {index})::bigint * interval '1 microsecond'"
        case _:
            return f"(item ->> {index})::{kind}"
