"""The row of hashes that the lines of a log give (see `tlog.merkle` for its order), computed again.

A part of the row is computed from its leaves and the peaks of the tree before them. If the peaks are taken from the
stored row, and each part from the first leaf on is found to be as stored, then the peaks were right as well, and with
them the whole row: parts may be checked in any order, and by several processes.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from tempfile import TemporaryFile

from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.tlog.merkle import (
    HASH_BYTES,
    Frontier,
    ReadHash,
    leaf_hash,
    stored_count,
)

#: How many lines are hashed at once.
LINES_AT_ONCE = 8192


def row_of(first_leaf: int, leaves: Sequence[bytes], read: ReadHash) -> bytes:
    """Return the part of the row that leaves from `first_leaf` on add to it; `read` gives hashes before it."""
    return b"".join(Frontier(first_leaf, read).extend(leaves))


def place_of(number: int) -> tuple[int, int]:
    """Return the level and the node whose hash has a number in the row: the inverse of `stored_index`."""
    low = bisect_right(range(number + 1), number, key=stored_count) - 1  # the leaf that completes it
    level = number - stored_count(low)
    return level, low >> level


def leaves_of(row: "AuditTrail | LineRow", first_leaf: int, count: int) -> list[bytes]:
    """Return the hashes of some leaves in a row."""
    if not count:
        return []
    start = stored_count(first_leaf)
    data = row.read_hashes(start, stored_count(first_leaf + count - 1) + 1 - start)
    places = [(stored_count(leaf) - start) * HASH_BYTES for leaf in range(first_leaf, first_leaf + count)]
    return [data[place : place + HASH_BYTES] for place in places]


class LineRow:
    """The row that all lines of a log give: as stored up to where that was found right, from there on computed.

    The computed part is in a temporary file of 64 bytes a line.
    """

    def __init__(self, trail: AuditTrail, good_end: Entry) -> None:
        """Compute the rest; `good_end` is the end of the lines whose stored hashes are right."""
        self._trail = trail
        self._stored_count = stored_count(good_end.leaf_index)
        self._file = TemporaryFile()  # noqa: SIM115
        self.leaf_count = good_end.leaf_index
        lines = trail.lines_from(good_end, good_end.leaf_index)
        try:
            while batch := list(islice(lines, LINES_AT_ONCE)):
                leaves = [leaf_hash(line) for _, line in batch]
                self._file.write(row_of(self.leaf_count, leaves, self.read_hash))
                self._file.flush()
                self.leaf_count += len(leaves)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give up the temporary file."""
        self._file.close()

    def read_hash(self, number: int) -> bytes:
        """Return one hash. Raises EOFError."""
        return self.read_hashes(number, 1)

    def read_hashes(self, number: int, count: int) -> bytes:
        """Return `count` hashes from a number on, one after the other. Raises EOFError."""
        stored = max(0, min(count, self._stored_count - number))
        data = self._trail.read_hashes(number, stored) if stored else b""
        if stored < count:
            offset = (number + stored - self._stored_count) * HASH_BYTES
            # Not by the file's own position, which forked processes share.
            data += os.pread(self._file.fileno(), (count - stored) * HASH_BYTES, offset)
        if len(data) < count * HASH_BYTES:
            raise EOFError(f"the lines give no hash {number + count - 1}")
        return data
