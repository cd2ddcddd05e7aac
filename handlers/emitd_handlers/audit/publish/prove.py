"""Proofs of single audit events: made from a log's files, and checked with nothing but the log's public key.

Proofs and exports start from the newest checkpoint that a key of the log signed. A proof file has the event's exact
line in it, as the specification's extra data; it is believed only because its hash leads to the root that was signed.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path

import msgspec

from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.read.scan import Scan, newest_event, scan_block
from emitd_handlers.audit.read.trail import AuditTrail, CommittedTrail
from emitd_handlers.audit.source import AuditEntry, AuditFilter
from emitd_handlers.errors import AuditNotFound, HandlerUnavailable
from emitd_handlers.room import Room
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import inclusion_proof, leaf_hash
from emitd_handlers.tlog.note import Note, NoteInvalid, Verifier
from emitd_handlers.tlog.proof_file import ProofInvalid, TlogProof

#: How many checkpoints are tried: some hours of a busy log.
LOOK_BACK = 10_000
SUFFIX = ".tlog-proof"
MAX_NAME_LETTERS = 100
#: How much of a digest is added to a name that would not be unique.
DIGEST_LETTERS = 12
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|^[.-]")


class SignedTree(msgspec.Struct, frozen=True):
    """A checkpoint whose signature is good, and whose root is that of the log's stored hashes."""

    note: bytes
    checkpoint: Checkpoint
    #: The keys that signed it, and all listed keys of the log, the newest last.
    signed_by: Sequence[Verifier]
    verifiers: Sequence[Verifier]


def newest_signed(trail: AuditTrail) -> SignedTree:
    """Return the newest checkpoint that one of the log's listed keys signed.

    Raises HandlerUnavailable if there is none, or the stored hashes end before it, AuditDamaged if they do not fit it,
    OSError.
    """
    path = trail.paths.lines
    verifiers = trail.verifiers()
    if not verifiers:
        raise HandlerUnavailable(f"audit log '{path}' has no public key, in '{trail.paths.vkey}'")
    for _, note in islice(trail.checkpoints_backward(), LOOK_BACK):
        try:
            parsed = Note.parse(note)
            signed_by = parsed.verify(verifiers)
            signed = SignedTree(note, Checkpoint.parse(parsed.text), signed_by, verifiers)
        except NoteInvalid:  # it is being written, or else `emitd audit verify` says more
            continue
        try:
            trail.check_root(signed.checkpoint)
        except EOFError as error:
            raise trail.incomplete(str(error)) from None
        return signed
    if trail.checkpoint_bytes:
        raise HandlerUnavailable(f"no listed key of the audit log '{path}' has signed its last checkpoints")
    raise HandlerUnavailable(f"audit log '{path}' is not signed yet: it has no checkpoint")


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


def prove_event(path: Path, event_id: str, source: str | None = None) -> ProvedEvent:
    """Return the proof that an event is in a log; of several with this id, of the newest.

    Raises AuditQueryInvalid if no source is given and several have such an event, AuditNotFound if there is none,
    HandlerUnavailable if no checkpoint covers it yet, AuditDamaged if the log's files are not what was signed, OSError.
    """
    with AuditTrail(path) as trail:
        signed = newest_signed(trail)
        entry = _find(path, trail.find_end(), event_id, source)
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
        raise trail.damaged(f"was changed: line {entry.leaf_index} is not what was signed") from None


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


def _find(path: Path, end: Entry, event_id: str, source: str | None) -> AuditEntry:
    scan = Scan(AuditFilter(event_id=event_id, source=source), stop=0, backward=True)
    position, found = end, None
    with CommittedTrail(path, end) as trail:
        while position.offset > 0 and (found is None or source is None):
            step = scan_block(trail, scan, position, Room(1, 1))
            position, found = step.position, newest_event(found, step.entries)
    if found is None:
        of = "" if source is None else f" of the source '{source}'"
        raise AuditNotFound(f"there is no event '{event_id}'{of} in the audit log '{path}'")
    return found
