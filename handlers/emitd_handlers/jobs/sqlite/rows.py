"""Statements that write rows of `job_logs` and `job_transitions`, and their parameters.

The functions run for each report. Their rows hold no None, which Python's sqlite3 takes longer to bind than any text:
NULL is written as ''.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import msgspec

from emitd_handlers.jobs import columns
from emitd_handlers.jobs.columns import JOB_COLUMNS, NULLABLE, TRANSITION_COLUMNS, UPDATED_COLUMNS
from emitd_handlers.jobs.source import Job

#: How many rows a statement can take: few different numbers, so that each statement is prepared only once.
_SIZES = (256, 64, 16, 4, 1)
_EPOCH = datetime(1970, 1, 1)  # in UTC, as all times here
_MICROSECOND = timedelta(microseconds=1)
_encode_labels = msgspec.json.Encoder().encode


class ManyRows:
    """Runs `<before> VALUES <row>, <row>, ... <after>`, each row with its own parameters.

    For each row of an `executemany` Python releases its global lock twice, and gets it back late if the event loop is
    busy. A statement with a VALUES clause is one step for all its rows, and takes 3 µs for each instead of 6.
    """

    def __init__(self, before: str, row: str, after: str = "") -> None:
        width = row.count("?")
        self._statements = [
            (size * width, f"{before} VALUES {', '.join([row] * size)} {after}") for size in _SIZES
        ]

    def run(
        self, connection: sqlite3.Connection, rows: Sequence[object], first: Sequence[object] = ()
    ) -> int:
        """Run it for all rows, whose parameters are in `rows` one after the other.

        `first` are the parameters in `before`. Return the number of changed rows.
        """
        changed = start = 0
        for length, statement in self._statements:
            while start + length <= len(rows):
                parameters = (*first, *rows[start : start + length])
                changed += connection.execute(statement, parameters).rowcount
                start += length
        return changed


@lru_cache(maxsize=64)
def time_text(unix_nano: int) -> str:
    """Return the time as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, whose order is that of time."""
    return (_EPOCH + timedelta(microseconds=unix_nano // 1000)).isoformat(" ", "microseconds")


def read_time(text: str | None) -> int:
    """Return the time in such a text, in nanoseconds since 1970-01-01T00:00:00Z; None: 0."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND * 1000 if text else 0


def _text_or_empty(unix_nano: int) -> str:
    return time_text(unix_nano) if unix_nano else ""


def _marks(names: Iterable[str]) -> str:
    """Return the placeholders of a row: '' becomes NULL in columns that can be NULL."""
    nullable = NULLABLE | {"lease_expires_at", "started_at", "ended_at"}
    return ", ".join(["nullif(?, '')" if name in nullable else "?" for name in names])


_COLUMN_NUMBERS = {name: number for number, name in enumerate(JOB_COLUMNS, start=2)}

#: What `job_from_row` takes.
JOB_NAMES = ", ".join(JOB_COLUMNS)
#: A row is the rowid and what `job_to_row` returns; so for the next.
INSERT_JOBS = ManyRows(f"INSERT INTO job_logs (rowid, {JOB_NAMES})", f"(?, {_marks(JOB_COLUMNS)})")
UPDATE_JOBS = ManyRows(
    f"""
    UPDATE job_logs SET
        {", ".join([f"{name} = column{_COLUMN_NUMBERS[name]}" for name in UPDATED_COLUMNS])}, has_history = 1
    FROM (
    """,
    f"(?, {_marks(JOB_COLUMNS)})",
    ") WHERE job_logs.rowid = column1",
)
#: For what most reports change: fewer columns, and half the time. The first parameter is `updated_at`.
UPDATE_TICKS = ManyRows(
    """
    UPDATE job_logs SET
        updated_at = ?, progress = column2, message = column3, revision = column4, event_time_unix_nano = column5,
        lease_expires_at = column6
    FROM (
    """,
    "(?, ?, ?, ?, ?, nullif(?, ''))",
    ") WHERE job_logs.rowid = column1",
)
INSERT_TRANSITIONS = ManyRows("INSERT INTO job_transitions", f"({_marks(TRANSITION_COLUMNS)})")


#: Returns the job in a row of JOB_NAMES.
job_from_row = partial(columns.job_from_row, read_time)


def job_to_row(job: Job, *, is_new: bool) -> list[Any]:
    """Return the parameters of a new row, or of one of which anything may have changed."""
    labels = _encode_labels(job.labels).decode() if job.labels else "{}"
    return columns.job_to_row(job, labels, _text_or_empty, is_new=is_new)


def tick_to_row(rowid: int, job: Job) -> tuple[Any, ...]:
    """Return the parameters of `UPDATE_TICKS`."""
    lease_expires_at = _text_or_empty(job.lease_expire_time_unix_nano)
    return (rowid, job.progress, job.message, job.revision, job.event_time_unix_nano, lease_expires_at)
