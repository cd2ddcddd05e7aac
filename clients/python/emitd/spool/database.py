"""The SQLite database of a spool: how it is made, opened, checked, and left alone in a forked child; and its tables.

It is in WAL mode, `synchronous=FULL`: one sync for a transaction, which then survives a power cut. The exclusive
locking mode keeps other users of the file out while it is open, and needs no shared memory, which a forked child would
share.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

from emitd.runtime.process_hooks import keep_for_ever
from emitd.spool.files import SpoolError

#: Says to everybody that a database is a spool: the letters "emit".
APPLICATION_ID = 0x656D6974
VERSION = 1
#: How long to wait for a user who looks into the file by hand.
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


#: Device and inode: which file a name leads to.
FileIdentity: TypeAlias = tuple[int, int]


#: The databases that a parent process had open at its fork. SQLite has it in this process's memory that they are locked
#: by a connection of this process, and would never open them again the usual way.
_inherited: set[FileIdentity] = set()


def identity_of(path: Path) -> FileIdentity:
    """Return which file has this name. Raises OSError, FileNotFoundError where none has."""
    state = path.stat()
    return state.st_dev, state.st_ino


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
    """Open the database of a process that is gone; None: it was never finished, and is empty.

    Raises sqlite3.Error (see `is_damage`), and SpoolError for a file that is no spool, or the spool of a newer emitd;
    such a file is left as it is.
    """
    with closed_on_error(_connect(path)) as connection:
        if not _check(connection, path):
            connection.close()
            return None
        _make_durable(connection)
        return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether the file is broken, rather than in use or on a disk in trouble."""
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

    Closing it, which the end of the interpreter does too, would write to the parent's files and delete its WAL.
    """
    keep_for_ever(connection)
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


#: Of a reason for a rejection, what is kept.
MAX_REASON_CHARS = 1000
_REJECTED_BYTES = "LENGTH(record) + LENGTH(CAST(reason AS BLOB))"


class Spooled(NamedTuple):
    """A record that waits, and its number in its spool, which no other record there gets."""

    number: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Counts:
    """What there is, in records and bytes; a rejected record's reason counts too."""

    waiting: int
    waiting_bytes: int
    rejected: int
    rejected_bytes: int


class SpoolTable:
    """The tables behind a connection. For one thread at a time; every method may raise sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Count what is there. Takes the connection over."""
        self.connection = connection
        self.counts = self._count()
        # Kept here, because SQLite gives the number of the last record again once that is deleted.
        statement = (
            "SELECT MAX(number) FROM (SELECT number FROM waiting UNION ALL SELECT number FROM rejected)"
        )
        self._next_number = (connection.execute(statement).fetchone()[0] or 0) + 1

    @contextmanager
    def change(self) -> Iterator[None]:
        """Make all changes within the block, or none; needed for each of them."""
        before = self.counts
        try:
            with transaction(self.connection):
                yield
        except sqlite3.Error:
            self.counts = before
            raise
        except BaseException:  # a KeyboardInterrupt can come just behind the commit
            self.counts = self._count()
            raise

    def append(self, records: Sequence[bytes]) -> None:
        """Let the records wait behind those that do."""
        first, self._next_number = self._next_number, self._next_number + len(records)
        self.connection.executemany("INSERT INTO waiting VALUES (?, ?)", enumerate(records, first))
        self._add(waiting=len(records), waiting_bytes=sum(map(len, records)))

    def first(self, max_records: int, max_bytes: int, after: int = 0) -> Sequence[Spooled]:
        """Return the oldest that wait after a number: at least one if there is any, however large."""
        found: list[Spooled] = []
        statement = "SELECT number, record FROM waiting WHERE number > ? ORDER BY number LIMIT ?"
        with closing(self.connection.execute(statement, (after, max(1, max_records)))) as rows:
            for row in map(Spooled._make, rows):
                max_bytes -= len(row.record)
                if found and max_bytes < 0:
                    break
                found.append(row)
        return found

    def delete(self, numbers: Iterable[int]) -> None:
        """Take away records that wait; numbers of no such record are passed over."""
        for number in numbers:
            self._delete("waiting", number)

    def reject(self, number: int, reason: str) -> None:
        """Put aside a record that waits; the number of no such record is passed over."""
        reason = reason.encode(errors="replace").decode()[:MAX_REASON_CHARS]
        row = self.connection.execute("SELECT record FROM waiting WHERE number = ?", (number,)).fetchone()
        if row is None:
            return
        self._delete("waiting", number)
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
        self.connection.execute("INSERT INTO rejected VALUES (?, ?, ?, ?)", (number, row[0], reason, now))
        self._add(rejected=1, rejected_bytes=len(row[0]) + len(reason.encode()))

    def drop_rejected(self, max_bytes: int, *, keep: int = 0) -> None:
        """Delete rejected records, the oldest first, until all of them take `max_bytes`; never the number `keep`."""
        while self.counts.rejected_bytes > max_bytes:
            statement = "SELECT MIN(number) FROM rejected WHERE number <> ?"
            (number,) = self.connection.execute(statement, (keep,)).fetchone()
            if number is None:
                return
            self._delete("rejected", number)

    def is_empty(self) -> bool:
        """Ask the file itself, as it is deleted for that."""
        counts = self._count()
        return not counts.waiting and not counts.rejected

    def _delete(self, table: str, number: int) -> None:
        size = _REJECTED_BYTES if table == "rejected" else "LENGTH(record)"
        row = self.connection.execute(f"SELECT {size} FROM {table} WHERE number = ?", (number,)).fetchone()
        if row is not None:
            self.connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
            self._add(**{table: -1, f"{table}_bytes": -row[0]})

    def _add(self, **changes: int) -> None:
        changed = {name: getattr(self.counts, name) + change for name, change in changes.items()}
        self.counts = replace(self.counts, **changed)

    def _count(self) -> Counts:
        waiting = self.connection.execute("SELECT COUNT(*), TOTAL(LENGTH(record)) FROM waiting").fetchone()
        rejected = self.connection.execute(
            f"SELECT COUNT(*), TOTAL({_REJECTED_BYTES}) FROM rejected"
        ).fetchone()
        return Counts(*map(int, (*waiting, *rejected)))
