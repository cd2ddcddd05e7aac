"""The Merkle tree of RFC 6962 over a growing list of leaves: hashes, proofs, and their check.

A tree's hashes are stored in one row, in the order in which they become known: each leaf's hash, followed by those
of the perfect subtrees that the leaf completes, from the bottom up. (Go's `sumdb/tlog` stores them so.) The row only
grows, and any root or proof is a few reads in it. Levels count from 0, the leaves; node n of level L covers
the leaves from n * 2**L to (n + 1) * 2**L.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import TypeAlias

HASH_BYTES = 32
#: The root of a tree without leaves.
EMPTY_ROOT = sha256(b"").digest()

#: Returns the hash at a stored index.
ReadHash: TypeAlias = Callable[[int], bytes]


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf (RFC 6962, section 2.1): 32 bytes."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash over two hashes that stand side by side (RFC 6962, section 2.1)."""
    return sha256(b"\1" + left + right).digest()


def stored_count(size: int) -> int:
    """Return how many hashes are stored for a tree of `size` leaves."""
    # One for each leaf, and one for each pair at every level above.
    return 2 * size - size.bit_count()


def stored_index(level: int, node: int) -> int:
    """Return where in the row the hash of a node stands, from 0."""
    # It is completed by the last leaf below it, and stands `level` places after that leaf.
    return stored_count(((node + 1) << level) - 1) + level


def peaks_of(size: int, first_leaf: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the perfect subtrees that a tree of `size` leaves is made of, from the left: level and node.

    `first_leaf` is where the tree begins within a larger one, of which it must be a subtree.
    """
    while size:
        level = size.bit_length() - 1
        yield level, first_leaf >> level
        first_leaf += 1 << level
        size -= 1 << level


def root_hash(size: int, read: ReadHash) -> bytes:
    """Return the root of the tree over the first `size` leaves."""
    return _subtree_hash(0, size, read) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: ReadHash) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree of `size` leaves (RFC 6962, section 2.1.1).

    The hashes go from the leaf's sibling up. Raises ValueError unless `index` < `size`.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    proof: list[bytes] = []
    first, end = 0, size
    while end - first > 1:  # from the root down
        middle = first + _left_leaves(end - first)
        if index < middle:
            proof.append(_subtree_hash(middle, end, read))
            end = middle
        else:
            proof.append(_subtree_hash(first, middle, read))
            first = middle
    proof.reverse()
    return proof


def consistency_proof(old_size: int, new_size: int, read: ReadHash) -> list[bytes]:
    """Return the proof that the tree of `old_size` leaves is a beginning of that of `new_size` (section 2.1.2).

    Empty where the two are the same, or the old one has no leaves. Raises ValueError unless `old_size` <= `new_size`.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of {old_size} leaves is no beginning of one of {new_size}")
    if old_size in (0, new_size):
        return []
    proof: list[bytes] = []
    first, end = 0, new_size
    while old_size != end:
        middle = first + _left_leaves(end - first)
        if old_size <= middle:
            proof.append(_subtree_hash(middle, end, read))
            end = middle
        else:
            proof.append(_subtree_hash(first, middle, read))
            first = middle
    if first > 0:  # else the old tree's root, which whoever checks has, would come first
        proof.append(_subtree_hash(first, end, read))
    proof.reverse()
    return proof


def root_of_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """Return the root that an inclusion proof leads to from a leaf's hash (RFC 9162, section 2.1.3.2).

    The proof is good if that is the root of the tree. Raises ValueError where it has not as many hashes as it must.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    node, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ValueError("the proof has too many hashes")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while node and not node & 1:  # no sibling at these levels
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ValueError("the proof has too few hashes")
    return root


class Frontier:
    """The right edge of a growing tree: all that is needed to append leaves. Some two dozen hashes at most."""

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, read: ReadHash | None = None) -> None:
        """Begin with a tree of `size` leaves whose hashes `read` returns."""
        self.size = size
        #: The hashes of `peaks_of(size)`.
        self._peaks: list[bytes] = []
        if size:
            assert read is not None
            self._peaks = [read(stored_index(*peak)) for peak in peaks_of(size)]

    def extend(self, leaves: Sequence[bytes]) -> list[bytes]:
        """Append leaves, given by their hashes; return all hashes to store for them, in order."""
        # Hot path: one hash for each leaf.
        stored: list[bytes] = []
        store, peaks, hashed = stored.append, self._peaks, sha256
        node = self.size
        for leaf in leaves:
            store(leaf)
            rest = node
            while rest & 1:
                leaf = hashed(b"\1" + peaks.pop() + leaf).digest()
                store(leaf)
                rest >>= 1
            peaks.append(leaf)
            node += 1
        self.size = node
        return stored

    def root(self) -> bytes:
        """Return the root of the tree as it stands."""
        return _fold(self._peaks) if self._peaks else EMPTY_ROOT

    def copy(self) -> "Frontier":
        """Return another one at the same place."""
        other = Frontier()
        other.size, other._peaks = self.size, list(self._peaks)
        return other


def _left_leaves(size: int) -> int:
    """How many leaves the left half of a tree has: the largest power of two below its size."""
    return 1 << (size - 1).bit_length() - 1


def _subtree_hash(first: int, end: int, read: ReadHash) -> bytes:
    return _fold([read(stored_index(*peak)) for peak in peaks_of(end - first, first)])


def _fold(peaks: Sequence[bytes]) -> bytes:
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root
