"""The files of spools: their folder, their names, their lock; and what goes wrong with them.

localhost-50051-1f0c4ab3e2-4711-9a8b7c6d.db      the spool: target, its hash, process, chance
localhost-50051-1f0c4ab3e2-4711-9a8b7c6d.lock    the process that has its lock may use the spool
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
#: The database itself and the files that SQLite keeps next to it, by the end of the name.
_SUFFIXES = ("", "-wal", "-journal", "-shm")
#: Of the target's readable form: the rest of a name takes 40, and file systems have room for 255.
MAX_TARGET_CHARS = 60


class SpoolError(Exception):
    """A spool cannot be made, read or written. What was to be written is not there."""


class SpoolFull(SpoolError):
    """The records would take more bytes than the spool may keep."""


def default_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's own folder, by the XDG base directory specification. Raises SpoolError where there is none."""
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if state.is_absolute():  # others are to be ignored, says the specification
        return state / "emitd" / "spool"
    home = environ.get("HOME") or os.path.expanduser("~")
    if not os.path.isabs(home):
        raise SpoolError("there is no home folder to keep a spool in: set EMITD_SPOOL to a folder")
    return Path(home) / ".local" / "state" / "emitd" / "spool"


def make_folder(folder: Path) -> None:
    """Make the folder, and those above it, with mode 0700 where they are missing. Raises OSError."""
    for missing in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        with suppress(FileExistsError):  # somebody else made it just now
            missing.mkdir(_FOLDER_MODE)
            missing.chmod(_FOLDER_MODE)  # the umask can take bits away
            sync_folder(missing.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the medium. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_path(folder: Path, target: str) -> Path:
    """Return a path that no spool has had, for one of this process."""
    return folder / f"{_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}.db"


def spool_paths(folder: Path, target: str) -> Sequence[Path]:
    """Return the paths of the spools of this target, also of those of which only the lock is left."""
    pattern = re.compile(re.escape(_prefix(target)) + r"[0-9]+-[0-9a-f]{8}\.(db|lock)")
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted({(folder / name).with_suffix(".db") for name in names if pattern.fullmatch(name)})


def lock_path(path: Path) -> Path:
    """Return where the lock of the spool at `path` is."""
    return path.with_suffix(".lock")


def parts_of(path: Path) -> Sequence[Path]:
    """Return where the spool at `path` can have files: first the one without which the others mean nothing."""
    return [path.with_name(path.name + suffix) for suffix in _SUFFIXES]


def remove_files(path: Path) -> None:
    """Delete what there is of the spool at `path`, as far as that can be done.

    The database goes first: without its WAL, it would look like an older one.
    """
    for part in parts_of(path):
        with suppress(OSError):
            part.unlink()


def unsafe_part(path: Path) -> str:
    """Return what makes the spool at `path` one not to be read, such as another owner; empty: nothing does.

    It opens none of the files: to close one again would drop the locks that SQLite has on it in this process.
    """
    for part in parts_of(path):
        with suppress(FileNotFoundError):
            state = part.lstat()
            if not stat.S_ISREG(state.st_mode):
                return f"{part} is no regular file"
            if state.st_uid != os.geteuid():
                return f"{part} belongs to user {state.st_uid}, and this process is of user {os.geteuid()}"
            if state.st_mode & 0o077:
                mode = stat.S_IMODE(state.st_mode)
                return f"{part} has mode {mode:04o}, so that others may read or write it: it must have 0600"
    return ""


def _prefix(target: str) -> str:
    """Return how the names of the target's spools begin: readable, and by the hash different for each target."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", target)[:MAX_TARGET_CHARS].strip("-.")
    digest = hashlib.sha256(target.encode(errors="surrogatepass")).hexdigest()[:10]
    return f"{readable or 'server'}-{digest}-"


class SpoolLock:
    """The lock of a spool: only the process that has it may use the spool. Free at first.

    It is flock's: it ends with the process, and two clients of one process do not share it. A forked child shares it
    until it closes its copy of the descriptor. The owner of the lock deletes the file. Another process may have opened
    it before, and get the lock of a file without a name: so a lock counts only if the name still leads to its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def take(self) -> bool:
        """Take the lock, and make its file if it is missing; False if another process has it. Raises OSError."""
        descriptor = os.open(self.path, _OPEN_FLAGS, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path, follow_symlinks=False)):
                os.fchmod(descriptor, _FILE_MODE)  # the umask can have taken bits away
                self._descriptor, descriptor = descriptor, -1
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._descriptor >= 0

    def release(self) -> None:
        """Give up the lock, and take its file away. Idempotent, and safe without the lock."""
        if self._descriptor >= 0:
            with suppress(OSError):  # the lock is free without it, and the file is taken again by the next
                if os.path.samestat(os.fstat(self._descriptor), os.stat(self.path, follow_symlinks=False)):
                    os.unlink(self.path)
            self.leave_to_parent()

    def leave_to_parent(self) -> None:
        """Close what a forked child has of its parent's lock, which the parent keeps."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
