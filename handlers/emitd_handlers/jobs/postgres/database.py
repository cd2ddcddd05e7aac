"""`Database`: the connections to a PostgreSQL database, transactions in it, and its errors in words.

Works behind a pooler in transaction mode: nothing is set for a session, and each transaction that writes sets how it is
committed, whatever the defaults of role and database are.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import asyncpg

from emitd_handlers.jobs.database_url import postgres_options

Row: TypeAlias = "asyncpg.Record"
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)
T = TypeVar("T")

#: An option of the URL that asyncpg does not know.
_CACHE_SIZE = "statement_cache_size"
CONNECT_SECONDS = 5.0
#: How long one read or one transaction may take, with all its attempts.
CALL_SECONDS = 15.0
#: How long a migration may take: it may rewrite a table.
MIGRATION_SECONDS = 600.0
CLOSE_SECONDS = 5.0
#: How often a transaction is tried if it conflicts with others.
MAX_ATTEMPTS = 10

#: The errors of a database and of the way to it.
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
#: After these all connections are lost, not only the one that raised it.
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # the server is stopped
    asyncpg.ReadOnlySQLTransactionError,  # the server is no longer the primary one
    OSError,
    TimeoutError,
)
#: Others wrote to the same rows in another order.
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_ISOLATION = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
#: The last setting frees the rows that a dead process has locked. The plans that are switched off would read whole
#: tables for rows with given keys, if the tables were small when the plan was made.
_BEGIN = f"""
    {_ISOLATION};
    SET LOCAL synchronous_commit = on;
    SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
    SET LOCAL statement_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '20s'
"""
_BEGIN_MIGRATION = f"{_ISOLATION}; SET LOCAL synchronous_commit = on; SET LOCAL statement_timeout = 0"


class StartAgain(Exception):
    """Raised in a transaction that conflicts with another: it is undone and begun again."""


class CommitLost(asyncpg.PostgresConnectionError):
    """A transaction was undone instead of committed."""


class Database:
    """Makes connections when they are needed, at most `pool_size` at once, and replaces dead ones.

    All but `open`, `close` and `is_own` raise FAILURES. Times are exchanged as PostgreSQL has them: microseconds since
    2000-01-01T00:00:00Z, as integers.
    """

    def __init__(self, dsn: str, *, pool_size: int) -> None:
        self._pool_size = pool_size
        self._arguments = _connect_arguments(dsn)
        self._pool: asyncpg.Pool[Row] | None = None
        self._own_pids: set[int] = set()

    async def open(self) -> None:
        """Prepare to connect. Raises asyncpg.InterfaceError for an invalid URL."""
        self._pool = await asyncpg.create_pool(
            **self._arguments,
            min_size=0,
            max_size=self._pool_size,
            init=self._prepare,
            reset=_leave_alone,
        )

    async def close(self) -> None:
        """Close all connections; wait for those in use, but not long. Harmless without `open`."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        with suppress(*FAILURES):
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        pool.terminate()

    def is_own(self, pid: int) -> bool:
        """Return whether a process of the server belongs to one of the pool's connections."""
        return pid in self._own_pids

    async def connect(self) -> "asyncpg.Connection[Row]":
        """Return a connection outside of the pool."""
        return await asyncpg.connect(**self._arguments)

    async def fetch(self, query: str, *arguments: object) -> Sequence[Row]:
        """Return the rows of a query."""
        async with self._connection(CALL_SECONDS) as connection:
            return await connection.fetch(query, *arguments)

    async def transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` in one transaction, which is on the medium when this returns; again after conflicts."""
        async with self._connection(CALL_SECONDS) as connection:
            attempt = 1
            while True:
                try:
                    return await _transact(connection, _BEGIN, work)
                except (StartAgain, *_CONFLICTS) as error:
                    if attempt == MAX_ATTEMPTS:
                        raise asyncpg.SerializationError(
                            "others write to the same jobs all the time"
                        ) from error
                    attempt += 1

    async def migrate(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` in one transaction that may take long."""
        async with self._connection(MIGRATION_SECONDS) as connection:
            return await _transact(connection, _BEGIN_MIGRATION, work)

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncGenerator[Connection, None]:
        pool = self._pool
        if pool is None:
            raise asyncpg.InterfaceError("it is not open")
        try:
            async with asyncio.timeout(seconds):
                connection = await pool.acquire()
                try:
                    yield connection
                except asyncio.CancelledError:
                    # Do not wait for the database to stop its work.
                    with suppress(asyncpg.InterfaceError):  # it has just died
                        connection.terminate()
                    raise
                finally:
                    await pool.release(connection)
        except _LOST:
            await pool.expire_connections()
            raise

    async def _prepare(self, connection: "asyncpg.Connection[Row]") -> None:
        """Set up a connection of the pool; costs no round trip."""
        await connection.set_builtin_type_codec("timestamptz", schema="pg_catalog", codec_name="int8")
        pid = connection.get_server_pid()
        self._own_pids.add(pid)
        connection.add_termination_listener(lambda _: self._own_pids.discard(pid))


async def _transact(connection: Connection, begin: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    await connection.execute(begin)
    try:
        result = await work(connection)
        if await connection.execute("COMMIT") != "COMMIT":
            raise CommitLost("the transaction was undone")
    except Exception:
        with suppress(*FAILURES):  # a connection that has died can do nothing any more
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        raise
    return result


async def _leave_alone(_: object) -> None:
    """Do nothing with a connection that returns to the pool: no state outlives a transaction."""


def _connect_arguments(dsn: str) -> dict[str, Any]:
    """Return the arguments for asyncpg.

    `statement_cache_size=0` in the URL is for a pooler in transaction mode without prepared statements.
    """
    options = postgres_options(dsn)
    arguments: dict[str, Any] = {"timeout": CONNECT_SECONDS}
    for name, argument, kind in ((_CACHE_SIZE, _CACHE_SIZE, int), ("connect_timeout", "timeout", float)):
        value = options.pop(name, "")
        if value and (value != "0" or name == _CACHE_SIZE):
            arguments[argument] = kind(value)
    options.setdefault("application_name", options.pop("fallback_application_name", "emitd"))
    if "PGTARGETSESSIONATTRS" not in os.environ:
        options.setdefault("target_session_attrs", "primary")
    arguments["dsn"] = f"{dsn.partition('?')[0]}?{urlencode(options, quote_via=quote)}"
    return arguments


_OF_POOLERS = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


def reason(error: BaseException) -> str:
    """Return in one line what is wrong."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, _OF_POOLERS):
        return f"{text}; behind a pooler in transaction mode, add statement_cache_size=0 to the URL"
    return text


def advice(error: BaseException) -> str:
    """Return what to do about an error at start."""
    match error:
        case asyncpg.CannotConnectNowError():
            return "it is just starting or stopping: try again"
        case asyncpg.UndefinedObjectError():
            return "remove the option from the URL: neither emitd nor the server has it"
        case FileNotFoundError():
            return "check that the server runs, and the files and the host in the URL"
        case OSError() | TimeoutError() | asyncpg.PostgresConnectionError():
            return "check that the server runs, and that host and port in the URL are right"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return "check user and password in the URL"
        case asyncpg.InvalidCatalogNameError():
            return "make the database first: emitd makes only its tables"
        case asyncpg.InsufficientPrivilegeError():
            return "let the user make tables in the schema, or make the schema for it"
        case (
            asyncpg.DuplicateTableError() | asyncpg.DuplicateObjectError() | asyncpg.DuplicateFunctionError()
        ):
            return "it is not emitd's: choose other names with the keys `table` and `schema`"
        case asyncpg.TooManyConnectionsError():
            return "let the server take more connections, or use fewer with the key `pool_size`"
        case _:
            return "expected a PostgreSQL database that this user may make tables in"
