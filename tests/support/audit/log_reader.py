"""What a reader of an RFC 6962 log does with its notes and its proofs of consistency."""

from collections.abc import Iterable, Sequence

from emitd_handlers.tlog.merkle import EMPTY_ROOT, node_hash
from emitd_handlers.tlog.note import Note, Verifier

__all__ = ["open_note", "verify_consistency"]


def open_note(data: bytes, verifiers: Iterable[Verifier]) -> str:
    """Return the text of a note that one or more of `verifiers` signed. Raises NoteInvalid, UnknownKey."""
    note = Note.parse(data)
    note.verify(verifiers)
    return note.text


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Return whether a consistency proof shows that the old tree is a beginning of the new one (section 2.1.4.2)."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    # Where the old tree is one perfect subtree, its root is the start, and is not in the proof.
    hashes = iter(proof if node else [old_root, *proof])
    old = new = next(hashes, b"")
    for sibling in hashes:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root
