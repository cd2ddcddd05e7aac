"""The lines of a log, looked at in chunks: their JSON, their times, their hashes, where the index says they begin.

A chunk is looked at by itself, by whichever process is free.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice

import msgspec

from emitd_handlers.audit.format.line_index import ENTRY_BYTES, Entry
from emitd_handlers.audit.read.files import AuditTrail
from emitd_handlers.audit.verify.chunks import Chunk, NumberedEntry, counted_chunks, spans
from emitd_handlers.audit.verify.findings import Finding, Findings, Kind
from emitd_handlers.audit.verify.form import check_form
from emitd_handlers.audit.verify.hashes import row_of
from emitd_handlers.audit.verify.ids import ChunkIds, sum_up
from emitd_handlers.audit.verify.workers import in_order
from emitd_handlers.tlog.merkle import HASH_BYTES, stored_count

__all__ = ["ChunkReport", "check_chunks"]

#: So many are given to a worker at once.
CHUNKS_AT_ONCE = 8


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
    event_ids: ChunkIds
    record_ids: ChunkIds


def check_chunks(trail: AuditTrail, entries: Sequence[NumberedEntry], workers: int) -> Iterator[ChunkReport]:
    """Look at all lines; yield a report for each chunk, in order. `entries` is the index, by growing offset."""
    check = partial(_check, trail)
    if workers > 1:
        chunks = counted_chunks(trail, entries)
        batches = iter(lambda: list(islice(chunks, CHUNKS_AT_ONCE)), [])
        for reports in in_order(lambda batch: list(map(check, batch)), batches, workers):
            yield from reports
        return
    index = 0
    for offset, size, inside in spans(trail, entries):
        report = check(Chunk(Entry(index, offset), size, inside))
        yield report
        index += report.line_count


def _check(trail: AuditTrail, chunk: Chunk) -> ChunkReport:
    # Hot path: some 4 to 5 µs a line, of which SHA-256 takes more than half.
    data = trail.read_lines(chunk.size, chunk.start.offset)
    lines = data.split(b"\n")
    del lines[-1]
    hashed = sha256
    leaves = [hashed(b"\0" + line).digest() for line in lines]
    form, index = Findings(), Findings()
    parsed, times = check_form(str(trail.paths.lines), chunk.start.leaf_index, data, lines, form)
    index.extend(_wrong_entries(trail, chunk, data))
    return ChunkReport(
        chunk,
        len(lines),
        _is_row_good(trail, chunk.start.leaf_index, leaves),
        times[0] if times else "",
        times[-1] if times else "",
        form,
        index,
        sum_up([line.event_id for line in parsed]),
        sum_up([line.record_id for line in parsed if line.record_id]),
    )


def _wrong_entries(trail: AuditTrail, chunk: Chunk, data: bytes) -> Iterator[Finding]:
    """Yield what is wrong in the index: entries that name another place than that of their line."""
    index, at = chunk.start.leaf_index, 0
    for number, entry in chunk.entries:
        place = entry.offset - chunk.start.offset
        index += data.count(b"\n", at, place)
        at = place
        if entry.leaf_index != index or (place and data[place - 1 : place] != b"\n"):
            yield Finding(
                Kind.INDEX_WRONG,
                str(trail.paths.index),
                f"the index says that line {entry.leaf_index} begins at byte {entry.offset} of the lines, which it "
                "does not; delete the index, it is made anew",
                entry.leaf_index,
                number * ENTRY_BYTES,
            )


def _is_row_good(trail: AuditTrail, first_leaf: int, leaves: Sequence[bytes]) -> bool:
    start = stored_count(first_leaf)
    size = stored_count(first_leaf + len(leaves)) - start
    stored = trail.read_stored(size * HASH_BYTES, start * HASH_BYTES)
    return not stored or row_of(first_leaf, leaves, trail.read_hash).startswith(stored)
