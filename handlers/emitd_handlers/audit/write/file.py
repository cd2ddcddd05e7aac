"""The append-only file of an audit log: lines count only once they are on the medium."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from emitd_handlers.audit.format.files import FIRST, Entry
from emitd_handlers.audit.format.line import received_at
from emitd_handlers.audit.write.identity import keep_log_id
from emitd_handlers.audit.write.recovery import (
    MAX_GROUP_BYTES,
    damaged_beyond_repair,
    find_damage,
    lines_backward,
)
from emitd_handlers.diagnostics import Report
from emitd_handlers.durable.append_file import DurableFile, FileDisplaced, reason_of
from emitd_handlers.durable.disk import Disk
from emitd_handlers.durable.file_identity import make_folders
from emitd_handlers.errors import HandlerUnavailable

#: How much is read at once to count lines.
COUNT_BLOCK_BYTES = 1024 * 1024
#: How much is written, and cut off again, to see whether a file can be written to again.
PROBE_BYTES = 64 * 1024
#: The reserve is no more than this part of a disk.
SMALL_DISK_SHARE = 16


class AuditStats(msgspec.Struct):
    """What has happened to a log since it was opened."""

    #: On the medium: lines, the groups they came in, and their bytes, newlines included.
    lines: int = 0
    groups: int = 0
    bytes: int = 0
    #: Groups that could not be written or synced, and so were refused.
    failed_groups: int = 0
    #: Bytes that a crash had damaged, moved out of the log when it was opened.
    damaged_bytes_moved: int = 0


class AuditFile:
    """One log's file. Every method blocks; all are called from one thread at a time.

    `open` and `recover` come first, in this order. From `open` to `close` the file is locked, so that no
    two processes append to it.
    """

    def __init__(self, path: Path, disk: Disk, report: Report, *, log_id: str = "") -> None:
        """Name the file and the disk it is on; `report` takes a line for the operator.

        An empty `log_id` means the one kept in a file of its own next to the log, which is made with it.
        """
        self.path = path.absolute()
        #: Known from `recover` on.
        self.log_id = log_id
        #: Where the lines on the medium end: how many there are, and their bytes. Always replaced as one.
        self.end = FIRST
        #: `received_at` of the last line there was at `recover`; 0: there was none.
        self.last_received_unix_nano = 0
        self.stats = AuditStats()
        #: Nothing is written that would leave less of the disk free, or less than a share of a small disk.
        self.min_free_bytes = 0
        #: Why the log takes no records, in a line; empty: it does, as far as is known.
        self.problem = ""
        #: The problem that was reported last; empty: all is well since.
        self._said = ""
        #: Whether nothing is written before `check` has found the file in order, or it was opened again.
        self._is_blocked = False
        self._is_new = False
        self._configured_id = log_id
        self._disk = disk
        self._report = report
        #: The lines.
        self.lines = DurableFile(disk, self.path)

    @property
    def line_count(self) -> int:
        """How many lines are on the medium."""
        return self.end.leaf_index

    @property
    def size(self) -> int:
        """How many bytes are on the medium."""
        return self.end.offset

    def open(self) -> None:
        """Open the file, or make it with its folders, and lock it. Raises HandlerUnavailable, OSError."""
        make_folders(self._disk, self.path.parent)
        self.stats = AuditStats()
        self._is_new = self._disk.state_at(self.path) is None
        self.lines.open()
        if not self._disk.lock(self.lines.fd):
            raise HandlerUnavailable(f"audit log '{self.path}' is in use by another process")
        self.lines.ensure_synced(max(0, self.lines.size - MAX_GROUP_BYTES))

    def recover(self, covered: Entry) -> str:
        """Repair what a crash has left after the lines that a checkpoint covers, and count all lines.

        Returns the log's id. Raises HandlerUnavailable for damage that no crash does, OSError.
        """
        self._repair(covered.offset)
        self.end = Entry(covered.leaf_index + self._count_lines(covered.offset), self.lines.size)
        self.last_received_unix_nano = self._read_last_received()
        self.log_id = self._configured_id or keep_log_id(
            self._disk, self.path, self._report, is_new=self._is_new, is_empty=self.line_count == 0
        )
        self.problem, self._said, self._is_blocked = "", "", False
        return self.log_id

    def sync_names(self) -> None:
        """Return when the names of the log's files and folders are on the medium. Raises OSError."""
        device = self._disk.state(self.lines.fd).device
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

    def append(self, lines: bytes, line_count: int) -> int:
        """Append whole lines, newlines included, and return the index of the first.

        On return they are on the medium, in the file that has the log's name. Raises HandlerUnavailable
        otherwise: none of them counts, and a retry may write them again.
        """
        if self._is_blocked:
            raise HandlerUnavailable(self.problem)
        try:
            self._refuse_last_bytes(len(lines))
            self.lines.append(lines)
        except OSError as error:
            raise self._give_up_group(f"cannot be written: {reason_of(error)}") from error
        except FileDisplaced as error:
            self._is_blocked = True
            raise self._give_up_group(f"takes no records: {error}") from error
        self.problem = self._said = ""
        first = self.line_count
        self.end = Entry(first + line_count, self.lines.size)
        self.stats.lines += line_count
        self.stats.groups += 1
        self.stats.bytes += len(lines)
        return first

    def check(self) -> None:
        """Look whether the file can be written, if it could not be; say in `problem` if it may not be."""
        displacement = self.lines.displacement()
        if displacement is not None:
            self.refuse(f"takes no records: {displacement.value}")
        elif self.problem:
            self._refuse_last_bytes(PROBE_BYTES)
            self.lines.try_append(b" " * PROBE_BYTES)
            self.problem, self._said, self._is_blocked = "", "", False
            self._report(f"audit log '{self.path}' can be written again")

    def refuse(self, problem: str, *, is_reported: bool = True) -> None:
        """Take no lines until `check` has found the file in order, or it was opened again; report why, once."""
        self._is_blocked = True
        self._set_problem(problem, is_reported=is_reported)

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of the lines on the medium, from `offset`."""
        return self.lines.read(size, offset)

    def last_lines(self, limit: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield at most `limit` lines, the last one first: its index, its offset, and it without newline.

        Raises HandlerUnavailable if the file cannot be read.
        """
        indexes = range(self.line_count - 1, -1, -1)
        lines = lines_backward(self._disk, self.lines.fd, self.size, self.path)
        try:
            for index, (offset, line) in zip(islice(indexes, limit), lines, strict=False):
                yield index, offset, line
        except OSError as error:
            raise HandlerUnavailable(f"audit log '{self.path}' cannot be read: {reason_of(error)}") from error

    def close(self) -> None:
        """Close the file, which unlocks it. Idempotent."""
        self.lines.close()

    def _refuse_last_bytes(self, size: int) -> None:
        """Raise OSError if `size` more bytes would leave less free than the reserve."""
        if self.min_free_bytes:
            free, total = self._disk.room(self.lines.fd)
            if free - size < min(self.min_free_bytes, total // SMALL_DISK_SHARE):
                why = "less than server.limits.min_free_bytes would be free"
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {why}")

    def _repair(self, covered: int) -> None:
        size = self.lines.size
        good = find_damage(self._disk, self.lines.fd, self.path, covered)
        if good == size:
            return
        aside = self.lines.move_aside(good, "damaged")
        self.stats.damaged_bytes_moved = size - good
        self._report(
            f"audit log '{self.path}': its last {size - good} bytes, from a damaged line on, were moved into '{aside}'"
        )

    def _count_lines(self, start: int) -> int:
        return sum(
            self.lines.read(COUNT_BLOCK_BYTES, offset).count(b"\n")
            for offset in range(start, self.lines.size, COUNT_BLOCK_BYTES)
        )

    def _read_last_received(self) -> int:
        for _, offset, line in self.last_lines(1):
            received = received_at(line)
            if not received:
                raise damaged_beyond_repair(self.path, offset)
            return received
        return 0

    def _give_up_group(self, problem: str) -> HandlerUnavailable:
        self.stats.failed_groups += 1
        # A displaced file is reported by the next check, which says where its lines are saved.
        self._set_problem(problem, is_reported=not self._is_blocked)
        # What the group left is cut off now, or else before the next one is written.
        with suppress(OSError, FileDisplaced):
            self.lines.cut_leftovers()
        return HandlerUnavailable(self.problem)

    def _set_problem(self, problem: str, *, is_reported: bool = True) -> None:
        problem = f"audit log '{self.path}' {problem}"
        self.problem = problem
        if is_reported and problem != self._said:
            self._report(problem)
            self._said = problem
