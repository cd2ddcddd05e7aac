"""`PostgresJobStore`: jobs in a PostgreSQL database, which several processes share.

It uses a pool of connections, and one that listens to what other processes do. Time is the database's clock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec
from msgspec.structs import asdict

from emitd_handlers.diagnostics import Report
from emitd_handlers.diagnostics import report as report_to_operator
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.postgres.database import FAILURES, Connection, Database, Row, advice, reason
from emitd_handlers.jobs.postgres.listener import Listener, OnForeignChange
from emitd_handlers.jobs.postgres.queries import JobQueries
from emitd_handlers.jobs.postgres.schema import DEFAULT_TABLE, Tables, migrate
from emitd_handlers.jobs.postgres.writer import PostgresJobs
from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.store import Applied, JobHistory, Removed, Retention
from emitd_handlers.jobs.transaction import DEFAULT_RULES, Rules
from emitd_handlers.outcome import RecentCommit
from emitd_handlers.record import LogRecord

T = TypeVar("T")

#: The first with transaction numbers that are never used again.
MIN_MAJOR_VERSION = 13
#: How often to remove rows of old transactions.
PRUNE_SECONDS = 30.0


class _Opened(msgspec.Struct, frozen=True):
    """The parts that use the open database."""

    #: Those of `Tables`.
    names: dict[str, str]
    jobs: PostgresJobs
    listener: Listener


class PostgresJobStore(JobQueries):
    """A `SharedJobStore`, whose methods are described there. `on_foreign_change` is called in the event loop."""

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "",
        table: str = DEFAULT_TABLE,
        rules: Rules = DEFAULT_RULES,
        pool_size: int = 4,
        on_foreign_change: OnForeignChange = lambda _: None,
        report: Report | None = None,
    ) -> None:
        """`schema`: made if it is missing; empty: the connection's own.

        `report` gets a line when notifications stop or come again. Raises ValueError for invalid options.
        """
        self._name = str(DatabaseUrl(dsn=dsn))
        self._database = Database(dsn, pool_size=pool_size)
        self._schema = schema
        self._table = table
        self._rules = rules
        self._on_foreign_change = on_foreign_change
        self._report = report or report_to_operator
        self._opened: _Opened | None = None
        self._kept_receipts = 100_000
        self._prune_at = 0.0

    async def open(self) -> None:
        await self.close()
        try:
            await self._database.open()
            tables = await self._database.migrate(self._prepare_tables)
            jobs = PostgresJobs(self._database, tables, self._report_of_database, rules=self._rules)
            await jobs.resume_clock()
        except BaseException as error:
            await self._database.close()
            if isinstance(error, HandlerUnavailable):
                raise HandlerUnavailable(f"database '{self._name}' cannot be opened: {error}") from error
            if isinstance(error, FAILURES):
                raise HandlerUnavailable(
                    f"database '{self._name}' cannot be opened: {reason(error)}; {advice(error)}"
                ) from error
            raise
        self._opened = _Opened(
            asdict(tables),
            jobs,
            Listener(
                self._database.connect,
                tables.channel,
                is_own=self._database.is_own,
                on_foreign_change=self._on_foreign_change,
                report=self._report_of_database,
            ),
        )
        self._opened.listener.start()

    async def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.listener.stop()
            await self._database.close()

    async def apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        return await self._with(lambda opened: opened.jobs.apply(records, interest))

    async def end_expired(
        self, interval_seconds: float, waited_seconds: float, interest: Container[str]
    ) -> Sequence[JobHistory]:
        changes = await self._with(
            lambda opened: opened.jobs.end_expired(interval_seconds, waited_seconds, interest)
        )
        if changes is None:
            return ()
        with suppress(HandlerUnavailable):  # the pass has been made; the next call tells
            await self._prune()
        return changes

    async def request_cancel(
        self, job_id: str, reason: str, interest: Container[str]
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        return await self._with(lambda opened: opened.jobs.request_cancel(job_id, reason, interest))

    async def remove_ended(self, retention: Retention, limit: int) -> Removed:
        return await self._with(lambda opened: opened.jobs.remove_ended(retention, limit))

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        commits = await super().recent_commits(limit)
        self._kept_receipts = limit
        return commits

    async def _prepare_tables(self, connection: Connection) -> Tables:
        if connection.get_server_version().major < MIN_MAJOR_VERSION:
            raise HandlerUnavailable(f"it is older than PostgreSQL {MIN_MAJOR_VERSION}: use a newer server")
        encoding = await connection.fetchval("SHOW server_encoding")
        if encoding != "UTF8":
            raise HandlerUnavailable(f"its encoding is {encoding}: use a database with encoding UTF8")
        schema = self._schema or await connection.fetchval("SELECT current_schema()")
        if schema is None:
            raise HandlerUnavailable("the connection has no current schema: name one with the key `schema`")
        tables = Tables.named(schema, self._table)
        await migrate(connection, tables)
        return tables

    async def _prune(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._prune_at:
            return
        if not await self._with(lambda opened: opened.jobs.prune_commits(self._kept_receipts)):
            self._prune_at = now + PRUNE_SECONDS

    def _report_of_database(self, line: str) -> None:
        self._report(f"database '{self._name}': {line}")

    async def _fetch(self, query: str, *arguments: object) -> Sequence[Row]:
        return await self._with(lambda opened: self._database.fetch(query.format(**opened.names), *arguments))

    async def _with(self, call: Callable[[_Opened], Awaitable[T]]) -> T:
        """Return what a call does with the open database. Raises HandlerUnavailable for whatever goes wrong with it."""
        if self._opened is None:
            raise HandlerUnavailable(f"database '{self._name}' is not open")
        try:
            return await call(self._opened)
        except FAILURES as error:
            raise HandlerUnavailable(f"database '{self._name}' failed: {reason(error)}") from error
