"""The file operations that the audit trail rests on, so that tests can put a failing disk in their place."""

import errno
import fcntl
import os
import secrets
import stat
from contextlib import suppress
from mmap import PAGESIZE
from pathlib import Path
from typing import NamedTuple

_OPEN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
#: macOS only.
_F_FULLFSYNC: int = getattr(fcntl, "F_FULLFSYNC", 51)


class FileState(NamedTuple):
    """Which file it is, and how large."""

    device: int
    inode: int
    #: Bytes.
    size: int


class Disk:
    """The operating system's files; a test puts another class with these methods in its place.

    Every method blocks, and may raise OSError. An open file is named by its descriptor. Only what has been synced
    survives a power cut: a file's bytes and size by `sync`, its name by `sync_directory` of its folder.
    """

    def open(self, path: Path) -> int:
        """Open a regular file for reading and appending; make it, with mode 0600, if there is none."""
        fd = os.open(path, _OPEN_FLAGS, _FILE_MODE)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return fd

    def create(self, path: Path) -> int:
        """Make a new file and open it, as `open` does. Raises FileExistsError."""
        return os.open(path, _OPEN_FLAGS | os.O_EXCL, _FILE_MODE)

    def lock(self, fd: int) -> bool:
        """Take the file's exclusive lock until it is closed; False if another process has it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def state(self, fd: int) -> FileState:
        """Return the state of an open file, whether or not it still has a name."""
        result = os.fstat(fd)
        return FileState(result.st_dev, result.st_ino, result.st_size)

    def state_at(self, path: Path) -> FileState | None:
        """Return the state of the file or folder that has this name now; None: nothing has."""
        try:
            result = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileState(result.st_dev, result.st_ino, result.st_size)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset`, or fewer at the end of the file."""
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: memoryview) -> int:
        """Append, and return how many bytes were taken: at least one, perhaps not all."""
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to its first `size` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Return when the file's bytes and size are on the medium."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        else:  # macOS, where fsync leaves the bytes in the drive's cache
            fcntl.fcntl(fd, _F_FULLFSYNC)

    def ensure_synced(self, fd: int, offset: int) -> None:
        """Make the bytes read from `offset` on those on the medium: sync them, and forget them in memory.

        For bytes that another process wrote: it may have been killed before its sync, or its sync may have failed,
        after which the system takes the bytes in its memory for written. Where there is no posix_fadvise, only syncs.
        """
        self.sync(fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, offset - offset % PAGESIZE, 0, os.POSIX_FADV_DONTNEED)

    def close(self, fd: int) -> None:
        """Close the file, which gives up its lock."""
        os.close(fd)

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, in order; none if it is no folder."""
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make_directory(self, path: Path) -> None:
        """Make a folder with mode 0700. Raises FileExistsError."""
        os.mkdir(path, _FOLDER_MODE)

    def remove(self, path: Path) -> None:
        """Take a name away; a file that nobody has open goes with its last one."""
        os.unlink(path)

    def is_writable(self, path: Path) -> bool:
        """Return whether this process may write the file, and its owner's bit, which does not bind root, allows it."""
        return os.access(path, os.W_OK) and bool(os.stat(path).st_mode & stat.S_IWUSR)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in the folder are on the medium."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Append all of `data`, in as many writes as it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(fd, rest) :]


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
            write_all(Disk(), fd, data)
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
    Disk().sync_directory(path)


def _give_away(fd: int, like: Path) -> None:
    with suppress(PermissionError, FileNotFoundError):
        owner = os.stat(like)
        os.fchown(fd, owner.st_uid, owner.st_gid)
