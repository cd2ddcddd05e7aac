"""What errors of asyncpg and of the way to the database mean, in words, and what to do about them."""

import asyncpg

__all__ = ["advice", "reason"]

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
