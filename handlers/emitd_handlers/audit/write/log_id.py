"""The id of an audit log where the configuration gives none: made once, and kept in a file beside the log."""

import re
from collections.abc import Callable
from pathlib import Path

from emitd_handlers.durable.disk import Disk, write_all
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.text.uuid7 import uuid7

__all__ = ["keep_log_id"]

#: What ids made here begin with; a UUIDv7 follows.
PREFIX = "emitd.local/"
MAX_FILE_BYTES = 4096
#: Printable ASCII without spaces, and the newline that shows that it is whole.
_KEPT = re.compile(rb"([!-~]+)\n")


def keep_log_id(
    disk: Disk, log_path: Path, report: Callable[[str], None], *, is_new: bool, is_empty: bool
) -> str:
    """Return the id in the file `<log_path>.log_id`, which is made for a log that has none.

    `is_new` says that the log's file has only now been made, `is_empty` that it has no lines. For an empty
    log the id is then on the medium, except for its file's name. Raises HandlerUnavailable for a log with
    lines that has lost its id: with another one nobody could tell whose receipts were given for them.
    """
    path = log_path.with_name(f"{log_path.name}.log_id")
    if not is_empty and disk.state_at(path) is None:
        raise _lost(log_path, path)
    fd = disk.open(path)
    try:
        if is_empty:
            disk.ensure_synced(fd, 0)
        match = _KEPT.fullmatch(disk.read(fd, MAX_FILE_BYTES, 0))
        log_id = match[1].decode() if match else ""
        if not is_empty:
            if not log_id:
                raise _lost(log_path, path)
            return log_id
        if is_new or not log_id:
            log_id = _replace(disk, fd, log_path, report, log_id)
        return log_id
    finally:
        disk.close(fd)


def _replace(disk: Disk, fd: int, log_path: Path, report: Callable[[str], None], old: str) -> str:
    log_id = PREFIX + uuid7()
    if old:
        report(
            f"audit log '{log_path}' was not there and is begun anew, with the id '{log_id}'; "
            f"the one before had the id '{old}'"
        )
    disk.truncate(fd, 0)
    write_all(disk, fd, f"{log_id}\n".encode())
    disk.sync(fd)
    return log_id


def _lost(log_path: Path, path: Path) -> HandlerUnavailable:
    return HandlerUnavailable(
        f"audit log '{log_path}' has lines, but its id is not in '{path}': restore that file, or set "
        "`log_id` to the id that its receipts name"
    )
