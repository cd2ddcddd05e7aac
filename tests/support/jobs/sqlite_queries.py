"""The questions about jobs in SQLite, asked over a plain connection and answered at once."""

import sqlite3
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from emitd_handlers.jobs.source import Job, JobPage, JobQuery, TransitionPage, TransitionQuery
from emitd_handlers.jobs.sqlite import queries
from emitd_handlers.jobs.store import JobHistory

T = TypeVar("T")


class Cursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    async def __aenter__(self) -> "Cursor":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cursor.close()

    async def fetchmany(self, size: int) -> Iterable[Any]:
        return self._cursor.fetchmany(size)


class Connection:
    """What the questions use of a connection of aiosqlite, without a thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute_fetchall(self, statement: str, parameters: Any = ()) -> Sequence[Any]:
        return self._connection.execute(statement, parameters).fetchall()

    def execute(self, statement: str, parameters: Any = ()) -> Cursor:
        return Cursor(self._connection.execute(statement, parameters))


def answer(question: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        question.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


def get_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    return answer(queries.get_job(Connection(connection), job_id))  # type: ignore[arg-type]


def load_history(
    connection: sqlite3.Connection, job_id: str, after_revision: int | None
) -> JobHistory | None:
    return answer(queries.load_history(Connection(connection), job_id, after_revision))  # type: ignore[arg-type]


def list_jobs(connection: sqlite3.Connection, query: JobQuery) -> JobPage:
    return answer(queries.list_jobs(Connection(connection), query))  # type: ignore[arg-type]


def list_transitions(connection: sqlite3.Connection, query: TransitionQuery) -> TransitionPage | None:
    return answer(queries.list_transitions(Connection(connection), query))  # type: ignore[arg-type]
