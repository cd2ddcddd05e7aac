"""The row of hashes of a log's lines, computed anew."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.hashes import LineRow, leaves_of, place_of, row_of
from emitd_handlers.tlog.merkle import HASH_BYTES, Frontier, leaf_hash, stored_index
from support.audit.sealed_log import SealedLog, make_line

LEAVES = [leaf_hash(str(number).encode()) for number in range(1300)]
ROW = b"".join(Frontier().extend(LEAVES))


def read(number: int) -> bytes:
    return ROW[number * HASH_BYTES : (number + 1) * HASH_BYTES]


@given(st.lists(st.integers(0, len(LEAVES)), max_size=4))
def test_any_parts_make_the_row(cuts: list[int]) -> None:
    """Wherever the leaves are cut into parts, their parts of the row make the row."""
    ends = [*sorted(cuts), len(LEAVES)]
    parts = [row_of(first, LEAVES[first:end], read) for first, end in zip([0, *ends], ends, strict=False)]
    assert b"".join(parts) == ROW


@pytest.mark.parametrize("number", [*range(40), 1000, 2592])
def test_the_place_of_a_hash(number: int) -> None:
    """It is the one whose stored index that is."""
    assert stored_index(*place_of(number)) == number


@pytest.mark.parametrize("good", [0, 1, 20, 33])
def test_the_row_of_lines(tmp_path: Path, good: int) -> None:
    """It is that of all lines, from wherever it is computed; it can be read hash by hash, and over the seam."""
    log = SealedLog.make(tmp_path / "audit.json.log", 20)
    log.append([make_line(number) for number in range(20, 33)], hashes=False)
    if good > 20:
        log.paths.hashes.write_bytes(b"".join(Frontier().extend([leaf_hash(line) for line in log.lines])))
    leaves = [leaf_hash(line) for line in log.lines]
    offset = sum(len(line) + 1 for line in log.lines[:good])
    with AuditTrail(log.path) as trail:
        row = LineRow(trail, Entry(good, offset))
        assert row.leaf_count == 33
        whole = b"".join(Frontier().extend(leaves))
        assert row.read_hashes(0, len(whole) // HASH_BYTES) == whole
        assert row.read_hash(30) == whole[30 * HASH_BYTES : 31 * HASH_BYTES]
        assert leaves_of(row, 5, 28) == leaves[5:]
        assert leaves_of(row, 5, 0) == []
        with pytest.raises(EOFError):
            row.read_hashes(0, len(whole) // HASH_BYTES + 1)
        row.close()
