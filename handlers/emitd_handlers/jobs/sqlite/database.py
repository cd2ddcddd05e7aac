"""`SqliteConnection`: a connection to an SQLite database on which a commit survives a power cut."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import aiosqlite

from emitd_handlers.durable.disk import Disk
from emitd_handlers.durable.file_identity import Recovery, make_folders
from emitd_handlers.errors import HandlerUnavailable

#: The first with `RETURNING`.
MIN_VERSION = (3, 35)
#: How long to wait for another process that is writing to the same database.
BUSY_SECONDS = 5.0
_FILE_MODE = 0o600

P = ParamSpec("P")
T = TypeVar("T")


class SqliteConnection(aiosqlite.Connection):
    """A connection of aiosqlite that can also run a function in its thread.

    A transaction is one such call: awaiting each statement costs 75 µs for the way into the thread and back.
    """

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the database in WAL mode, every commit synced. Raises sqlite3.Error and HandlerUnavailable."""
        if sqlite3.sqlite_version_info < MIN_VERSION:
            raise HandlerUnavailable(f"SQLite {sqlite3.sqlite_version} is too old; expected 3.35 or newer")
        connection = cls(lambda: _connect(path), iter_chunk_size=64)
        # A call that hangs must not keep the process from ending. Until aiosqlite 0.21 the connection is the thread.
        thread: Any = getattr(connection, "_thread", connection)
        thread.daemon = True
        await connection
        return connection

    async def run(
        self, call: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a blocking `call` on the connection, in its thread, after the calls before it.

        Cancelling the wait does not stop the call.
        """
        result: T = await self._execute(call, self._conn, *args, **kwargs)  # type: ignore[no-untyped-call]
        return result


def make_database_file(path: Path) -> None:
    """Make a missing database, with mode 0600, and its missing folders, with mode 0700. Raises OSError.

    SQLite gives its other files the same mode.
    """
    disk = Disk()
    for made in make_folders(disk, path.parent):
        disk.sync_directory(made.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))
    disk.sync_directory(path.parent)


def save_database(source: sqlite3.Connection, path: Path, recovery: Recovery) -> Path:
    """Copy the open database of `path`, whose file may have no name, into a recovery folder; return the folder.

    Raises OSError, sqlite3.Error.
    """
    folder = recovery.make()
    copy = folder / path.name
    try:
        make_database_file(copy)
        with closing(_connect(copy)) as target:
            source.backup(target)
        recovery.sync(folder)
    except BaseException:  # half a copy must not be taken for the database
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise HandlerUnavailable(f"it cannot be put into WAL mode, but stays in mode '{mode}'")
        # NORMAL would lose acknowledged commits in a power cut, and so would fsync alone on macOS.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
    except BaseException:
        connection.close()
        raise
    return connection
