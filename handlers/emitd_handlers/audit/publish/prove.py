"""Proofs of single audit events: made from a log's files, and checked with nothing but the log's public key.

A proof file has the event's exact line in it, as what the specification calls extra data. It is believed only because
its hash leads to the root that was signed.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec

from emitd_handlers.audit.format.line_index import Entry
from emitd_handlers.audit.publish.signed import newest_signed
from emitd_handlers.audit.read.files import AuditTrail
from emitd_handlers.audit.read.scan import Room, Scan, scan_block
from emitd_handlers.audit.source import AuditEntry, AuditFilter
from emitd_handlers.errors import AuditDamaged, AuditNotFound, HandlerUnavailable
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import inclusion_proof, leaf_hash
from emitd_handlers.tlog.note import Verifier
from emitd_handlers.tlog.proof_file import ProofInvalid, TlogProof

__all__ = ["SUFFIX", "ProvedEvent", "check_proof", "proof_name", "prove_event"]

SUFFIX = ".tlog-proof"
MAX_NAME_LETTERS = 100
#: What is left of a digest where a name alone would not tell two events apart.
DIGEST_LETTERS = 12
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|^[.-]")


class ProvedEvent(msgspec.Struct, frozen=True):
    """An event that a log has: its proof, and what that proves."""

    proof: TlogProof
    line: bytes
    checkpoint: Checkpoint
    signed_by: Sequence[Verifier]

    @property
    def leaf_hash(self) -> bytes:
        """The hash of the line, as it is in the tree."""
        return leaf_hash(self.line)


def prove_event(path: Path, event_id: str) -> ProvedEvent:
    """Return the proof that an event is in a log; of several with this id, of the newest.

    Raises AuditNotFound if there is none, HandlerUnavailable if no checkpoint covers it yet, AuditDamaged if the log's
    files are not what was signed, OSError.
    """
    with AuditTrail(path) as trail:
        signed = newest_signed(trail)
        entry = _find(path, trail.find_end(), event_id)
        size = signed.checkpoint.size
        if entry.leaf_index >= size:
            raise HandlerUnavailable(
                f"event '{event_id}' is line {entry.leaf_index} of the log, and the newest checkpoint covers only "
                f"{size}: try again in a second"
            )
        hashes = inclusion_proof(entry.leaf_index, size, trail.read_hash)
    proof = TlogProof(entry.leaf_index, hashes, signed.note, entry.line)
    try:
        return check_proof(proof, signed.verifiers)
    except ProofInvalid:
        raise AuditDamaged(
            f"audit log '{path}': line {entry.leaf_index} is not what was signed; `emitd audit verify` says more"
        ) from None


def check_proof(proof: TlogProof, verifiers: Iterable[Verifier]) -> ProvedEvent:
    """Return what a proof proves. Raises ProofInvalid, NoteInvalid, and UnknownKey if none of `verifiers` signed it."""
    if not proof.extra:
        raise ProofInvalid("it has no line of the log in it, as `emitd audit prove` writes it")
    checkpoint, signed_by = proof.verify(leaf_hash(proof.extra), verifiers)
    return ProvedEvent(proof, proof.extra, checkpoint, signed_by)


def proof_name(event_id: str) -> str:
    """Return the name of an event's proof file: the id, as far as a file's name may be so, and another for each."""
    name = _UNSAFE.sub("_", event_id)[:MAX_NAME_LETTERS]
    if name != event_id:
        name = f"{name}-{sha256(event_id.encode(errors='replace')).hexdigest()[:DIGEST_LETTERS]}"
    return name + SUFFIX


def _find(path: Path, end: Entry, event_id: str) -> AuditEntry:
    scan = Scan(path, end, AuditFilter(event_id=event_id), stop=0, backward=True)
    position = end
    while position.offset > 0:
        step = scan_block(scan, position, Room(1, 1))
        if step.entries:
            return step.entries[0]
        position = step.position
    raise AuditNotFound(f"there is no event '{event_id}' in the audit log '{path}'")
