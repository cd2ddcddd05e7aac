"""The sparse index: its entries' bytes, and how one is found."""

import pytest

from emitd_handlers.audit.format.files import (
    ENTRY_BYTES,
    FIRST,
    Entry,
    count_entries,
    last_entry,
    pack_entry,
    read_entry,
)

ENTRIES = [Entry(number, number * 100 + 7) for number in range(16, 1600, 16)]
DATA = b"".join(map(pack_entry, ENTRIES))


class Index:
    """The bytes of an index, and how often they were read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def read(self, size: int, offset: int) -> bytes:
        self.reads += 1
        return self.data[offset : offset + size]


def test_an_entry_is_two_numbers_the_larger_byte_first() -> None:
    """Sixteen bytes, which are read as they were written."""
    assert pack_entry(Entry(1, 2)) == bytes(7) + b"\1" + bytes(7) + b"\2"
    assert ENTRY_BYTES == len(pack_entry(Entry(2**40, 2**63))) == 16
    assert read_entry(Index(DATA).read, 5) == ENTRIES[5]


@pytest.mark.parametrize("index", [0, 15, 16, 17, 31, 32, 800, 1583, 1584, 10**9])
def test_the_last_entry_at_or_before_a_line(index: int) -> None:
    """Found by the line's number; before all entries stands the first line, which needs none."""
    expected = max((entry for entry in ENTRIES if entry.leaf_index <= index), default=FIRST)
    read = Index(DATA).read
    assert last_entry(read, len(ENTRIES), lambda entry: entry.leaf_index <= index) == expected
    count = count_entries(read, len(ENTRIES), lambda entry: entry.leaf_index <= index)
    assert count == sum(entry.leaf_index <= index for entry in ENTRIES)


def test_an_empty_index() -> None:
    """Nothing is read, and the first line is where to begin."""
    index = Index(b"")
    assert last_entry(index.read, 0, lambda _: True) == FIRST
    assert index.reads == 0


def test_few_entries_are_read() -> None:
    """As many as it takes to halve a hundred to one, and the one."""
    index = Index(DATA)
    last_entry(index.read, len(ENTRIES), lambda entry: entry.offset <= 80_000)
    assert index.reads <= 8
