"""An append-only file of which each append is on the medium before it counts, and which watches its own name.

The lines of an audit log are kept in one, and so are its hashes and its checkpoints.
"""

from contextlib import suppress
from pathlib import Path

from emitd_handlers.durable.disk import Disk, write_all
from emitd_handlers.durable.file_identity import Displacement, FileIdentity, names_next_to

COPY_BLOCK_BYTES = 4 * 1024 * 1024
#: How many of the last bytes are remembered, to tell a file that grew from one that was cut and grew again.
TAIL_BYTES = 4096


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
        if written.size != size and not self._is_tail_there():
            return Displacement.CUT
        if size is not None and written.size != size:
            return Displacement.GROWN
        displacement = FileIdentity(self.path, written.device, written.inode).displacement(self.disk)
        if displacement is not None:
            return displacement
        return None if self.disk.is_writable(self.path) else Displacement.PROTECTED

    def _is_tail_there(self) -> bool:
        return self.read(TAIL_BYTES, self.size - len(self._tail)) == self._tail

    def is_tail_of(self, file: "DurableFile") -> bool:
        """Return whether another file has this one's last bytes at the same place."""
        return file.read(len(self._tail), self.size - len(self._tail)) == self._tail

    def save(self, kind: str) -> Path:
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

    def save_into(self, folder: Path) -> None:
        """Copy the bytes that count into the folder, under the file's own name, and sync them.

        A small file comes from memory. Raises OSError, and then leaves nothing there.
        """
        path = folder / self.path.name
        self._copy(path, self.disk.create(path), 0, self.size)

    def _copy_aside(self, kind: str, offset: int, end: int) -> Path:
        path, fd = create_next_to(self.disk, self.path, kind)
        self._copy(path, fd, offset, end)
        return path

    def _copy(self, path: Path, fd: int, offset: int, end: int) -> None:
        """Copy a part into a new file, which is open as `fd`, and close that."""
        try:
            if end == self.size == len(self._tail):
                write_all(self.disk, fd, self._tail[offset:])
            else:
                while data := self.disk.read(self.fd, min(COPY_BLOCK_BYTES, end - offset), offset):
                    write_all(self.disk, fd, data)
                    offset += len(data)
            self.disk.sync(fd)
            self.disk.sync_directory(path.parent)
        except OSError:
            with suppress(OSError):
                self.disk.remove(path)  # the next try makes another one
            raise
        finally:
            self.disk.close(fd)


def create_next_to(disk: Disk, path: Path, kind: str) -> tuple[Path, int]:
    """Make and open a file next to `path`, named by its purpose and the time; return its path and descriptor."""
    for free_path in names_next_to(path, kind):
        with suppress(FileExistsError):
            return free_path, disk.create(free_path)
    raise AssertionError("there is always another name")


def reason_of(error: OSError) -> str:
    """Return what an error says, with the file that it is about."""
    reason = error.strerror or str(error)
    return f"{reason}: '{error.filename}'" if error.filename else reason
