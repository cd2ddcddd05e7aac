"""A log's files, opened for reading alone: readers, provers and verifiers start here.

The files are opened in an order that makes them fit each other while a service writes: checkpoints, hashes, lines.
What a checkpoint covers is then in the other two. `CommittedTrail` finds lines by number and by time.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from emitd_handlers.audit.format.files import (
    ENTRY_BYTES,
    FIRST,
    AuditPaths,
    Entry,
    last_entry,
    line_blocks,
    read_key_file,
    split_notes,
)
from emitd_handlers.audit.format.line import MAX_LINE_BYTES, received_at
from emitd_handlers.errors import AuditDamaged, HandlerUnavailable
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import HASH_BYTES, leaf_hash, root_hash, stored_count, stored_index
from emitd_handlers.tlog.note import NoteInvalid, Verifier

#: How much is read at once.
BLOCK_BYTES = 1024 * 1024
#: How much is read at once of the checkpoints from the end on: mostly it is the last that is wanted.
NOTES_BLOCK_BYTES = 64 * 1024
#: How much is read to find one line: enough for the rest of one and another whole.
PROBE_BYTES = 2 * (MAX_LINE_BYTES + 1)


class AuditTrail:
    """One log as it stood when it was opened. Every method blocks, and may raise OSError."""

    def __init__(self, path: Path) -> None:
        """Open the files; those next to the lines may be missing. Raises OSError without the lines."""
        self.paths = AuditPaths.of(path)
        self._files = ExitStack()
        try:
            checkpoints = self._open(self.paths.checkpoints)
            self._checkpoints = (checkpoints, _size(checkpoints))
            self._hashes = self._open(self.paths.hashes)
            #: How many whole hashes are stored.
            self.hash_count = _size(self._hashes) // HASH_BYTES
            #: The bytes after the last whole hash.
            self.torn_hash_bytes = _size(self._hashes) % HASH_BYTES
            self._index = self._open(self.paths.index)
            self._index_count = _size(self._index) // ENTRY_BYTES
            #: The bytes after the last whole entry of the index.
            self.torn_index_bytes = _size(self._index) % ENTRY_BYTES
            self._lines = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._files.callback(os.close, self._lines)
            whole = _size(self._lines)
            #: The size of the whole lines, in bytes.
            self.size = self._end_of_lines(whole)
            #: The bytes after the last newline: a line that is being written, or was cut off.
            self.torn_bytes = whole - self.size
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def leaf_count(self) -> int:
        """How many leaves the stored hashes are enough for."""
        return bisect_right(range(self.hash_count + 1), self.hash_count, key=stored_count) - 1

    @property
    def checkpoint_bytes(self) -> int:
        """The size of the checkpoints' file."""
        return self._checkpoints[1]

    @property
    def has_hashes(self) -> bool:
        """Whether there is a file of stored hashes."""
        return self._hashes is not None

    def is_cut(self) -> bool:
        """Return whether there is less in a file now than when it was opened, what was torn left aside."""
        return (
            _size(self._lines) < self.size
            or _size(self._hashes) < self.hash_count * HASH_BYTES
            or _size(self._checkpoints[0]) < self._checkpoints[1]
        )

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """Yield each checkpoint's offset and note, unverified, oldest first."""
        descriptor, size = self._checkpoints
        # Some hundred bytes a second of a busy log: a year's are read in pieces.
        offset, rest = 0, b""
        while offset + len(rest) < size:
            at = offset + len(rest)
            data = rest + _pread(descriptor, min(BLOCK_BYTES, size - at), at)
            notes = list(split_notes(data, offset))
            if offset + len(data) < size:
                notes, (offset, rest) = notes[:-1], notes[-1]
            else:
                offset, rest = size, b""
            yield from notes

    def checkpoints_backward(self) -> Iterator[tuple[int, bytes]]:
        """Yield what `checkpoints` does, the newest first."""
        descriptor, end = self._checkpoints
        span = NOTES_BLOCK_BYTES
        while end > 0:
            start = max(0, end - span)
            notes = list(split_notes(_pread(descriptor, end - start, start), start))
            if start > 0:
                del notes[0]  # it may begin before
            yield from reversed(notes)
            # Where a single one is longer than what was read, more of it is.
            span = NOTES_BLOCK_BYTES if notes else 2 * span
            end = 0 if start == 0 else notes[0][0] if notes else end

    def find_end(self) -> Entry:
        """Return the number of whole lines and their size. Counts those after the last good entry of the index."""
        start = self._good_entry(lambda entry: entry.offset < self.size)
        return Entry(start.leaf_index + self._count_lines(start.offset, self.size), self.size)

    def verifiers(self) -> list[Verifier]:
        """Return the keys on the list next to the log, the newest last. Raises AuditDamaged."""
        try:
            return [key.verifier for key in read_key_file(self.paths.vkey)]
        except NoteInvalid as error:
            raise AuditDamaged(f"'{self.paths.vkey}' is damaged: {error}") from None

    def read_hash(self, number: int) -> bytes:
        """Return the hash at a stored index. Raises EOFError if it is not stored."""
        return self.read_hashes(number, 1)

    def check_root(self, checkpoint: Checkpoint) -> None:
        """Raise AuditDamaged if the stored hashes do not lead to a checkpoint's root, EOFError if they are too few."""
        if root_hash(checkpoint.size, self.read_hash) != checkpoint.root:
            raise self.damaged("was changed: its stored hashes are not what was signed")

    def damaged(self, how: str) -> AuditDamaged:
        """Return the error for a log whose files are not what was signed, or cannot be read."""
        return AuditDamaged(f"audit log '{self.paths.lines}' {how}; `emitd audit verify` says more")

    def incomplete(self, what: str) -> HandlerUnavailable:
        """Return the error for a log whose files do not end together."""
        problem = f"ends too early: {what}. It is a copy that was taken while the service wrote, or was cut"
        return HandlerUnavailable(f"audit log '{self.paths.lines}' {problem}; `emitd audit verify` says more")

    def read_hashes(self, number: int, count: int) -> bytes:
        """Return `count` stored hashes from a stored index on, one after the other. Raises EOFError."""
        if number + count > self.hash_count:
            raise EOFError(f"'{self.paths.hashes}' has {self.hash_count} hashes, not {number + count}")
        return _pread(self._hashes, count * HASH_BYTES, number * HASH_BYTES)

    def read_stored(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of the hashes' file from `offset`, a torn hash included."""
        whole = self.hash_count * HASH_BYTES + self.torn_hash_bytes
        return _pread(self._hashes, min(size, whole - offset), offset) if offset < whole else b""

    def read_lines(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of the lines' file from `offset`."""
        return _pread(self._lines, max(0, min(size, self.size - offset)), offset)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of the sparse index, unchecked."""
        for number in range(0, self._index_count, BLOCK_BYTES // ENTRY_BYTES):
            count = min(BLOCK_BYTES // ENTRY_BYTES, self._index_count - number)
            data = _pread(self._index, count * ENTRY_BYTES, number * ENTRY_BYTES)
            for at in range(0, len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
                yield Entry(int.from_bytes(data[at : at + 8]), int.from_bytes(data[at + 8 : at + 16]))

    def is_good_entry(self, entry: Entry) -> bool:
        """Return whether a line begins where an entry says, and its hash is the one stored for its number."""
        if entry == FIRST:
            return True
        if not 0 < entry.offset < self.size or stored_count(entry.leaf_index + 1) > self.hash_count:
            return False
        data = self.read_lines(2 * BLOCK_BYTES, entry.offset - 1)
        if data[:1] != b"\n":
            return False
        line = data[1 : data.find(b"\n", 1)]
        return leaf_hash(line) == self.read_hash(stored_index(0, entry.leaf_index))

    def lines(self, first_index: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the lines from one on: each one's number, and it without its newline.

        Finds the first by the sparse index if that is good, else by counting all lines before it.
        """
        return self.lines_from(self._good_entry(lambda entry: entry.leaf_index <= first_index), first_index)

    def lines_from(self, start: Entry, first_index: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the lines as `lines` does, from where an entry says, leaving out those before `first_index`."""
        for block, data in line_blocks(self.read_lines, start, BLOCK_BYTES):
            if block.leaf_index + data.count(b"\n") > first_index:
                for number, line in enumerate(data[:-1].split(b"\n"), block.leaf_index):
                    if number >= first_index:
                        yield number, line

    def line(self, index: int) -> bytes:
        """Return one line without its newline. Raises IndexError."""
        for _, line in self.lines(index):
            return line
        raise IndexError(f"'{self.paths.lines}' has no line {index}")

    def _open(self, path: Path) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        self._files.callback(os.close, descriptor)
        return descriptor

    def _end_of_lines(self, size: int) -> int:
        for end in range(size, 0, -BLOCK_BYTES):
            start = max(0, end - BLOCK_BYTES)
            newline = _pread(self._lines, end - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
        return 0

    def _good_entry(self, is_not_after: Callable[[Entry], bool]) -> Entry:
        """Return the last entry of the index for which `is_not_after` holds, if it is good; else the first line."""
        entry = last_entry(partial(_pread, self._index), self._index_count, is_not_after)
        return entry if self.is_good_entry(entry) else FIRST

    def _count_lines(self, start: int, end: int) -> int:
        return sum(
            self.read_lines(min(BLOCK_BYTES, end - offset), offset).count(b"\n")
            for offset in range(start, end, BLOCK_BYTES)
        )


def _size(descriptor: int | None) -> int:
    return 0 if descriptor is None else os.fstat(descriptor).st_size


def _pread(descriptor: int | None, size: int, offset: int) -> bytes:
    """Read `size` bytes, or up to the end of the file."""
    assert descriptor is not None
    data = os.pread(descriptor, size, offset)
    while 0 < len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


class CommittedTrail(AuditTrail):
    """One log up to its `end`: the number of committed lines, and their size in bytes.

    `received_at` never decreases, so a time is found by halving the file's bytes, without any index. Its methods block,
    and may raise OSError, AuditDamaged, and HandlerUnavailable if the files have less than was committed.
    """

    def __init__(self, path: Path, end: Entry) -> None:
        """Open the files. Raises OSError without the lines, HandlerUnavailable without all of them."""
        super().__init__(path)
        self.end = end
        if self.size < end.offset:
            self.close()
            raise HandlerUnavailable(f"audit log '{path}' has fewer lines than were committed to it")
        self.size = end.offset  # the base class goes by this

    def read_lines(self, size: int, offset: int) -> bytes:
        """Return `size` bytes of the lines' file from `offset`, or up to the end."""
        data = super().read_lines(size, offset)
        if len(data) < min(size, self.size - offset):
            raise HandlerUnavailable(f"audit log '{self.paths.lines}' was cut while it was read")
        return data

    def position_of(self, index: int) -> Entry:
        """Return the place of a line; for the number of lines, that of the next one."""
        if index >= self.end.leaf_index:
            return self.end
        known = self._good_entry(lambda entry: entry.leaf_index <= index)
        count = 0
        for start, data in line_blocks(self.read_lines, known, BLOCK_BYTES):
            count = start.leaf_index + data.count(b"\n")
            if count > index:
                at = 0
                for _ in range(index - start.leaf_index):
                    at = data.index(b"\n", at) + 1
                return Entry(index, start.offset + at)
        raise self.damaged(f"has only {count} lines of {self.end.leaf_index}")

    def position_at(self, offset: int) -> Entry:
        """Return the number of the line that begins at an offset, with that."""
        start = self._good_entry(lambda entry: entry.offset <= offset)
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
        data = self.read_lines(min(size, stop - start.offset), start.offset)
        return data[: self._newline(data.rfind(b"\n"), start.offset)]

    def block_before(self, end: Entry, stop: int, size: int) -> tuple[Entry, bytes]:
        """Return whole lines that end before `end`, back to the offset `stop`, about `size` bytes; and their start."""
        offset = max(stop, end.offset - size)
        data = self.read_lines(end.offset - offset, offset)
        if offset > stop:
            cut = self._newline(data.find(b"\n", 0, -1), offset)
            offset, data = offset + cut, data[cut:]
        return Entry(end.leaf_index - data.count(b"\n"), offset), data

    def _probe(self, offset: int, stop: int) -> tuple[int, int, int]:
        """Return the first readable line that begins at an offset or later: where it begins and ends, its time.

        If none begins before `stop`: begins at `stop`.
        """
        data, at = self.read_lines(PROBE_BYTES, max(0, offset - 1)), 0
        if offset > 0:
            at = self._newline(data.find(b"\n"), offset)
            offset += at - 1
        while offset < stop:
            end = data.find(b"\n", at)
            if end < 0:
                data, at = self.read_lines(PROBE_BYTES, offset), 0
                end = self._newline(data.find(b"\n"), offset) - 1
            received = received_at(data[at:end])
            if received:
                return offset, offset + end + 1 - at, received
            offset, at = offset + end + 1 - at, end + 1
        return stop, stop, 0

    def _newline(self, found: int, offset: int) -> int:
        """Return where the line after a newline begins. Raises AuditDamaged if none was found."""
        if found < 0:
            raise self.damaged(f"is damaged after byte {offset}: no line is so long")
        return found + 1
