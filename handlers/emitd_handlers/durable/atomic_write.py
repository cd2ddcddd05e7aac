"""Files that are replaced as a whole: whoever reads one meets the old content or the new one, never less."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from emitd_handlers.durable.disk import RealDisk, write_all

__all__ = ["replace_file", "sync_folder"]


def replace_file(path: Path, data: bytes, *, mode: int = 0o666, like: Path | None = None) -> None:
    """Put a file with this content in a path's place; its name is on the medium after `sync_folder`.

    `mode` is what its mode is at the most. `like` names a file whose owner becomes this one's, if this process may give
    files away. Raises OSError, and then leaves everything as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            if like is not None:
                _give_away(fd, like)
            write_all(RealDisk(), fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the medium. Raises OSError."""
    RealDisk().sync_directory(path)


def _give_away(fd: int, like: Path) -> None:
    with suppress(PermissionError, FileNotFoundError):
        owner = os.stat(like)
        os.fchown(fd, owner.st_uid, owner.st_gid)
