"""Checks the lines of a log in chunks: their JSON, their times, their hashes, where the index says they begin.

A chunk is some hundred kilobytes of whole lines. It is checked by itself, by whichever process is free.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import TypeAlias

import msgspec

from emitd_handlers.audit.format.files import ENTRY_BYTES, FIRST, Entry, line_blocks
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.findings import Findings, Kind
from emitd_handlers.audit.verify.form import check_form
from emitd_handlers.audit.verify.hashes import row_of
from emitd_handlers.audit.verify.ids import pack_hashes
from emitd_handlers.audit.verify.workers import in_order
from emitd_handlers.tlog.merkle import HASH_BYTES, stored_count

#: How much a chunk has, but for the end of its last line. All that is made of it is in memory at once: with more,
#: the system takes memory back and gives it out again from chunk to chunk, which costs a tenth of the time.
CHUNK_BYTES = 256 * 1024
#: This many chunks are given to a worker at once.
CHUNKS_AT_ONCE = 8

#: An entry of the index, and its place there.
NumberedEntry: TypeAlias = tuple[int, Entry]


class Chunk(msgspec.Struct, frozen=True):
    """Where some lines are."""

    start: Entry
    size: int
    #: What the index has in it.
    entries: Sequence[NumberedEntry]


class ChunkReport(msgspec.Struct, frozen=True):
    """What was found in a chunk."""

    chunk: Chunk
    line_count: int
    #: Whether the hashes stored for its lines are right, as far as there are any.
    is_row_good: bool
    #: The `received_at` of the first and of the last line that have one.
    first_time: str
    last_time: str
    #: What is wrong with the form of its lines, and in the index.
    form: Findings
    index: Findings
    #: The hashes of its ids.
    event_ids: bytes
    record_ids: bytes


def check_chunks(trail: AuditTrail, entries: Sequence[NumberedEntry], workers: int) -> Iterator[ChunkReport]:
    """Look at all lines; yield a report for each chunk, in order. `entries` is the index, by growing offset."""
    chunks = _chunks(trail, entries)
    batches = iter(lambda: list(islice(chunks, CHUNKS_AT_ONCE)), [])
    for reports in in_order(lambda batch: list(map(partial(_check, trail), batch)), batches, workers):
        yield from reports


def _chunks(trail: AuditTrail, entries: Sequence[NumberedEntry]) -> Iterator[Chunk]:
    """Yield all chunks; reads the lines to count them."""
    number = 0
    for start, data in line_blocks(trail.read_lines, FIRST, CHUNK_BYTES):
        first = number
        while number < len(entries) and entries[number][1].offset < start.offset + len(data):
            number += 1
        yield Chunk(start, len(data), entries[first:number])


def _check(trail: AuditTrail, chunk: Chunk) -> ChunkReport:
    first = chunk.start.leaf_index
    # Hot path: 2.5 µs a line, of which hashing takes half.
    data = trail.read_lines(chunk.size, chunk.start.offset)
    lines = data.split(b"\n")
    del lines[-1]
    leaves = [sha256(b"\0" + line).digest() for line in lines]
    form, index = Findings(), Findings()
    parsed, times = check_form(trail.paths.lines, first, data, lines, form)
    _check_entries(trail, chunk, data, index)
    start, end = stored_count(first) * HASH_BYTES, stored_count(first + len(leaves)) * HASH_BYTES
    stored = trail.read_stored(end - start, start)
    return ChunkReport(
        chunk,
        len(lines),
        not stored or row_of(first, leaves, trail.read_hash).startswith(stored),
        times[0] if times else "",
        times[-1] if times else "",
        form,
        index,
        pack_hashes([(line.source, line.event_id) for line in parsed]),
        pack_hashes([(line.source, line.record_id) for line in parsed if line.record_id]),
    )


def _check_entries(trail: AuditTrail, chunk: Chunk, data: bytes, findings: Findings) -> None:
    """Add the entries of the index that name another place than that of their line."""
    index, at = chunk.start.leaf_index, 0
    for number, entry in chunk.entries:
        place = entry.offset - chunk.start.offset
        index += data.count(b"\n", at, place)
        at = place
        if entry.leaf_index != index or (place and data[place - 1 : place] != b"\n"):
            message = (
                f"the index says that line {entry.leaf_index} begins at byte {entry.offset} of the lines, which it "
                "does not; delete the index, it is rebuilt"
            )
            offset = number * ENTRY_BYTES
            findings.add(Kind.INDEX_WRONG, trail.paths.index, message, entry.leaf_index, offset)
