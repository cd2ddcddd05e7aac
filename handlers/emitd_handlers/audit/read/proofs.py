"""Proofs from a log's files, checked before they are given away. Blocking."""

from collections.abc import Sequence
from pathlib import Path

from emitd_handlers.audit.format.line import MAX_LINE_BYTES
from emitd_handlers.audit.format.line_index import Entry
from emitd_handlers.audit.read.committed_files import CommittedTrail
from emitd_handlers.audit.read.files import AuditTrail
from emitd_handlers.errors import AuditDamaged, HandlerUnavailable
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_hash,
    root_of_inclusion,
)

__all__ = ["prove_consistency", "prove_inclusion", "read_vkeys"]


def prove_inclusion(
    path: Path, end: Entry, index: int, size: int, newest: Checkpoint
) -> tuple[bytes, Sequence[bytes]]:
    """Return a line, and the proof that it is in the tree of `size` leaves.

    Raises AuditDamaged if it is not, OSError, and HandlerUnavailable if the files lack what is needed.
    """
    with CommittedTrail(path, end) as trail:
        line = _line(trail, index)
        try:
            _check_root(trail, newest)
            hashes = inclusion_proof(index, size, trail.read_hash)
            root = root_hash(size, trail.read_hash)
        except EOFError as error:
            raise _lacking(path, error) from error
    if root_of_inclusion(index, size, leaf_hash(line), hashes) != root:
        raise _damaged(path, f"line {index} is")
    return line, hashes


def prove_consistency(
    path: Path, end: Entry, old_size: int, new_size: int, newest: Checkpoint
) -> Sequence[bytes]:
    """Return the proof that the tree of `old_size` leaves is a beginning of that of `new_size`. Raises likewise."""
    with CommittedTrail(path, end) as trail:
        try:
            _check_root(trail, newest)
            return consistency_proof(old_size, new_size, trail.read_hash)
        except EOFError as error:
            raise _lacking(path, error) from error


def read_vkeys(path: Path) -> Sequence[str]:
    """Return the vkeys in the file beside a log. Raises OSError."""
    with AuditTrail(path) as trail:
        return trail.vkeys()


def _line(trail: CommittedTrail, index: int) -> bytes:
    start = trail.position_of(index)
    block = trail.block_after(start, trail.end.offset, MAX_LINE_BYTES + 1)
    return block[: block.find(b"\n")]


def _check_root(trail: CommittedTrail, newest: Checkpoint) -> None:
    if root_hash(newest.size, trail.read_hash) != newest.root:
        raise _damaged(trail.paths.lines, "its stored hashes are")


def _lacking(path: Path, error: EOFError) -> HandlerUnavailable:
    return HandlerUnavailable(f"audit log '{path}' cannot prove anything now: {error}")


def _damaged(path: Path, what: str) -> AuditDamaged:
    return AuditDamaged(
        f"audit log '{path}' was changed: {what} not what was signed; `emitd audit verify` says more"
    )
