"""An append-only file of which each append is on the medium before it counts, and which watches over its own name.

The lines of an audit log are kept in one, and so are its hashes and its checkpoints.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from itertools import count
from pathlib import Path

from emitd_handlers.durable.disk import Disk, write_all

COPY_BLOCK_BYTES = 4 * 1024 * 1024
#: How many of the last bytes are remembered, to tell a file that grew from one that was cut and grew again.
TAIL_BYTES = 4096


class Displacement(Enum):
    """What another process can do to a file that is open here."""

    GONE = "its file was deleted or renamed"
    REPLACED = "another file was put in its place"
    CUT = "something else cut its file"
    GROWN = "something else wrote to its file"
    PROTECTED = "its file may no longer be written"


class FileDisplaced(Exception):
    """The file's name no longer leads to the file as it was written, or it may no longer be written."""

    def __init__(self, displacement: Displacement) -> None:
        super().__init__(displacement.value)
        self.displacement = displacement


class DurableFile:
    """One file. Every method blocks, and may raise OSError; all are called from one thread at a time."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self.disk = disk
        self.path = path
        self.fd = -1
        #: How many bytes are on the medium and count; leftovers of a failed append do not.
        self.size = 0
        #: The last bytes of what counts.
        self._tail = b""
        #: Whether there may be more in the file than counts, left by an append that failed.
        self._has_leftovers = False

    def open(self) -> None:
        """Open the file, or make it; all that it holds counts so far."""
        self.fd = self.disk.open(self.path)
        self.take_over(self.disk.state(self.fd).size)

    def take_over(self, size: int) -> None:
        """Let the first `size` bytes count from now on, which is all there is in the file."""
        self.size = size
        self._tail = self.read(TAIL_BYTES, max(0, size - TAIL_BYTES))
        self._has_leftovers = False

    def close(self) -> None:
        """Close the file. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.disk.close(fd)

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`, of what counts."""
        size = min(size, self.size - offset)
        # An offset beyond the end can be one that the system cannot even be asked for.
        return self.disk.read(self.fd, size, offset) if size > 0 else b""

    def ensure_synced(self, offset: int = 0) -> None:
        """Make sure that the bytes read from `offset` on are those on the medium (see `Disk.ensure_synced`)."""
        self.disk.ensure_synced(self.fd, offset)
        self.take_over(self.disk.state(self.fd).size)

    def append(self, data: bytes) -> None:
        """Append, and return when it is on the medium under the file's name.

        Otherwise nothing of it counts: raises OSError if it could not be written, FileDisplaced if the file it was
        written to no longer has the name.
        """
        self._write(data)
        displacement = self._displacement(self.size + len(data))
        if displacement is not None:
            # Among foreign bytes, ours are no leftovers to be cut off: all are evidence.
            self._has_leftovers = displacement is not Displacement.GROWN
            raise FileDisplaced(displacement)
        self._has_leftovers = False
        self.size += len(data)
        self._tail = (self._tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]

    def try_append(self, data: bytes) -> None:
        """Append as `append` does, and cut it off again: to see whether that would work. Raises OSError."""
        self._write(data)
        self.cut_leftovers()

    def cut(self, size: int) -> None:
        """Let only the first `size` bytes count from now on."""
        if size != self.size:
            self.take_over(size)
            self._has_leftovers = True
        self.cut_leftovers()

    def cut_leftovers(self) -> None:
        """Cut the file back to what counts, if an append that failed may have left more.

        Pages whose sync failed are gone for good that way: a second sync would pass over them and succeed. Without
        a sync of the cut, later bytes could mix with them in a power cut. Raises FileDisplaced if the file
        holds less than that.
        """
        if not self._has_leftovers:
            return
        if not self._is_tail_there():
            raise FileDisplaced(Displacement.CUT)
        self.disk.truncate(self.fd, self.size)
        self.disk.sync(self.fd)
        self._has_leftovers = False

    def _write(self, data: bytes) -> None:
        self.cut_leftovers()
        self._has_leftovers = True
        write_all(self.disk, self.fd, data)
        self.disk.sync(self.fd)

    def displacement(self) -> Displacement | None:
        """Return what another process has done to the file; None: it has its name, and the bytes that count."""
        return self._displacement(None if self._has_leftovers else self.size)

    def _displacement(self, size: int | None) -> Displacement | None:
        """As `displacement`; `size` is the size that the file must have, None if that is not known."""
        written = self.disk.state(self.fd)
        named = self.disk.state_at(self.path)
        if written.size != size and not self._is_tail_there():
            return Displacement.CUT
        if size is not None and written.size != size:
            return Displacement.GROWN
        if named is None:
            return Displacement.GONE
        if (named.device, named.inode) != (written.device, written.inode):
            return Displacement.REPLACED
        return None if self.disk.is_writable(self.path) else Displacement.PROTECTED

    def _is_tail_there(self) -> bool:
        return self.read(TAIL_BYTES, self.size - len(self._tail)) == self._tail

    def save(self, kind: str = "recovered") -> Path:
        """Copy what can still be read of the bytes that count into a new file in the same folder; return its path."""
        return self._copy_aside(kind, 0, self.size)

    def move_aside(self, offset: int, kind: str) -> Path:
        """Move everything from `offset` on into a new file in the same folder, and return its path.

        At no instant are the bytes in neither of the two files.
        """
        aside = self._copy_aside(kind, offset, self.disk.state(self.fd).size)
        self.disk.truncate(self.fd, offset)
        self.disk.sync(self.fd)
        self.take_over(offset)
        return aside

    def mend(self, displacement: Displacement, adopt: Callable[[int], bool] = lambda fd: True) -> str:
        """Put the bytes that count, and nothing else, under the file's name; return what was done, in words.

        `adopt` is as for `restore`. Raises FileDisplaced if nothing can be done here, OSError.
        """
        if displacement in (Displacement.GONE, Displacement.REPLACED):
            intruder = self.restore(adopt)
            moved = f"; the file found in its place is now '{intruder}'" if intruder else ""
            return f"is back, copied from the open file{moved}"
        if displacement is Displacement.GROWN:
            aside = self.move_aside(self.size, "foreign")
            return f"goes on; the bytes that something else wrote to it were moved into '{aside}'"
        raise FileDisplaced(displacement)

    def restore(self, adopt: Callable[[int], bool] = lambda fd: True) -> Path | None:
        """Put all that counts back under the file's name, and go on with that; return the new path of an intruder.

        At no instant is any of it only in the unnamed file. `adopt` gets the new file's descriptor before it takes
        the name, and returns whether it may be used.
        """
        saved = self.save()
        fd = self.disk.open(saved)
        try:
            if not adopt(fd):
                raise OSError(None, "the copy is in use", str(saved))
            intruder = self._move_intruder()
            self.disk.link(saved, self.path)
            self.disk.remove(saved)
            self.disk.sync_directory(self.path.parent)
        except OSError:
            self.disk.close(fd)
            with suppress(FileNotFoundError):
                self.disk.remove(saved)
            raise
        self.close()
        self.fd = fd
        self._has_leftovers = False
        return intruder

    def _copy_aside(self, kind: str, offset: int, end: int) -> Path:
        path, fd = create_next_to(self.disk, self.path, kind)
        try:
            while data := self.disk.read(self.fd, min(COPY_BLOCK_BYTES, end - offset), offset):
                write_all(self.disk, fd, data)
                offset += len(data)
            self.disk.sync(fd)
            self.disk.sync_directory(self.path.parent)
        except OSError:
            self.disk.remove(path)  # the next try makes another one
            raise
        finally:
            self.disk.close(fd)
        return path

    def _move_intruder(self) -> Path | None:
        """Give what has the file's name another one, if there is anything: also a link that leads nowhere."""
        for free_path in _names_next_to(self.path, "displaced"):
            with suppress(FileExistsError):
                try:
                    self.disk.link(self.path, free_path)
                except FileNotFoundError:
                    return None
                self.disk.remove(self.path)
                return free_path
        raise AssertionError("there is always another name")


def create_next_to(disk: Disk, path: Path, kind: str) -> tuple[Path, int]:
    """Make and open a file next to `path`, named by its purpose and the time; return its path and descriptor."""
    for free_path in _names_next_to(path, kind):
        with suppress(FileExistsError):
            return free_path, disk.create(free_path)
    raise AssertionError("there is always another name")


def reason_of(error: OSError) -> str:
    """Return what an error says, with the file that it is about."""
    reason = error.strerror or str(error)
    return f"{reason}: '{error.filename}'" if error.filename else reason


def _names_next_to(path: Path, kind: str) -> Iterator[Path]:
    stem = f"{path.name}.{kind}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    return (path.with_name(f"{stem}-{number}") for number in count(1))
