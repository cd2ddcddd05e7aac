"""The SQLite database of a spool: how it is made, opened and checked, and left alone in a forked child.

It is in WAL mode, `synchronous=FULL`: one sync for a transaction, after which it survives a power cut. The exclusive
locking mode keeps everybody else out while it is open, so that nobody who looks into it by hand can harm it, and saves
the shared memory, which a forked child would share too.
"""

import ctypes
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from emitd.spool.errors import SpoolError

__all__ = [
    "FileIdentity",
    "abandon",
    "closed_on_error",
    "identity_of",
    "is_damage",
    "make_database",
    "open_database",
    "transaction",
]

#: Says to everybody that a database is a spool: the letters "emit".
APPLICATION_ID = 0x656D6974
VERSION = 1
#: How long to wait for somebody who looks into the file by hand.
BUSY_SECONDS = 1.0
#: What stays of the WAL on disk after a transaction that was larger.
MAX_IDLE_WAL_BYTES = 4 * 1024 * 1024
_FILE_MODE = 0o600
#: `rejected` is for people to read.
_SCHEMA = (
    "CREATE TABLE waiting (number INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    """
    CREATE TABLE rejected (
        number INTEGER PRIMARY KEY,
        record BLOB NOT NULL, -- an emitd.v1.LogRecord
        reason TEXT NOT NULL,
        rejected_at TIMESTAMP NOT NULL -- UTC
    )
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


class FileIdentity(NamedTuple):
    """Which file a name leads to."""

    device: int
    inode: int


#: The databases that a parent process had open at its fork. SQLite has it in this process's memory that they are locked
#: by a connection of this process, and would never open them again the usual way.
_inherited: set[FileIdentity] = set()


def identity_of(path: Path) -> FileIdentity:
    """Return which file has this name. Raises OSError, FileNotFoundError where none has."""
    state = path.stat()
    return FileIdentity(state.st_dev, state.st_ino)


def make_database(path: Path) -> sqlite3.Connection:
    """Make an empty database with mode 0600, to which SQLite's other files keep. Raises OSError, sqlite3.Error."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    try:
        os.fchmod(descriptor, _FILE_MODE)  # the umask can have taken bits away
    finally:
        os.close(descriptor)
    with closed_on_error(_connect(path)) as connection:
        _make_durable(connection)
        with transaction(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
        return connection


def open_database(path: Path) -> sqlite3.Connection | None:
    """Open the database of somebody who is gone; None: it was never finished, and has nothing in it.

    Raises sqlite3.Error, of which `is_damage` tells whether another try could help, and SpoolError for what is not
    a spool, which is left as it is, or one of a newer emitd.
    """
    with closed_on_error(_connect(path)) as connection:
        if not _check(connection, path):
            connection.close()
            return None
        _make_durable(connection)
        return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether this says that the file is broken, rather than in use or on a disk in trouble."""
    primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return primary_code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction that writes; an exception undoes all of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have ended it
            connection.execute("ROLLBACK")
        raise


@contextmanager
def closed_on_error(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Close the connection if the block, which makes something of it, raises."""
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def abandon(connection: sqlite3.Connection, identity: FileIdentity) -> None:
    """Keep a connection that was the parent's from ever being closed in this forked child.

    Closing it, which the end of the interpreter does too, would write to the parent's files and delete its WAL. So it
    gets one reference more than there is. Calls nothing of SQLite, whose locks another thread may have had.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    _inherited.add(identity)


def _connect(path: Path) -> sqlite3.Connection:
    # Without SQLite's locks where it would take the parent's for its own: the spool's lock keeps all others out.
    way = "&vfs=unix-none" if identity_of(path) in _inherited else ""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw{way}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def _make_durable(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync does not reach the medium
    connection.execute(f"PRAGMA journal_size_limit = {MAX_IDLE_WAL_BYTES}")


def _check(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether it is a spool, False for an empty database; raises as `open_database` does."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        return False
    if application_id != APPLICATION_ID:
        raise SpoolError(f"{path} is no spool, but some other database")
    if version != VERSION:
        raise SpoolError(f"the spool {path} has version {version}, and this emitd knows only {VERSION}")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        error = sqlite3.DatabaseError(verdict)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    return True
