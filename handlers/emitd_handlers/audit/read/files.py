"""A log's files, opened for reading alone: what readers, provers and verifiers start from.

It works on a running service's log and on a copied folder alike. The files are looked at in an order that makes them
fit each other while a service writes: checkpoints, hashes, lines. What a checkpoint covers is then in the other two.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from emitd_handlers.audit.format.checkpoint_file import split_notes
from emitd_handlers.audit.format.line_index import ENTRY_BYTES, Entry, last_entry
from emitd_handlers.audit.format.paths import AuditPaths
from emitd_handlers.tlog.merkle import HASH_BYTES, leaf_hash, stored_count, stored_index

__all__ = ["AuditTrail"]

#: How much is read at once.
BLOCK_BYTES = 1024 * 1024
#: How much is read at once of the checkpoints from the end on: mostly it is the last that is wanted.
NOTES_BLOCK_BYTES = 64 * 1024


class AuditTrail:
    """One log as it stood when it was opened. Every method blocks, and may raise OSError."""

    def __init__(self, path: Path) -> None:
        """Open the files; those beside the lines may be missing. Raises OSError without the lines."""
        self.paths = AuditPaths.of(path)
        self._files = ExitStack()
        try:
            checkpoints = self._open(self.paths.checkpoints)
            self._checkpoints = (checkpoints, _size(checkpoints))
            self._hashes = self._open(self.paths.hashes)
            #: How many whole hashes are stored.
            self.hash_count = _size(self._hashes) // HASH_BYTES
            #: What is stored beyond them: part of a hash, while or since something was cut off.
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
        low, high = 0, self.hash_count + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if stored_count(middle) <= self.hash_count else (low, middle)
        return low

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
        """Yield each checkpoint's offset and note, unverified, oldest first; empty where there is no such file."""
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
        start = last_entry(self._read_index, self._index_count, lambda entry: entry.offset < self.size)
        if not self.is_good_entry(start):
            start = Entry(0, 0)
        blocks = range(start.offset, self.size, BLOCK_BYTES)
        count = sum(self.read_lines(BLOCK_BYTES, offset).count(b"\n") for offset in blocks)
        return Entry(start.leaf_index + count, self.size)

    def log_id(self) -> str:
        """Return the id in the file beside the log, or an empty string."""
        return _read_text(self.paths.log_id)

    def vkeys(self) -> list[str]:
        """Return the vkeys in the file beside the log, the newest last."""
        return _read_text(self.paths.vkey).split()

    def read_hash(self, number: int) -> bytes:
        """Return the hash at a stored index (see `tlog.merkle`). Raises EOFError where it is not stored."""
        return self.read_hashes(number, 1)

    def read_hashes(self, number: int, count: int) -> bytes:
        """Return `count` stored hashes from a stored index on, one after the other. Raises EOFError."""
        if number + count > self.hash_count:
            raise EOFError(f"'{self.paths.hashes}' has {self.hash_count} hashes, not {number + count}")
        return _pread(self._hashes, count * HASH_BYTES, number * HASH_BYTES)

    def read_stored(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of the hashes' file from `offset`, what is torn included."""
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
        if entry == (0, 0):
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

        Gets to the first by the sparse index where that is good, else by counting all lines before it.
        """
        start = last_entry(self._read_index, self._index_count, lambda entry: entry.leaf_index <= first_index)
        if not self.is_good_entry(start):
            start = Entry(0, 0)
        return self.lines_from(start, first_index)

    def lines_from(self, start: Entry, first_index: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the lines as `lines` does, from where an entry says, leaving out those before `first_index`."""
        index, offset = start
        rest = b""
        while offset + len(rest) < self.size:
            data = rest + self.read_lines(BLOCK_BYTES, offset + len(rest))
            end = data.rfind(b"\n") + 1
            count = data.count(b"\n")
            if index + count > first_index:
                for number, line in enumerate(data[:end].split(b"\n")[:-1], index):
                    if number >= first_index:
                        yield number, line
            index, offset, rest = index + count, offset + end, data[end:]

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
        end = size
        while end > 0:
            start = max(0, end - BLOCK_BYTES)
            newline = _pread(self._lines, end - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0

    def _read_index(self, size: int, offset: int) -> bytes:
        return _pread(self._index, size, offset)


def _size(descriptor: int | None) -> int:
    return 0 if descriptor is None else os.fstat(descriptor).st_size


def _pread(descriptor: int | None, size: int, offset: int) -> bytes:
    """Read so many bytes, or up to the end of the file."""
    assert descriptor is not None
    data = os.pread(descriptor, size, offset)
    while 0 < len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
