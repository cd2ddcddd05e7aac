"""Cuts the lines of a log into chunks: some hundred kilobytes of whole lines each, and what the index says of them."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from emitd_handlers.audit.format.line import MAX_LINE_BYTES
from emitd_handlers.audit.format.line_index import Entry
from emitd_handlers.audit.read.files import AuditTrail

__all__ = ["Chunk", "NumberedEntry", "counted_chunks", "spans"]

#: How much a chunk has, but for the end of its last line. All that is made of it is in memory at once: with more,
#: the system takes memory back and gives it out again from chunk to chunk, which costs a tenth of the time.
CHUNK_BYTES = 256 * 1024
#: Where the end of a chunk is looked for: within the length of the longest line.
LOOK_BACK_BYTES = MAX_LINE_BYTES + 1

#: An entry of the index, and its place there.
NumberedEntry: TypeAlias = tuple[int, Entry]


class Chunk(msgspec.Struct, frozen=True):
    """Where some lines are."""

    start: Entry
    size: int
    #: What the index has in it.
    entries: Sequence[NumberedEntry]


def counted_chunks(trail: AuditTrail, entries: Sequence[NumberedEntry]) -> Iterator[Chunk]:
    """Yield all chunks; reads the lines to count them."""
    index = 0
    for offset, size, inside in spans(trail, entries):
        yield Chunk(Entry(index, offset), size, inside)
        index += trail.read_lines(size, offset).count(b"\n")


def spans(
    trail: AuditTrail, entries: Sequence[NumberedEntry]
) -> Iterator[tuple[int, int, Sequence[NumberedEntry]]]:
    """Yield the offset and the size of each chunk, and what the index has in it."""
    offset, number = 0, 0
    while offset < trail.size:
        size = _size_of_chunk(trail, offset)
        first = number
        while number < len(entries) and entries[number][1].offset < offset + size:
            number += 1
        yield offset, size, entries[first:number]
        offset += size


def _size_of_chunk(trail: AuditTrail, offset: int) -> int:
    """Return how many bytes from `offset` on are whole lines, and about as many as a chunk has."""
    size = CHUNK_BYTES
    while offset + size < trail.size:
        tail = trail.read_lines(LOOK_BACK_BYTES, offset + size - LOOK_BACK_BYTES)
        newline = tail.rfind(b"\n")
        if newline >= 0:
            return size - len(tail) + newline + 1
        size += LOOK_BACK_BYTES
    return trail.size - offset
