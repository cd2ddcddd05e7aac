"""Rows of jobs and transitions in PostgreSQL, the statement that writes them, and the check of texts it cannot store.

Times are microseconds since 2000-01-01T00:00:00Z here, as `Database` exchanges them.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.jobs import columns
from emitd_handlers.jobs.columns import (
    JOB_COLUMNS,
    NULLABLE,
    TRANSITION_COLUMNS,
    UPDATED_COLUMNS,
    transition_to_row,
)
from emitd_handlers.jobs.postgres.database import Connection, StartAgain
from emitd_handlers.jobs.postgres.schema import Tables
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.transaction import Work, encode_receipts, is_tick
from emitd_handlers.record import JobStatus, LogRecord

#: The values of one row to write.
Values: TypeAlias = Sequence[Any]

_encode = msgspec.json.Encoder().encode

MAX_BIGINT = 2**63 - 1
#: From 1970 to 2000, in microseconds.
_EPOCH = 946_684_800_000_000

#: A third of a page of an index, less its other contents.
MAX_KEY_BYTES = 2000
#: U+0000, and half a surrogate pair.
_unstorable = re.compile("[\0\ud800-\udfff]")

#: PostgreSQL has no room for 256 MB in one JSON value.
MAX_STATEMENT_BYTES = 64 * 1024 * 1024
#: A notification that would be larger says `many`. PostgreSQL takes less than 8,000.
MAX_PAYLOAD_BYTES = 4000


def pg_time(unix_nano: int) -> int:
    """Return the time in microseconds since 2000."""
    return unix_nano // 1000 - _EPOCH


def unix_nano(time: int | None) -> int:
    """Return the time in nanoseconds since 1970; None: 0."""
    return 0 if time is None else (time + _EPOCH) * 1000


def _time_or_none(unix_nano: int) -> int | None:
    return unix_nano // 1000 - _EPOCH if unix_nano else None


#: What `job_from_row` takes.
JOB_NAMES = ", ".join(JOB_COLUMNS)


#: Returns the job in a row of JOB_NAMES.
job_from_row = partial(columns.job_from_row, unix_nano)


def job_to_row(job: Job) -> Values:
    """Return the values of a new row, in the order of its part in `ChangeWriter`."""
    return columns.job_to_row(job, job.labels, _time_or_none)


def tick_to_row(before: Job, job: Job) -> Values:
    """Return the values of a row with mere progress (see `is_tick`), likewise."""
    return (
        before.revision,
        job.job_id,
        job.progress,
        job.message,
        job.revision,
        job.event_time_unix_nano,
        _time_or_none(job.lease_expire_time_unix_nano),
    )


def is_storable(text: str) -> bool:
    """Return whether a text can be stored as it is."""
    return not _unstorable.search(text)


def cleaned(text: str) -> str:
    """Return a text for people with U+FFFD for each character that cannot be stored."""
    return _unstorable.sub("\N{REPLACEMENT CHARACTER}", text)


def check_record(record: LogRecord) -> LogRecord:
    """Return the record in a form that can be stored; called only after the database has refused its batch.

    Texts for people, `message` and `failure_message`, are cleaned: the end of a job is not refused for one character in
    the output of a program. Raises RecordInvalid for all other fields, which programs compare.
    """
    report = record.payload
    if not isinstance(report, JobStatus):
        return record
    texts = {
        "record_id": record.record_id if report.new_attempt else record.record_id.replace("\0", ""),
        "source": record.source,
        "job.job_id": report.job_id,
        "job.job_type": report.job_type,
        "job.details_json": report.details_json,
        "job.labels": "".join([*report.labels, *report.labels.values()]),
        "job.failure_reason": report.failure_reason,
    }
    for field, text in texts.items():
        if found := _unstorable.search(text):
            raise RecordInvalid(field, f"has U+{ord(found.group()):04X}, which the database cannot store")
    size = len(report.job_id.encode())
    if size > MAX_KEY_BYTES:
        raise RecordInvalid(
            "job.job_id", f"has {size} bytes, more than the database can index, {MAX_KEY_BYTES}"
        )
    if is_storable(record.message) and is_storable(report.failure_message):
        return record
    return replace(
        record,
        message=cleaned(record.message),
        payload=replace(report, failure_message=cleaned(report.failure_message)),
    )


#: The types of columns that are not text.
_TYPES = {
    "progress": "int",
    "labels": "jsonb",
    "cancel_requested": "bool",
    "progress_only": "bool",
    "old_revision": "bigint",
    "revision": "bigint",
    "attempt": "bigint",
    "event_time_unix_nano": "bigint",
    "time_unix_nano": "bigint",
    "lease_seconds": "bigint",
    **{name: "timestamptz" for name in JOB_COLUMNS if name.endswith("_at")},
}
_TRANSITION_NAMES = ", ".join(TRANSITION_COLUMNS)
_SET = ", ".join([f"{name} = new.{name}" for name in UPDATED_COLUMNS])
_UPDATE = """
    UPDATE {{jobs}} AS job SET {}
    FROM {{rows}} WHERE job.job_id = new.job_id AND job.revision = new.old_revision AND {{condition}}
    RETURNING 1
"""


class _Part(NamedTuple):
    """A CTE that writes rows of one kind, `{rows}`, if `{condition}` holds."""

    name: str
    #: In the order of a row's values.
    columns: Sequence[str]
    text: str


_PARTS = (
    _Part(
        "inserted",
        [*JOB_COLUMNS],
        f"""
        INSERT INTO {{jobs}} ({JOB_NAMES}) SELECT {JOB_NAMES} FROM {{rows}} ORDER BY job_id COLLATE "C"
        ON CONFLICT (job_id) DO NOTHING
        RETURNING 1
        """,
    ),
    _Part("updated", ["old_revision", *JOB_COLUMNS], _UPDATE.format(f"{_SET}, has_history = true")),
    _Part(
        "ticked",
        [
            "old_revision",
            "job_id",
            "progress",
            "message",
            "revision",
            "event_time_unix_nano",
            "lease_expires_at",
        ],
        _UPDATE.format(
            """
            updated_at = {now}, progress = new.progress, message = new.message, revision = new.revision,
            event_time_unix_nano = new.event_time_unix_nano, lease_expires_at = new.lease_expires_at
            """
        ),
    ),
    _Part(
        "noted",
        TRANSITION_COLUMNS,
        f"""
        INSERT INTO {{transitions}} ({_TRANSITION_NAMES}) SELECT {_TRANSITION_NAMES}
        FROM {{rows}} WHERE {{condition}}
        RETURNING 1
        """,
    ),
)


class ChangeWriter:
    """Writes all changes of a transaction with one statement.

    It has a part for each kind of row that there is: new jobs, jobs of which anything may have changed, jobs with mere
    progress, transitions; and the transaction's own row and its notification. A part gets its rows as one JSON text:
    asyncpg takes ten times longer to encode arrays, and PostgreSQL twice as long to read them. Each statement is made
    once, and is then the same object.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        #: By the parts that are present.
        self._statements: dict[tuple[bool, ...], str] = {}

    async def write(self, connection: Connection, work: Work, removed: Sequence[str] = ()) -> None:
        """Write the changes of jobs, in the transaction that has locked them; `removed` are deleted jobs."""
        created: list[Values] = []
        updated: list[Values] = []
        ticked: list[Values] = []
        job_ids = list(removed)
        now = work.now_unix_nano - work.now_unix_nano % 1000
        for item in work.changed():
            job, before = item.job, item.before
            job_ids.append(job.job_id)
            if before is None:
                created.append(job_to_row(job))
            elif job.update_time_unix_nano == now and is_tick(before, job):
                ticked.append(tick_to_row(before, job))
            else:
                updated.append([before.revision, *job_to_row(job)])
        if not job_ids and not work.receipts:
            return
        noted = [transition_to_row(job_id, transition) for job_id, transition in work.transitions]
        commit = (_encode(job_ids).decode(), encode_receipts(work.receipts), len(work.receipts))
        parts: Sequence[Sequence[Values]] = (created, updated, ticked, noted)
        texts = [_encode(rows) for rows in parts]
        if sum(map(len, texts)) <= MAX_STATEMENT_BYTES:
            await self._execute(connection, pg_time(now), commit, parts, texts)
            return
        # Part by part, in the same order; the last statement has none of them.
        for index, rows in enumerate(parts):
            for some in _divided(rows):
                one = tuple([some if place == index else () for place in range(len(parts))])
                await self._execute(connection, pg_time(now), (None, None, 0), one, list(map(_encode, one)))
        await self._execute(connection, pg_time(now), commit, ((),) * len(parts), [])

    async def _execute(
        self,
        connection: Connection,
        now: int,
        commit: tuple[str | None, bytes | None, int],
        parts: Sequence[Sequence[Values]],
        texts: Sequence[bytes],
    ) -> None:
        present = tuple([bool(rows) for rows in parts])
        statement = self._statements.get(present)
        if statement is None:
            statement = self._statements[present] = self._put_together(present)
        parameters = [text.decode() for text, rows in zip(texts, parts, strict=False) if rows]
        ((count, *_),) = await connection.fetch(statement, now, *commit, *parameters)
        if count != sum(map(len, parts)):
            raise StartAgain  # another transaction has made one of the jobs

    def _put_together(self, present: Sequence[bool]) -> str:
        """Return the statement with some of the parts.

        Its parameters: the time of receipt; the ids of the changed jobs as a JSON text, or None to leave out the
        transaction's row; the receipts, or None; their number; and a JSON text for each part. It returns one row, which
        begins with the number of rows that the parts have written.
        """
        tables = self._tables
        condition = "true"
        ctes: list[str] = []
        parts = [part for part, is_present in zip(_PARTS, present, strict=True) if is_present]
        for number, part in enumerate(parts, start=5):
            text = part.text.format(
                jobs=tables.jobs,
                transitions=tables.transitions,
                rows=_rows(part, number),
                condition=condition,
                now="$1::timestamptz",
            )
            ctes.append(f"{part.name} AS ({text})")
            if part.name == "inserted":
                # The other parts wait for no other transaction if the jobs that were to be new are.
                condition = f"(SELECT count(*) FROM {part.name}) = jsonb_array_length(${number}::jsonb)"
        ctes.append(
            f"""committed AS (
                INSERT INTO {tables.commits} (job_ids, receipts, receipt_count, recorded_at)
                SELECT ARRAY(SELECT jsonb_array_elements_text($2::text::jsonb)), $3::bytea, $4::int, $1::timestamptz
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


def _divided(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """Yield the rows in parts that are small enough for a statement."""
    if len(rows) > 1 and len(_encode(rows)) > MAX_STATEMENT_BYTES:
        middle = len(rows) // 2
        yield from _divided(rows[:middle])
        yield from _divided(rows[middle:])
    elif rows:
        yield rows


def _rows(part: _Part, number: int) -> str:
    """Return a table of the rows of a part; their JSON text is the parameter with this number."""
    values = ", ".join([f"{_value(index, name)} AS {name}" for index, name in enumerate(part.columns)])
    return f"(SELECT {values} FROM jsonb_array_elements(${number}::jsonb) AS item) AS new"


def _value(index: int, name: str) -> str:
    match _TYPES.get(name, "text"):
        case "text":
            return f"nullif(item ->> {index}, '')" if name in NULLABLE else f"item ->> {index}"
        case "jsonb":
            return f"item -> {index}"
        case "timestamptz":
            # As `Database` exchanges them.
            return f"'2000-01-01Z'::timestamptz + (item ->> {index})::bigint * interval '1 microsecond'"
        case kind:
            return f"(item ->> {index})::{kind}"
