"""A log's files as far as they are committed: where lines stand, by number and by time, and blocks of lines.

`received_at` never decreases, so a time is found by halving the file's bytes, without any index. Which number the line
has that was found is counted, from the nearest entry of the sparse index; without a good one from either end.
"""

from collections.abc import Callable
from pathlib import Path

from emitd_handlers.audit.format.line import MAX_LINE_BYTES, decode_line
from emitd_handlers.audit.format.line_index import FIRST, Entry, last_entry
from emitd_handlers.audit.read.files import AuditTrail
from emitd_handlers.errors import AuditDamaged, HandlerUnavailable
from emitd_handlers.text.times import parse_time

__all__ = ["CommittedTrail", "received_at"]

#: How much is read at once where lines are counted.
COUNT_BLOCK_BYTES = 1024 * 1024
#: How much is read to find one line: enough for the rest of one and another whole.
PROBE_BYTES = 2 * (MAX_LINE_BYTES + 1)


class CommittedTrail(AuditTrail):
    """One log up to its `end`: the number of committed lines, and their size in bytes.

    Its methods block, and may raise OSError, AuditDamaged, and HandlerUnavailable where the files have less than
    was committed.
    """

    def __init__(self, path: Path, end: Entry) -> None:
        """Open the files. Raises OSError without the lines, HandlerUnavailable without all of them."""
        super().__init__(path)
        self.end = end
        if self.size < end.offset:
            self.close()
            raise HandlerUnavailable(f"audit log '{path}' has fewer lines than were committed to it")
        # From here on all of the base class goes by this.
        self.size = end.offset

    def position_of(self, index: int) -> Entry:
        """Return where a line begins; for the number of lines: where the next one will."""
        if index >= self.end.leaf_index:
            return self.end
        number, offset = self._entry_before(lambda entry: entry.leaf_index <= index)
        while number < index:
            data = self._read(COUNT_BLOCK_BYTES, offset)
            if not data:
                raise self._damaged(f"has only {number} lines where there were {self.end.leaf_index}")
            count = data.count(b"\n")
            if number + count <= index:
                number, offset = number + count, offset + len(data)
                continue
            at = 0
            for _ in range(index - number):
                at = data.index(b"\n", at) + 1
            return Entry(index, offset + at)
        return Entry(number, offset)

    def position_at(self, offset: int) -> Entry:
        """Return the number of the line that begins at an offset, with that."""
        start = self._entry_before(lambda entry: entry.offset <= offset)
        if offset - start.offset <= self.end.offset - offset:
            return Entry(start.leaf_index + self._count_lines(start.offset, offset), offset)
        return Entry(self.end.leaf_index - self._count_lines(offset, self.end.offset), offset)

    def first_received(self, unix_nano: int) -> int:
        """Return the offset of the first line that was received at a time or later; without one: the end."""
        found = self.size
        low, high = 0, self.size
        while low < high:
            middle = (low + high) // 2
            start, end, received = self._probe(middle, high)
            if start >= high:
                high = middle
            elif received >= unix_nano:
                found, high = start, middle
            else:
                low = end
        return found

    def block_after(self, start: Entry, stop: int, size: int) -> bytes:
        """Return whole lines from `start` on, up to the offset `stop`, about `size` bytes."""
        data = self._read(min(size, stop - start.offset), start.offset)
        return data[: self._newline(data.rfind(b"\n"), start.offset)]

    def block_before(self, end: Entry, stop: int, size: int) -> tuple[Entry, bytes]:
        """Return whole lines that end before `end`, back to the offset `stop`, about `size` bytes; and their start."""
        offset = max(stop, end.offset - size)
        data = self._read(end.offset - offset, offset)
        if offset > stop:
            cut = self._newline(data.find(b"\n", 0, -1), offset)
            offset, data = offset + cut, data[cut:]
        return Entry(end.leaf_index - data.count(b"\n"), offset), data

    def _probe(self, offset: int, stop: int) -> tuple[int, int, int]:
        """Return the first readable line that begins at an offset or later: where it begins and ends, its time.

        Where none begins before `stop`: begins at `stop`.
        """
        data, at = self._read(PROBE_BYTES, max(0, offset - 1)), 0
        if offset > 0:
            at = self._newline(data.find(b"\n"), offset)
            offset += at - 1
        while offset < stop:
            end = data.find(b"\n", at)
            if end < 0:
                data, at = self._read(PROBE_BYTES, offset), 0
                end = self._newline(data.find(b"\n"), offset) - 1
            received = received_at(data[at:end])
            if received:
                return offset, offset + end + 1 - at, received
            offset, at = offset + end + 1 - at, end + 1
        return stop, stop, 0

    def _entry_before(self, is_not_after: Callable[[Entry], bool]) -> Entry:
        entry = last_entry(self._read_index, self._index_count, is_not_after)
        return entry if self.is_good_entry(entry) else FIRST

    def _count_lines(self, start: int, end: int) -> int:
        return sum(
            self._read(min(COUNT_BLOCK_BYTES, end - offset), offset).count(b"\n")
            for offset in range(start, end, COUNT_BLOCK_BYTES)
        )

    def _read(self, size: int, offset: int) -> bytes:
        data = self.read_lines(size, offset)
        if len(data) < min(size, self.size - offset):
            raise HandlerUnavailable(f"audit log '{self.paths.lines}' was cut while it was read")
        return data

    def _newline(self, found: int, offset: int) -> int:
        """Return where the line after a newline begins. Raises AuditDamaged if none was found."""
        if found < 0:
            raise self._damaged(f"is damaged after byte {offset}: no line is so long")
        return found + 1

    def _damaged(self, how: str) -> AuditDamaged:
        return AuditDamaged(f"audit log '{self.paths.lines}' {how}; `emitd audit verify` says more")


def received_at(line: bytes) -> int:
    """Return when a line was received; 0 if it is no audit line."""
    try:
        return parse_time(decode_line(line).received_at)
    except ValueError:
        return 0
