"""The append-only file of an audit log: lines count only once they are on the medium."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.audit.format.line_index import FIRST, Entry
from emitd_handlers.audit.write.log_id import keep_log_id
from emitd_handlers.audit.write.recovery import (
    MAX_GROUP_BYTES,
    damaged_beyond_repair,
    find_damage,
    lines_backward,
    move_aside,
)
from emitd_handlers.durable.append_file import Displacement, DurableFile, FileDisplaced, reason_of
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.text.times import parse_time

__all__ = ["AuditFile", "AuditStats", "Companions"]

#: How much is read at once to count lines.
COUNT_BLOCK_BYTES = 1024 * 1024
#: How much is written, and cut off again, to see whether a file can be written to again.
PROBE_BYTES = 64 * 1024
#: How many calls of `check` in a row find a file displaced before one mends it: those who watch over the service are
#: to see that something was wrong.
CHECKS_BEFORE_MENDING = 2


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


class Companions(Protocol):
    """What stands beside the lines, and is opened with them. What its methods raise, `AuditFile.open` raises."""

    def find_covered_end(self) -> Entry:
        """Return where the lines end that a checkpoint covers: no crash can have harmed those before."""

    def identify(self, log_id: str) -> None:
        """Take the log's id; what is made now has its name made sure of with that of an empty log."""


class AuditFile:
    """One log's file.

    Every method blocks; all are called from one thread at a time. Between `open` and `close` the file is
    locked, so that no two processes append to it. `check`, called now and then, finds what somebody else does to the
    file, and mends what can be mended.
    """

    def __init__(self, path: Path, disk: Disk, report: Callable[[str], None], *, log_id: str = "") -> None:
        """Name the file, the disk it is on, and what takes a line for the operator.

        An empty `log_id` means the one kept beside the file, which is made with it.
        """
        self.path = path.absolute()
        self.log_id = log_id
        #: Where the lines end that are on the medium: how many there are, and their bytes. Always replaced as one.
        self.end = FIRST
        #: `received_at` of the last line there was at `open`; 0: there was none.
        self.last_received_unix_nano = 0
        self.stats = AuditStats()
        #: Why the log takes no records, in a line; empty: it does, as far as is known.
        self.problem = ""
        #: Lines were destroyed that cannot be read any more: only `open` can go on from what there will be then.
        self.is_lost = False
        #: Whether nothing is written before `check` has found the file to be what it should be.
        self._is_blocked = False
        #: How many calls of `check` in a row have found it displaced.
        self._displaced_checks = 0
        self._disk = disk
        self._report = report
        self._file = DurableFile(disk, self.path)

    @property
    def line_count(self) -> int:
        """How many lines are on the medium."""
        return self.end.leaf_index

    @property
    def size(self) -> int:
        """How many bytes are on the medium."""
        return self.end.offset

    def open(self, companions: Companions) -> None:
        """Open the file, or make it with its folders; lock it, repair what a crash has left, count its lines.

        Raises HandlerUnavailable with one line that says what is wrong.
        """
        try:
            self._make_folders()
            is_new = self._disk.state_at(self.path) is None
            self._file.open()
            if not self._disk.lock(self._file.fd):
                raise HandlerUnavailable(f"audit log '{self.path}' is in use by another process")
            self._file.ensure_synced(max(0, self._file.size - MAX_GROUP_BYTES))
            self._take_over(companions.find_covered_end())
            self._identify(companions, is_new)
        except OSError as error:
            self.close()
            raise HandlerUnavailable(
                f"audit log '{self.path}' cannot be opened: {reason_of(error)}"
            ) from error
        except HandlerUnavailable:
            self.close()
            raise
        self.problem, self.is_lost, self._is_blocked, self._displaced_checks = "", False, False, 0

    def append(self, lines: bytes, line_count: int) -> int:
        """Append whole lines, newlines included, and return the index of the first.

        On return they are on the medium, in the file that has the log's name. Raises HandlerUnavailable
        otherwise: none of them counts, and a retry may write them again.
        """
        if self._is_blocked:
            raise HandlerUnavailable(self.problem)
        try:
            self._file.append(lines)
        except OSError as error:
            raise self._give_up_group(f"cannot be written: {reason_of(error)}") from error
        except FileDisplaced as error:
            self._is_blocked = True
            raise self._give_up_group(f"takes no records: {error}") from error
        self.problem = ""
        first = self.line_count
        self.end = Entry(first + line_count, self._file.size)
        self.stats.lines += line_count
        self.stats.groups += 1
        self.stats.bytes += len(lines)
        return first

    def check(self, *, at_once: bool = False) -> None:
        """Look whether the file is still what it should be; mend it if not, or say why that cannot be.

        What somebody else did is mended a moment later, so that it can be seen; or `at_once`.
        """
        if self.is_lost:
            return
        try:
            displacement = self._file.displacement()
            if displacement is not None:
                self._take_down(displacement, at_once=at_once)
            elif self.problem:
                self._probe()
        except OSError as error:
            self._set_problem(f"cannot be written: {reason_of(error)}")
        except FileDisplaced as error:
            self._set_problem(f"takes no records: {error}")

    def lose(self, problem: str, end: Entry, log_id: str) -> None:
        """Be a log again that has lost lines: one that was to take its place would not do."""
        self.problem, self.end, self.log_id = problem, end, log_id
        self.is_lost = self._is_blocked = True

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of the lines on the medium, from `offset`."""
        return self._file.read(size, offset)

    def last_lines(self, limit: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield at most `limit` lines, the last one first: its index, its offset, and it without newline.

        Raises HandlerUnavailable if the file cannot be read.
        """
        indexes = range(self.line_count - 1, -1, -1)
        lines = lines_backward(self._disk, self._file.fd, self.size, self.path)
        try:
            for index, (offset, line) in zip(islice(indexes, limit), lines, strict=False):
                yield index, offset, line
        except OSError as error:
            raise HandlerUnavailable(f"audit log '{self.path}' cannot be read: {reason_of(error)}") from error

    def close(self) -> None:
        """Close the file, which unlocks it. Idempotent."""
        self._file.close()

    def _make_folders(self) -> None:
        for folder in reversed(self.path.parents):
            if self._disk.state_at(folder) is None:
                with suppress(FileExistsError):  # somebody else made it just now
                    self._disk.make_directory(folder)

    def _take_over(self, covered: Entry) -> None:
        self._repair(covered.offset)
        self.end = Entry(covered.leaf_index + self._count_lines(covered.offset), self._file.size)
        self.last_received_unix_nano = self._read_last_received()

    def _identify(self, companions: Companions, is_new: bool) -> None:
        """Learn the log's id, and make sure of all names while the log is empty.

        A log that has lines has come by here before its first.
        """
        is_empty = self.line_count == 0
        if not self.log_id:
            self.log_id = keep_log_id(self._disk, self.path, self._report, is_new=is_new, is_empty=is_empty)
        companions.identify(self.log_id)
        if is_empty:
            self._sync_folders()

    def _repair(self, covered: int) -> None:
        size = self._file.size
        good = find_damage(self._disk, self._file.fd, self.path, covered)
        if good == size:
            return
        aside = move_aside(self._disk, self._file.fd, self.path, good)
        self._file.take_over(good)
        self.stats.damaged_bytes_moved = size - good
        self._report(
            f"audit log '{self.path}': its last {size - good} bytes, from a damaged line on, were moved into '{aside}'"
        )

    def _count_lines(self, start: int) -> int:
        return sum(
            self._file.read(COUNT_BLOCK_BYTES, offset).count(b"\n")
            for offset in range(start, self._file.size, COUNT_BLOCK_BYTES)
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
        device = self._disk.state(self._file.fd).device
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

    def _give_up_group(self, problem: str) -> HandlerUnavailable:
        self.stats.failed_groups += 1
        self._set_problem(problem)
        # What the group left is cut off now, or else before the next one is written.
        with suppress(OSError, FileDisplaced):
            self._file.cut_leftovers()
        return HandlerUnavailable(self.problem)

    def _set_problem(self, problem: str) -> None:
        problem = f"audit log '{self.path}' {problem}"
        if problem != self.problem:
            self._report(problem)
        self.problem = problem

    def _take_down(self, displacement: Displacement, *, at_once: bool) -> None:
        """Refuse records, and mend the file when that has been so for a moment."""
        self._is_blocked = True
        problem = f"takes no records: {displacement.value}"
        if problem not in self.problem:
            self._set_problem(problem)
        self._displaced_checks += 1
        if not at_once and self._displaced_checks <= CHECKS_BEFORE_MENDING:
            return
        try:
            self._mend(displacement)
        except OSError as error:
            # Without the name of the copy: that is another one each time, and would be said again each time.
            self._set_problem(f"{problem}, and its copy cannot be written: {error.strerror or error}")

    def _probe(self) -> None:
        """See whether the file can be written to again. Raises OSError, FileDisplaced."""
        self._file.try_append(b" " * PROBE_BYTES)
        self._solve_problem("can be written again")

    def _mend(self, displacement: Displacement) -> None:
        """Get the lines back under their name, each once. Raises OSError."""
        match displacement:
            case Displacement.GONE | Displacement.REPLACED:
                self._restore()
            case Displacement.GROWN:
                aside = move_aside(self._disk, self._file.fd, self.path, self.size, "foreign")
                self._solve_problem(f"goes on; what something else wrote to it was moved into '{aside}'")
            case Displacement.CUT:
                saved = self._file.save("recovered")
                self._set_problem(
                    f"takes no records: something else cut its file, so that acknowledged lines are lost. What is left "
                    f"was copied into '{saved}'. Put the whole file back, or move it away with all that is named like "
                    "it to begin a new log"
                )
                self.is_lost = True
            case Displacement.PROTECTED:
                pass  # until it may be written again

    def _restore(self) -> None:
        if self._disk.state_at(self.path.parent) is None:
            self._make_folders()
            self._sync_folders()
        intruder = self._file.restore("recovered", self._disk.lock)
        moved = f"; what stood in its place is '{intruder}' now" if intruder else ""
        self._solve_problem(f"is back, with all of its {self.line_count} lines, from the open file{moved}")

    def _solve_problem(self, how: str) -> None:
        self._report(f"audit log '{self.path}' {how}")
        self.problem, self._is_blocked, self._displaced_checks = "", False, 0
