"""Orphaned spools, left by processes that died: who gets the lock of one sends what waits in it.

A spool that is in use is locked, and passed over. One with nothing in it is deleted, one with nothing but rejected
records is kept for people to read. What cannot be used is reported, and stays: a damaged one under another name.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from emitd.spool.database import closed_on_error, is_damage, open_database
from emitd.spool.errors import SpoolError
from emitd.spool.folder import lock_path, parts_of, remove_files, spool_paths, sync_folder, unsafe_part
from emitd.spool.lock import SpoolLock
from emitd.spool.spool import Spool
from emitd.spool.sqlite_fork_guard import inside
from emitd.spool.table import SpoolTable

__all__ = ["adopt_orphans"]


def adopt_orphans(
    folder: Path, target: str, max_bytes: int, report: Callable[[str], None] = lambda line: None
) -> Sequence[Spool]:
    """Return the orphans of this target in which records wait, open and locked for this process.

    `report` is called with one line for each that cannot be used, and says why. Never raises for one of them, nor for
    a folder that is missing; SpoolError for one that cannot be read.
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
        with inside():
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

    The database goes first: without its WAL beside it, it would look like an older and whole one.
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
