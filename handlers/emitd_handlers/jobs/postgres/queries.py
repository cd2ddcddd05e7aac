"""`JobQueries`: the half of `PostgresJobStore` that reads. Each answer is one snapshot, because it is one statement."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from emitd_handlers.jobs.columns import TRANSITION_READ_COLUMNS, transitions_from_json
from emitd_handlers.jobs.paging import (
    MAX_PART_TRANSITIONS,
    history_part,
    job_page,
    read_job_token,
    read_transition_token,
    transition_page,
)
from emitd_handlers.jobs.postgres.database import Row
from emitd_handlers.jobs.postgres.rows import (
    JOB_NAMES,
    MAX_BIGINT,
    is_storable,
    job_from_row,
    pg_time,
)
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, TransitionPage, TransitionQuery
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.transaction import recent_commits
from emitd_handlers.outcome import RecentCommit
from emitd_handlers.room import MAX_PAGE_BYTES

#: How many rows of the table of commits are read at once.
COMMITS_PAGE_SIZE = 500
_encode_labels = msgspec.json.Encoder().encode


_NEWEST_FIRST = "ORDER BY created_at DESC, job_id DESC"


def _is_in_page(page_bytes: int) -> str:
    """Return a condition on `_size_before`: a page and one row, so that `paging` sees that there is more."""
    return f"coalesce(size_before, 0) < {page_bytes}"


def _size_before(columns: str, order: str) -> str:
    """Return an expression for the size of the texts of all rows up to the second before; it reads none of them."""
    sizes = " + ".join([f"coalesce(octet_length({column.strip()}), 0)" for column in columns.split(",")])
    return f"sum({sizes}) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING) AS size_before"


def _next_transitions(condition: str) -> str:
    return f"""
        SELECT json_agg(json_build_array({TRANSITION_READ_COLUMNS}) ORDER BY revision) FROM (
            SELECT *, {_size_before("failure_message", "revision")} FROM (
                SELECT * FROM {{transitions}}
                WHERE job_id = $1 AND revision > $2::bigint {condition} ORDER BY revision LIMIT $3
            ) AS next
        ) AS sized WHERE {_is_in_page(MAX_PAGE_BYTES)}
    """


# The statements; `Tables` has the names in braces.
SELECT = f"SELECT {JOB_NAMES} FROM {{jobs}}"
SELECT_MANY = f"{SELECT} WHERE job_id = ANY($1::text[])"
SELECT_HISTORY = f"""
    SELECT {JOB_NAMES}, history_revision,
        ({_next_transitions("AND NOT progress_only AND $2::bigint < job.revision")}) AS transitions
    FROM {{jobs}} AS job WHERE job_id = $1
"""
SELECT_TRANSITIONS = f"""
    SELECT history_revision, ({_next_transitions("")}) AS transitions FROM {{jobs}} WHERE job_id = $1
"""
SELECT_REVISIONS = "SELECT job_id, revision FROM {jobs} WHERE job_id = ANY($1::text[])"
SELECT_CHANGES = """
    SELECT pg_current_snapshot()::text AS snapshot, ARRAY(
        SELECT DISTINCT unnest(job_ids) FROM {commits}
        WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
            AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
    ) AS job_ids
"""
SELECT_COMMITS = f"""
    SELECT number, receipts, receipt_count FROM {{commits}} WHERE receipt_count > 0 AND number < $1
    ORDER BY number DESC LIMIT {COMMITS_PAGE_SIZE}
"""


class JobQueries(ABC):
    """Its methods are described in `SharedJobStore`."""

    @abstractmethod
    async def _fetch(self, query: str, *arguments: object) -> Sequence[Row]:
        """Return the rows of a query, in which the names of tables stand in braces. Raises HandlerUnavailable."""

    async def get(self, job_id: str) -> Job | None:
        jobs = await self.load_many([job_id])
        return jobs[0] if jobs else None

    async def load_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        rows = await self._fetch(SELECT_MANY, _storable(job_ids))
        return [job_from_row(row) for row in rows]

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        rows = await self._fetch(SELECT_REVISIONS, _storable(job_ids))
        return {row["job_id"]: row["revision"] for row in rows}

    async def list(self, query: JobQuery) -> JobPage:
        # Pages go by (created_at, job_id), which no report changes.
        conditions: list[str] = []
        parameters: list[object] = [query.page_size + 1]

        def require(condition: str, *values: object) -> None:
            numbers = [f"${len(parameters) + index}" for index in range(1, len(values) + 1)]
            conditions.append(condition.format(*numbers))
            parameters.extend(values)

        texts = [query.job_type, *query.labels, *query.labels.values()]
        job_ids = _storable(query.job_ids)
        last = read_job_token(query)
        if not all(map(is_storable, texts)) or (query.job_ids and not job_ids):
            return JobPage((), "")
        if last is not None:
            require("(created_at, job_id) < ({}::timestamptz, {}::text)", pg_time(last[0]), last[1])
        if query.job_type:
            require("job_type = {}", query.job_type)
        if query.statuses:
            require("status = ANY({}::text[])", [status.name for status in query.statuses])
        if query.job_ids:
            require("job_id = ANY({}::text[])", job_ids)
        if query.labels:
            # The index has only jobs with labels.
            require(
                "labels @> {}::text::jsonb AND labels <> '{{{{}}}}'", _encode_labels(query.labels).decode()
            )
        if query.updated_after_unix_nano:
            require("updated_at > {}", pg_time(query.updated_after_unix_nano))
        # The rows may be large: those beyond the page are not sent.
        newest = f"{SELECT} WHERE {' AND '.join(conditions) or 'true'} {_NEWEST_FIRST} LIMIT $1"
        size = _size_before("message, details", "created_at DESC, job_id DESC")
        sized = f"SELECT *, {size} FROM ({newest}) AS newest"
        statement = f"SELECT {JOB_NAMES} FROM ({sized}) AS sized WHERE {_is_in_page(query.page_bytes)} {_NEWEST_FIRST}"
        rows = await self._fetch(statement, *parameters)
        return job_page(query, map(job_from_row, rows))

    async def load_history(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        if not is_storable(job_id):
            return None
        # Without a revision, none comes after it.
        after = None if after_revision is None else min(after_revision, MAX_BIGINT)
        rows = await self._fetch(SELECT_HISTORY, job_id, after, MAX_PART_TRANSITIONS + 1)
        if not rows:
            return None
        *columns, history_revision, transitions = rows[0]
        job = job_from_row(columns)
        if after is None or after >= job.revision:
            return JobHistory(job, (), job.revision)
        return history_part(job, transitions_from_json(transitions), max(after, history_revision))

    async def list_transitions(self, query: TransitionQuery) -> TransitionPage | None:
        after_revision = read_transition_token(query)
        if not is_storable(query.job_id):
            return None
        rows = await self._fetch(SELECT_TRANSITIONS, query.job_id, after_revision, query.page_size + 1)
        if not rows:
            return None
        history_revision, transitions = rows[0]
        return transition_page(query, transitions_from_json(transitions), kept_after=history_revision)

    async def changes_since(self, mark: int | None) -> tuple[int, Sequence[str]]:
        # A mark is a snapshot, with its text read as a number: it says which transactions were seen, however long some
        # of them take to commit. Without a mark the whole past counts as seen.
        before = f"{MAX_BIGINT}:{MAX_BIGINT}:"
        if mark is not None:
            before = mark.to_bytes((mark.bit_length() + 7) // 8).decode()
        ((snapshot, job_ids),) = await self._fetch(SELECT_CHANGES, before)
        if mark is not None and _bounds(before)[0] > _bounds(snapshot)[1]:
            # Transaction numbers have started again: it is another database now, of which nothing was seen.
            ((snapshot, job_ids),) = await self._fetch(SELECT_CHANGES, _NOTHING_SEEN)
        return int.from_bytes(snapshot.encode()), job_ids

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        stored: list[bytes] = []
        count, number = 0, MAX_BIGINT
        while count < limit:
            rows = await self._fetch(SELECT_COMMITS, number)
            stored += [row["receipts"] for row in rows]
            count += sum([row["receipt_count"] for row in rows])
            if len(rows) < COMMITS_PAGE_SIZE:
                break
            number = rows[-1]["number"]
        return recent_commits(stored, limit)


def _storable(job_ids: Sequence[str]) -> Sequence[str]:
    """Return the ids that a job can have."""
    return [job_id for job_id in job_ids if is_storable(job_id)]


#: A snapshot that sees no transaction: ordinary ones are counted from 3.
_NOTHING_SEEN = "3:3:"


def _bounds(snapshot: str) -> tuple[int, int]:
    """Return the number of the first transaction not seen, and the number after the last one that may be seen."""
    first, end, _ = snapshot.split(":")
    return int(first), int(end)
