"""The tree: roots, the stored row of hashes, and what the checks of proofs refuse.

That proofs are those of RFC 6962 at every size is in `tests/property/test_merkle.py`.
"""

from hashlib import sha256

import pytest

from emitd_handlers.tlog.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    peaks_of,
    root_hash,
    root_of_inclusion,
    stored_count,
    stored_index,
)
from support.audit.log_reader import verify_consistency

#: The test vectors that the authors of RFC 6962 published with their reference implementation.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def stored(count: int) -> list[bytes]:
    """The row of hashes of a tree of so many made-up leaves."""
    return Frontier().extend([leaf_hash(b"%d" % number) for number in range(count)])


def test_the_roots_are_those_of_the_published_vectors() -> None:
    """Of each size from one leaf to eight, by the growing edge and from the stored row alike."""
    for size in range(1, len(LEAVES) + 1):
        frontier = Frontier()
        row = frontier.extend([leaf_hash(leaf) for leaf in LEAVES[:size]])
        assert frontier.root().hex() == root_hash(size, row.__getitem__).hex() == ROOTS[size - 1]


def test_a_tree_without_leaves_has_the_hash_of_nothing() -> None:
    """Its root is SHA-256 of the empty string, and nothing is read for it."""
    assert EMPTY_ROOT == Frontier().root() == root_hash(0, [].__getitem__) == sha256(b"").digest()


def test_leaves_and_nodes_are_told_apart() -> None:
    """A leaf with the bytes of two hashes has another hash than their node: no line can pass for a part of the tree."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert node_hash(left, right) != leaf_hash(left + right)
    assert len(node_hash(left, right)) == HASH_BYTES


def test_the_row_has_each_leaf_followed_by_what_it_completes() -> None:
    """Leaf 3 of four is followed by the nodes above it, and `stored_index` names all places."""
    row = stored(4)
    assert len(row) == stored_count(4) == 7
    assert row[stored_index(0, 3)] == leaf_hash(b"3")
    assert row[stored_index(1, 1)] == node_hash(row[stored_index(0, 2)], row[stored_index(0, 3)])
    assert row[stored_index(2, 0)] == row[-1] == node_hash(row[stored_index(1, 0)], row[stored_index(1, 1)])
    assert [stored_index(0, leaf) for leaf in range(5)] == [0, 1, 3, 4, 7]


def test_a_tree_goes_on_from_its_stored_row() -> None:
    """Wherever it is stopped, the hashes that come next are those of a tree that was never stopped."""
    whole = stored(37)
    for size in range(38):
        rest = Frontier(size, whole.__getitem__)
        assert (
            rest.extend([leaf_hash(b"%d" % number) for number in range(size, 37)])
            == whole[stored_count(size) :]
        )
        assert rest.root() == root_hash(37, whole.__getitem__)


def test_a_copy_grows_by_itself() -> None:
    """What one is extended by does not come into the other."""
    one = Frontier()
    one.extend([leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")])
    other = one.copy()
    other.extend([leaf_hash(b"d")])
    assert (one.size, other.size) == (3, 4)
    one.extend([leaf_hash(b"d")])
    assert one.root() == other.root()


def test_peaks_stand_side_by_side() -> None:
    """Thirteen leaves are perfect subtrees of eight, four and one; within a larger tree they begin where it says."""
    assert list(peaks_of(13)) == [(3, 0), (2, 2), (0, 12)]
    assert list(peaks_of(3, 512)) == [(1, 256), (0, 514)]
    assert list(peaks_of(0)) == []


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    """Neither made nor checked: both say that there is no such leaf."""
    with pytest.raises(ValueError, match=f"leaf {index} is not in a tree of {size} leaves"):
        inclusion_proof(index, size, stored(3).__getitem__)
    with pytest.raises(ValueError, match=f"leaf {index} is not in a tree of {size} leaves"):
        root_of_inclusion(index, size, leaf_hash(b""), [])


@pytest.mark.parametrize(("old", "new"), [(4, 3), (-1, 3)])
def test_no_proof_that_a_tree_is_the_beginning_of_a_smaller_one(old: int, new: int) -> None:
    """It is not made, and none passes for it."""
    with pytest.raises(ValueError, match=f"a tree of {old} leaves is no beginning of one of {new}"):
        consistency_proof(old, new, stored(4).__getitem__)
    assert not verify_consistency(old, new, EMPTY_ROOT, EMPTY_ROOT, [])


def test_an_inclusion_proof_of_another_length_is_refused() -> None:
    """One hash less or more than the leaf's path has: an error, not another root."""
    row = stored(11)
    proof = inclusion_proof(4, 11, row.__getitem__)
    with pytest.raises(ValueError, match="too few hashes"):
        root_of_inclusion(4, 11, leaf_hash(b"4"), proof[:-1])
    with pytest.raises(ValueError, match="too many hashes"):
        root_of_inclusion(4, 11, leaf_hash(b"4"), [*proof, proof[0]])


def test_a_tree_is_the_beginning_of_itself_and_the_empty_one_of_all() -> None:
    """With no hashes in the proof; with another root or with hashes, it is refused."""
    root = root_hash(5, stored(5).__getitem__)
    assert verify_consistency(5, 5, root, root, [])
    assert verify_consistency(0, 5, EMPTY_ROOT, root, [])
    assert not verify_consistency(5, 5, root, EMPTY_ROOT, [])
    assert not verify_consistency(5, 5, root, root, [root])
    assert not verify_consistency(0, 5, root, root, [])
    assert not verify_consistency(0, 5, EMPTY_ROOT, root, [root])
    assert not verify_consistency(1, 5, root, root, [])
