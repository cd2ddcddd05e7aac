"""The row of hashes that the lines of a log give (see `tlog.merkle` for its order), computed anew.

A part of the row is computed from its leaves and the peaks of the tree before them. Where those are taken from the
stored row, and each part from the first leaf on is found to be as stored, then the peaks were right as well, and with
them the whole row: parts may be checked in any order, and by several processes.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from operator import itemgetter
from tempfile import TemporaryFile
from typing import Any, Protocol

from emitd_handlers.audit.format.line_index import Entry
from emitd_handlers.audit.read.files import AuditTrail
from emitd_handlers.tlog.merkle import (
    HASH_BYTES,
    ReadHash,
    leaf_hash,
    peaks_of,
    stored_count,
    stored_index,
)

__all__ = ["HashRow", "LineRow", "leaves_of", "place_of", "row_of"]

#: How many lines are hashed at once where the row is computed anew.
LINES_AT_ONCE = 8192
#: Perfect subtrees of so many leaves are computed level by level, in less time than leaf by leaf.
BLOCK_LEAVES = 128


class HashRow(Protocol):
    """A row of hashes."""

    def read_hashes(self, number: int, count: int) -> bytes:
        """Return `count` hashes from a number on, one after the other. Raises EOFError where they are not there."""


def row_of(first_leaf: int, leaves: Sequence[bytes], read: ReadHash) -> bytes:
    """Return the part of the row that leaves from `first_leaf` on add to it; `read` gives hashes before it."""
    peaks = [read(stored_index(*peak)) for peak in peaks_of(first_leaf)]
    row: list[bytes] = []
    at = min(-first_leaf % BLOCK_LEAVES, len(leaves))
    for number, leaf in enumerate(leaves[:at], first_leaf):
        _add(row, peaks, number, leaf)
    in_order = _block_order()
    while at + BLOCK_LEAVES <= len(leaves):
        levels = _block(leaves[at : at + BLOCK_LEAVES])
        row += in_order(levels)
        _add(row, peaks, (first_leaf + at) // BLOCK_LEAVES, levels[-1])
        at += BLOCK_LEAVES
    for number, leaf in enumerate(leaves[at:], first_leaf + at):
        _add(row, peaks, number, leaf)
    return b"".join(row)


def _add(row: list[bytes], peaks: list[bytes], number: int, node: bytes) -> None:
    """Add node `number` of a level, with the nodes above that it completes."""
    row.append(node)
    while number & 1:
        node = _sha256_of_little(b"\1" + peaks.pop() + node).digest()
        row.append(node)
        number >>= 1
    peaks.append(node)


def _block(leaves: Sequence[bytes]) -> list[bytes]:
    """Return the hashes of a perfect subtree, level by level from the leaves to the root."""
    # Hot path: one hash for each leaf.
    level, hashes, hashed = leaves, list(leaves), _sha256_of_little
    while len(level) > 1:
        nodes = iter(level)
        level = [hashed(b"\1" + left + right).digest() for left, right in zip(nodes, nodes, strict=True)]
        hashes += level
    return hashes


def _find_sha256() -> Callable[[bytes], Any]:
    """Return Python's own SHA-256 where it is built in.

    That of `hashlib` is OpenSSL's, which takes longer to begin with two hashes than this one to be done with them.
    """
    for name in ("_sha2", "_sha256"):  # from Python 3.12 on, and before
        with suppress(ImportError):
            own: Callable[[bytes], Any] = import_module(name).sha256
            return own
    return hashlib.sha256


_sha256_of_little = _find_sha256()


@cache
def _block_order() -> "itemgetter[Any]":
    """Return what brings the hashes that `_block` returns, but for the root, into the order of the row."""
    starts = [0]
    while (width := BLOCK_LEAVES >> len(starts) - 1) > 1:
        starts.append(starts[-1] + width)
    order = []
    for number in range(stored_count(BLOCK_LEAVES) - 1):
        level, node = place_of(number)
        order.append(starts[level] + node)
    return itemgetter(*order)


def place_of(number: int) -> tuple[int, int]:
    """Return the level and the node whose hash has a number in the row: the inverse of `stored_index`."""
    low, high = 0, number + 1  # the leaf that completes it
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if stored_count(middle) <= number else (low, middle)
    level = number - stored_count(low)
    return level, low >> level


def leaves_of(row: HashRow, first_leaf: int, count: int) -> list[bytes]:
    """Return the hashes of some leaves in a row."""
    if not count:
        return []
    start = stored_count(first_leaf)
    data = row.read_hashes(start, stored_count(first_leaf + count - 1) + 1 - start)
    places = [(stored_count(leaf) - start) * HASH_BYTES for leaf in range(first_leaf, first_leaf + count)]
    return [data[place : place + HASH_BYTES] for place in places]


class LineRow:
    """The row that all lines of a log give: as it is stored where that was found right, from there on computed anew.

    What is computed goes to a temporary file of 64 bytes a line.
    """

    def __init__(self, trail: AuditTrail, good_end: Entry) -> None:
        """Compute what is missing; `good_end` is where the lines end whose stored hashes are right."""
        self._trail = trail
        self._stored_count = stored_count(good_end.leaf_index)
        self._file = TemporaryFile()  # noqa: SIM115
        self.leaf_count = good_end.leaf_index
        lines: list[bytes] = []
        try:
            for _, line in trail.lines_from(good_end, good_end.leaf_index):
                lines.append(line)
                if len(lines) == LINES_AT_ONCE:
                    self._extend(lines)
                    lines = []
            self._extend(lines)
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

    def _extend(self, lines: Sequence[bytes]) -> None:
        self._file.write(row_of(self.leaf_count, list(map(leaf_hash, lines)), self.read_hash))
        self._file.flush()
        self.leaf_count += len(lines)
