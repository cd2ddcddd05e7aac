"""`Spool`: records on this machine's disk that wait until the service can be reached.

One file belongs to one process at a time, which has its lock. Records leave it in order: `first` shows them, `delete`
removes delivered ones, `reject` puts aside what the service refused for good. When the process dies, another one gets
the lock and sends the rest: see `adopt_orphans`.

What `append` has returned for survives a kill and a power cut. The limit is `max_bytes` of records; on disk they take
somewhat more, and while they are written up to twice as much.

Across a fork the file stays the parent's: the process takes `fork_guards.sqlite_gate` before it forks, and calls
`leave_to_parent` in the child.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from emitd.runtime import fork_guards
from emitd.spool.database import (
    Spooled,
    SpoolTable,
    abandon,
    closed_on_error,
    identity_of,
    is_damage,
    make_database,
    open_database,
)
from emitd.spool.files import (
    SpoolError,
    SpoolFull,
    SpoolLock,
    lock_path,
    make_folder,
    new_path,
    parts_of,
    remove_files,
    spool_paths,
    sync_folder,
    unsafe_part,
)


class Spool:
    """One file, open and locked. Every method blocks, from any thread of the process, and may raise SpoolError.

    In a forked child, and after `close`, every use raises SpoolError. An empty spool is false.
    """

    def __init__(self, path: Path, lock: SpoolLock, table: SpoolTable, max_bytes: int) -> None:
        """Take over a lock that is held and a table that is open. Raises OSError."""
        self.path = path
        self.max_bytes = max_bytes
        self._identity = identity_of(path)
        named = (*parts_of(path), lock.path)
        #: Which files the spool's names led to, those that there are.
        self._files = {part: identity_of(part) for part in named if part.exists()}
        self._process_id = os.getpid()
        self._file_lock = lock
        self._table = table
        self._is_closed = False

    @classmethod
    def create(cls, folder: Path, target: str, max_bytes: int) -> Self:
        """Make a spool in the folder, which is made too, for records to the server at `target`: its addresses as given.

        Raises SpoolError if it cannot be written there.
        """
        folder = folder.absolute()
        try:
            make_folder(folder)
            path = new_path(folder, target)
            lock = SpoolLock(lock_path(path))
            if lock.take():
                return cls._make(path, lock, max_bytes)
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"cannot make a spool in {folder}: {error}") from error
        # Somebody who looked for orphans took the lock's file for one, in the instant before it was locked.
        return cls.create(folder, target, max_bytes)

    @classmethod
    def _make(cls, path: Path, lock: SpoolLock, max_bytes: int) -> Self:
        try:
            with fork_guards.sqlite_gate, closed_on_error(make_database(path)) as connection:
                sync_folder(path.parent)
                return cls(path, lock, SpoolTable(connection), max_bytes)
        except BaseException:
            remove_files(path)
            lock.release()
            raise

    def __len__(self) -> int:
        """Return how many records wait."""
        return self._table.counts.waiting

    @property
    def size_bytes(self) -> int:
        """How many bytes of records are kept, rejected ones and their reasons included."""
        return self._table.counts.waiting_bytes + self._table.counts.rejected_bytes

    @property
    def rejected_count(self) -> int:
        """How many records are kept that the service refused for good."""
        return self._table.counts.rejected

    def append(self, records: Sequence[bytes]) -> None:
        """Append records; all or none of them, and they are on the medium on return.

        Rejected records make room for them, the oldest first. Raises SpoolFull if that is not enough, SpoolError if
        they cannot be written. Then no record is there; only if a sync failed, and the process is killed before its
        next write, one may be.
        """
        size_bytes = sum(map(len, records))
        with self._use("write to") as table:
            room = self.max_bytes - table.counts.waiting_bytes - size_bytes
            if room < 0:
                raise SpoolFull(
                    f"the spool {self.path} may keep {self.max_bytes} bytes: {table.counts.waiting_bytes} wait, "
                    f"and {size_bytes} more do not fit"
                )
            with table.change():
                table.drop_rejected(room)
                table.append(records)
                if self.is_displaced():
                    raise SpoolError(f"the spool {self.path} was deleted or replaced by something else")

    def first(self, max_records: int, max_bytes: int, after: int = 0) -> Sequence[Spooled]:
        """Return the oldest records that wait after a number, in order; at least one if there is any, however large."""
        with self._use("read") as table:
            return table.first(max_records, max_bytes, after)

    def delete(self, numbers: Iterable[int]) -> None:
        """Delete records that were delivered; numbers of no such record are passed over.

        On SpoolError all of them still wait, and would be sent again.
        """
        with self._use("write to") as table, table.change():
            table.delete(numbers)

    def reject(self, number: int, reason: str) -> None:
        """Put a record that waits into the table `rejected`, with the reason, so that it holds up no other.

        The oldest rejected ones go where all together take more than `max_bytes`.
        """
        with self._use("write to") as table, table.change():
            table.reject(number, reason)
            table.drop_rejected(self.max_bytes - table.counts.waiting_bytes, keep=number)

    def close(self) -> None:
        """Close the file and give up its lock; delete it if nothing is kept in it. Idempotent.

        Never raises SpoolError, and does nothing in a forked child.
        """
        if os.getpid() != self._process_id:
            return
        with fork_guards.sqlite_gate:
            if self._is_closed:
                return
            self._is_closed = True
            is_spent = self._is_spent()
            self._table.connection.close()
            if is_spent:
                remove_files(self.path)
            self._file_lock.release()

    def leave_to_parent(self) -> None:
        """Leave the file to the parent, in a forked child. Waits for no lock. Idempotent.

        The child calls it before anything else, so that the file can be adopted when the parent is dead, and the end of
        the child does not harm it.
        """
        if self._process_id and self._process_id != os.getpid():
            self._process_id = 0
            abandon(self._table.connection, self._identity)
            self._file_lock.leave_to_parent()

    @contextmanager
    def _use(self, action: str) -> Iterator[SpoolTable]:
        if os.getpid() != self._process_id:
            raise SpoolError(f"the spool {self.path} belongs to the process that this one was forked from")
        with fork_guards.sqlite_gate:
            if self._is_closed:
                raise SpoolError(f"the spool {self.path} is closed")
            try:
                yield self._table
            except (OSError, sqlite3.Error) as error:
                raise SpoolError(f"cannot {action} the spool {self.path}: {error}") from error

    def is_displaced(self) -> bool:
        """Return whether one of the files was deleted or replaced, so that no process would find the records."""
        try:
            return any(identity_of(path) != identity for path, identity in self._files.items())
        except OSError:
            return True

    def _is_spent(self) -> bool:
        try:
            return self._table.is_empty() and identity_of(self.path) == self._identity
        except (OSError, sqlite3.Error):
            return False


def adopt_orphans(
    folder: Path, target: str, max_bytes: int, report: Callable[[str], None] = lambda line: None
) -> Sequence[Spool]:
    """Return the spools of this target that dead processes left and in which records wait, open and locked.

    A spool in use is locked, and passed over. An empty one is deleted; one with only rejected records is kept for
    people. A damaged one gets another name. `report` is called with one line for each that cannot be used. Raises
    SpoolError if the folder cannot be read; one that is missing has none.
    """
    folder = folder.absolute()
    try:
        paths = spool_paths(folder, target)
    except OSError as error:
        raise SpoolError(f"cannot look for spools in {folder}: {error}") from error
    orphans = [_adopt(path, max_bytes, report) for path in paths]
    return [spool for spool in orphans if spool is not None]


def _adopt(path: Path, max_bytes: int, report: Callable[[str], None]) -> Spool | None:
    lock = SpoolLock(lock_path(path))
    try:
        reason = unsafe_part(path)
        if reason:
            report(f"the spool {path} is left alone, because {reason}")
            return None
        with fork_guards.sqlite_gate:
            return _open(path, lock, max_bytes) if lock.take() else None
    except sqlite3.Error as error:
        report(_set_aside(path, error) if is_damage(error) else f"cannot open the spool {path}: {error}")
    except (OSError, SpoolError) as error:
        report(str(error) if isinstance(error, SpoolError) else f"cannot open the spool {path}: {error}")
    lock.release()
    return None


def _open(path: Path, lock: SpoolLock, max_bytes: int) -> Spool | None:
    """Open a spool whose lock is held; None, and the lock is free again, where nothing waits."""
    connection = open_database(path) if path.exists() else None
    if connection is None:
        remove_files(path)
        lock.release()
        return None
    with closed_on_error(connection):
        spool = Spool(path, lock, SpoolTable(connection), max_bytes)
    if not len(spool):
        spool.close()
        return None
    return spool


def _set_aside(path: Path, error: Exception) -> str:
    """Give a damaged spool, whose lock is held, another name; return what to report.

    The database goes first: without its WAL, it would look like an older and whole one.
    """
    try:
        for part in parts_of(path):
            with suppress(FileNotFoundError):
                part.rename(_damaged_name(path, part))
        sync_folder(path.parent)
    except OSError as problem:
        return f"the spool {path} is damaged ({error}), and cannot be renamed: {problem}"
    return f"the spool {path} is damaged ({error}): what is left of it is in {_damaged_name(path, path)}"


def _damaged_name(path: Path, part: Path) -> Path:
    """Return the new name, under which SQLite still finds the parts of one database together."""
    return path.with_name(f"{path.name}.damaged{part.name.removeprefix(path.name)}")
