"""The append-only file of an audit log: lines count only once they are on the medium."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from emitd_handlers.audit_line import decode_line, parse_time
from emitd_handlers.audit_log_id import keep_log_id
from emitd_handlers.audit_recovery import (
    MAX_GROUP_BYTES,
    damaged_beyond_repair,
    find_damage,
    lines_backward,
    move_aside,
)
from emitd_handlers.disk import Disk, write_all
from emitd_handlers.errors import HandlerUnavailable

__all__ = ["AuditFile", "AuditStats"]

#: How much is read at once to count lines.
COUNT_BLOCK_BYTES = 1024 * 1024


class AuditStats(msgspec.Struct):
    """What has happened to a log since it was opened."""

    #: What is on the medium: lines, the groups they came in, and their bytes, newlines included.
    lines: int = 0
    groups: int = 0
    bytes: int = 0
    #: Groups that could not be written or synced, and so were refused.
    failed_groups: int = 0
    #: Bytes that a crash had damaged, moved out of the log when it was opened.
    damaged_bytes_moved: int = 0


class AuditFile:
    """One log's file.

    Every method blocks; all are called from one thread at a time. Between `open` and `close` the file is
    locked, so that no two processes append to it.
    """

    def __init__(self, path: Path, disk: Disk, report: Callable[[str], None], *, log_id: str = "") -> None:
        """Name the file, the disk it is on, and what takes a line for the operator.

        An empty `log_id` means the one kept beside the file, which is made with it.
        """
        self.path = path.absolute()
        self.log_id = log_id
        #: What is on the medium.
        self.line_count = 0
        self.size = 0
        #: `received_at` of the last line there was at `open`; 0: there was none.
        self.last_received_unix_nano = 0
        self.stats = AuditStats()
        self._disk = disk
        self._report = report
        self._fd = -1
        #: The last group failed, and the operator has been told.
        self._failing = False
        #: Why nothing can be appended any more; empty: it can.
        self._broken = ""

    def open(self) -> None:
        """Open the file, or make it with its folders; lock it, repair what a crash has left, count its lines.

        Raises HandlerUnavailable with one line that says what is wrong.
        """
        try:
            self._make_folders()
            is_new = self._disk.state_at(self.path) is None
            self._fd = self._disk.open(self.path)
            if not self._disk.lock(self._fd):
                raise HandlerUnavailable(f"audit log '{self.path}' is in use by another process")
            self._take_over()
            self._identify(is_new)
        except OSError as error:
            self.close()
            raise HandlerUnavailable(f"audit log '{self.path}' cannot be opened: {_reason(error)}") from error
        except HandlerUnavailable:
            self.close()
            raise

    def append(self, lines: bytes, line_count: int) -> int:
        """Append whole lines, newlines included, and return the index of the first.

        On return they are on the medium, in the file that has the log's name. Raises HandlerUnavailable
        otherwise: none of them counts, and a retry may write them again.
        """
        if self._broken:
            raise HandlerUnavailable(self._broken)
        try:
            write_all(self._disk, self._fd, lines)
            self._disk.sync(self._fd)
        except OSError as error:
            raise self._give_up_group(error) from error
        self._refuse_if_displaced(self.size + len(lines))
        self._failing = False
        first = self.line_count
        self.line_count += line_count
        self.size += len(lines)
        self.stats.lines += line_count
        self.stats.groups += 1
        self.stats.bytes += len(lines)
        return first

    def last_lines(self, limit: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield at most `limit` lines, the last one first: its index, its offset, and it without newline.

        Raises HandlerUnavailable if the file cannot be read.
        """
        indexes = range(self.line_count - 1, -1, -1)
        lines = lines_backward(self._disk, self._fd, self.size, self.path)
        try:
            for index, (offset, line) in zip(islice(indexes, limit), lines, strict=False):
                yield index, offset, line
        except OSError as error:
            raise HandlerUnavailable(f"audit log '{self.path}' cannot be read: {_reason(error)}") from error

    def close(self) -> None:
        """Close the file, which unlocks it. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)

    def _make_folders(self) -> None:
        for folder in reversed(self.path.parents):
            if self._disk.state_at(folder) is None:
                with suppress(FileExistsError):  # somebody else made it just now
                    self._disk.make_directory(folder)

    def _take_over(self) -> None:
        size = self._disk.state(self._fd).size
        self._disk.settle(self._fd, max(0, size - MAX_GROUP_BYTES))
        self._repair()
        self.line_count = self._count_lines()
        self.last_received_unix_nano = self._read_last_received()

    def _identify(self, is_new: bool) -> None:
        """Learn the log's id, and make sure of all names while the log is empty.

        A log that has lines has come by here before its first.
        """
        is_empty = self.line_count == 0
        if not self.log_id:
            self.log_id = keep_log_id(self._disk, self.path, self._report, is_new=is_new, is_empty=is_empty)
        if is_empty:
            self._sync_folders()

    def _repair(self) -> None:
        size = self._disk.state(self._fd).size
        self.size = find_damage(self._disk, self._fd, self.path)
        if self.size == size:
            return
        aside = move_aside(self._disk, self._fd, self.path, self.size)
        self.stats.damaged_bytes_moved = size - self.size
        self._report(
            f"audit log '{self.path}': its last {size - self.size} bytes, from a damaged line on, were moved "
            f"into '{aside}'"
        )

    def _count_lines(self) -> int:
        return sum(
            self._disk.read(self._fd, COUNT_BLOCK_BYTES, offset).count(b"\n")
            for offset in range(0, self.size, COUNT_BLOCK_BYTES)
        )

    def _read_last_received(self) -> int:
        for _, offset, line in self.last_lines(1):
            try:
                return parse_time(decode_line(line).received_at)
            except ValueError:
                raise damaged_beyond_repair(self.path, offset) from None
        return 0

    def _sync_folders(self) -> None:
        """Make sure of the names of the log, its id and its folders."""
        device = self._disk.state(self._fd).device
        for folder in self.path.parents:
            state = self._disk.state_at(folder)
            if state is None or state.device != device:
                return  # a mount point's name is not ours
            try:
                self._disk.sync_directory(folder)
            except PermissionError:
                if folder == self.path.parent:
                    raise
                return  # nor is one in a folder that we cannot open

    def _give_up_group(self, error: OSError) -> HandlerUnavailable:
        problem = f"audit log '{self.path}' cannot be written: {_reason(error)}"
        self.stats.failed_groups += 1
        if not self._failing:
            self._report(problem)
        self._failing = True
        try:
            self._cut_back()
        except OSError as failure:
            self._break(f"after a failed write it could not be cut back: {_reason(failure)}")
        return HandlerUnavailable(problem)

    def _cut_back(self) -> None:
        """Cut the file back to what is on the medium.

        Pages whose sync failed are gone for good that way: a second sync would pass over them and succeed.
        Without a sync of the cut, what comes next could mix with them in a power cut.
        """
        size = self._disk.state(self._fd).size
        if size < self.size:
            raise OSError(f"something else has cut it to {size} bytes")
        self._disk.truncate(self._fd, self.size)
        self._disk.sync(self._fd)

    def _refuse_if_displaced(self, size: int) -> None:
        """Raise HandlerUnavailable unless the file still has the log's name, and `size` bytes."""
        try:
            written = self._disk.state(self._fd)
            named = self._disk.state_at(self.path)
        except OSError as error:
            raise self._break(f"its file cannot be examined: {_reason(error)}") from error
        if named is None:
            raise self._break("its file was deleted or renamed")
        if (named.device, named.inode) != (written.device, written.inode):
            raise self._break("another file was put in its place")
        if written.size != size:
            raise self._break(f"something else changed its file, which has {written.size} bytes, not {size}")

    def _break(self, reason: str) -> HandlerUnavailable:
        self._broken = (
            f"audit log '{self.path}' takes no records until the service is started again: {reason}"
        )
        self._report(self._broken)
        return HandlerUnavailable(self._broken)


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{reason}: '{error.filename}'" if error.filename else reason
