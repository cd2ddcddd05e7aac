"""Where in a log its lines begin: a sparse index, one entry for some hundred kilobytes of lines.

An entry is 16 bytes, big-endian: a line's number and the offset of its first byte; both grow from entry to entry.
The index is a help and no evidence: whoever takes an entry checks it against the hash stored for its line. Where the
file is missing, it is made anew from the lines.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

__all__ = ["ENTRY_BYTES", "FIRST", "Entry", "count_entries", "last_entry", "pack_entry", "read_entry"]

_ENTRY = struct.Struct(">QQ")
ENTRY_BYTES = _ENTRY.size

#: Returns so many bytes of the index from an offset.
ReadBytes: TypeAlias = Callable[[int, int], bytes]


class Entry(NamedTuple):
    """Where one line begins."""

    leaf_index: int
    offset: int


#: The first line needs no entry.
FIRST = Entry(0, 0)


def pack_entry(entry: Entry) -> bytes:
    """Return an entry's bytes."""
    return _ENTRY.pack(*entry)


def read_entry(read: ReadBytes, number: int) -> Entry:
    """Return entry `number` of an index, from 0, which must be there."""
    return Entry(*_ENTRY.unpack(read(ENTRY_BYTES, number * ENTRY_BYTES)))


def last_entry(read: ReadBytes, count: int, is_not_after: Callable[[Entry], bool]) -> Entry:
    """Return the last of `count` entries for which `is_not_after` holds; where it holds for none: the first line."""
    number = count_entries(read, count, is_not_after)
    return read_entry(read, number - 1) if number else FIRST


def count_entries(read: ReadBytes, count: int, is_not_after: Callable[[Entry], bool]) -> int:
    """Return for how many of `count` entries `is_not_after` holds; it must hold for all before the last of them.

    Reads some two dozen entries at most.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if is_not_after(read_entry(read, middle)):
            low = middle + 1
        else:
            high = middle
    return low
