"""Trees and proofs of any size, against RFC 6962 written down as it reads."""

from collections.abc import Sequence
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.tlog.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_hash,
    root_of_inclusion,
    stored_count,
)
from emitd_handlers.tlog.tiles import tiles_of, top_level
from support.audit.log_reader import verify_consistency

MAX_SIZE = 600


def data_of(size: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(size)]


def split(size: int) -> int:
    """The largest power of two below a size."""
    half = 1
    while half * 2 < size:
        half *= 2
    return half


def mth(data: Sequence[bytes]) -> bytes:
    """MTH of section 2.1."""
    if not data:
        return sha256().digest()
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def path(m: int, data: Sequence[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*path(m, data[:k]), mth(data[k:])]
    return [*path(m - k, data[k:]), mth(data[:k])]


def subproof(m: int, data: Sequence[bytes], complete: bool) -> list[bytes]:
    """SUBPROOF of section 2.1.2; PROOF is that with `complete`."""
    if m == len(data):
        return [] if complete else [mth(data)]
    k = split(len(data))
    if m <= k:
        return [*subproof(m, data[:k], complete), mth(data[k:])]
    return [*subproof(m - k, data[k:], False), mth(data[:k])]


def row_of(size: int) -> list[bytes]:
    return Frontier().extend([leaf_hash(entry) for entry in data_of(size)])


sizes = st.integers(1, MAX_SIZE)


@given(sizes, st.lists(st.integers(0, MAX_SIZE), max_size=5))
def test_a_tree_that_grows_in_any_steps_has_the_root_of_the_rfc(size: int, stops: list[int]) -> None:
    """However its leaves come, the root is MTH of them, and the stored row is as long as it must be."""
    frontier, row, leaves = Frontier(), list[bytes](), [leaf_hash(entry) for entry in data_of(size)]
    for stop in [*sorted(min(stop, size) for stop in stops), size]:
        row += frontier.extend(leaves[frontier.size : stop])
        assert frontier.root() == mth(data_of(stop))
    assert len(row) == stored_count(size)
    assert root_hash(size, row.__getitem__) == mth(data_of(size))


@given(st.data(), sizes)
def test_inclusion_proofs_are_those_of_the_rfc(data: st.DataObject, size: int) -> None:
    """PATH for any leaf, also from the row of a larger tree; and it leads from the leaf to the root."""
    index = data.draw(st.integers(0, size - 1))
    row = row_of(size + data.draw(st.integers(0, 40)))
    proof = inclusion_proof(index, size, row.__getitem__)
    assert proof == path(index, data_of(size))
    assert root_of_inclusion(index, size, leaf_hash(data_of(size)[index]), proof) == mth(data_of(size))


@given(st.data(), sizes)
def test_no_other_leaf_is_proved(data: st.DataObject, size: int) -> None:
    """With another leaf, another index or one bit of a hash changed, the root is another one, or there is none."""
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, row_of(size).__getitem__)
    leaf = leaf_hash(data_of(size)[index])
    kinds = ["leaf", *(["index", "hash"] if proof else [])]
    match data.draw(st.sampled_from(kinds)):
        case "leaf":
            leaf = leaf_hash(b"another")
        case "index":
            index = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
        case "hash":
            number, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
            proof[number] = (int.from_bytes(proof[number]) ^ 1 << bit).to_bytes(32)
    try:
        root = root_of_inclusion(index, size, leaf, proof)
    except ValueError:
        return
    assert root != mth(data_of(size))


@given(st.data(), sizes)
def test_consistency_proofs_are_those_of_the_rfc(data: st.DataObject, size: int) -> None:
    """PROOF for any two sizes, and it is taken."""
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(old, size, row_of(size).__getitem__)
    assert proof == subproof(old, data_of(size), True)
    assert verify_consistency(old, size, mth(data_of(old)), mth(data_of(size)), proof)


@given(st.data(), sizes)
def test_a_log_that_was_changed_has_no_consistency_proof(data: st.DataObject, size: int) -> None:
    """One of the old entries is another one in the new tree: no proof from that tree joins the two roots."""
    old = data.draw(st.integers(1, size))
    changed = data_of(size)
    changed[data.draw(st.integers(0, old - 1))] = b"another"
    row = Frontier().extend([leaf_hash(entry) for entry in changed])
    proof = consistency_proof(old, size, row.__getitem__)
    assert not verify_consistency(old, size, mth(data_of(old)), mth(changed), proof)


@given(st.data(), st.integers(2, MAX_SIZE))
def test_a_consistency_proof_with_a_changed_hash_is_refused(data: st.DataObject, size: int) -> None:
    """One bit anywhere, one hash too few or too many."""
    old = data.draw(st.integers(1, size - 1))
    proof = consistency_proof(old, size, row_of(size).__getitem__)
    roots = mth(data_of(old)), mth(data_of(size))
    number, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[number]) ^ 1 << bit).to_bytes(32)
    assert not verify_consistency(old, size, *roots, [*proof[:number], flipped, *proof[number + 1 :]])
    assert not verify_consistency(old, size, *roots, [*proof[:number], *proof[number + 1 :]])
    assert not verify_consistency(old, size, *roots, [*proof, proof[number]])


@given(sizes)
def test_tiles_hold_the_hashes_that_the_specification_says(size: int) -> None:
    """Hash i of tile n at level l is MTH of its 256**l entries, and all tiles lead up to the root."""
    row, entries = row_of(size), data_of(size)
    for level in range(top_level(size) + 1):
        for tile in tiles_of(level, size):
            hashes = tile.read(lambda number, count: b"".join(row[number : number + count]))
            spans = [
                (node * 256**level, (node + 1) * 256**level)
                for node in range(tile.first, tile.first + tile.width)
            ]
            assert hashes == [mth(entries[start:end]) for start, end in spans]
            assert tile.leads_up(hashes, row.__getitem__)
