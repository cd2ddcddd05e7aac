"""The newest checkpoint of a log that a key of its own signed: what exports and proofs are made from."""

from collections.abc import Sequence
from itertools import islice

import msgspec

from emitd_handlers.audit.read.files import AuditTrail
from emitd_handlers.audit.write.key import read_vkeys
from emitd_handlers.errors import AuditDamaged, HandlerUnavailable
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import root_hash
from emitd_handlers.tlog.note import Note, NoteInvalid, Verifier

__all__ = ["SignedTree", "newest_signed"]

#: So many checkpoints are looked at before it is given up: some hours of a busy log's.
LOOK_BACK = 10_000


class SignedTree(msgspec.Struct, frozen=True):
    """A checkpoint whose signature is good, and whose root is that of the log's stored hashes."""

    note: bytes
    checkpoint: Checkpoint
    #: The keys that signed it, and all keys beside the log, the newest last.
    signed_by: Sequence[Verifier]
    verifiers: Sequence[Verifier]


def newest_signed(trail: AuditTrail) -> SignedTree:
    """Return the newest checkpoint that one of the keys beside the log signed.

    Raises HandlerUnavailable where there is none, AuditDamaged where the stored hashes are others, OSError.
    """
    path = trail.paths.lines
    try:
        verifiers = read_vkeys(trail.paths.vkey)
    except NoteInvalid as error:
        raise AuditDamaged(f"'{trail.paths.vkey}' is damaged: {error}") from None
    if not verifiers:
        raise HandlerUnavailable(f"audit log '{path}' has no public key beside it, in '{trail.paths.vkey}'")
    for _, note in islice(trail.checkpoints_backward(), LOOK_BACK):
        try:
            parsed = Note.parse(note)
            signed_by = parsed.verify(verifiers)
            signed = SignedTree(note, Checkpoint.parse(parsed.text), signed_by, verifiers)
        except NoteInvalid:  # it is being written, or else `emitd audit verify` says more
            continue
        _check_root(trail, signed.checkpoint)
        return signed
    if trail.checkpoint_bytes:
        raise HandlerUnavailable(f"no key beside the audit log '{path}' has signed its last checkpoints")
    raise HandlerUnavailable(f"audit log '{path}' is not signed yet: it has no checkpoint")


def _check_root(trail: AuditTrail, checkpoint: Checkpoint) -> None:
    path = trail.paths.lines
    try:
        root = root_hash(checkpoint.size, trail.read_hash)
    except EOFError as error:
        raise AuditDamaged(f"audit log '{path}' was cut: {error}; `emitd audit verify` says more") from None
    if root != checkpoint.root:
        raise AuditDamaged(
            f"the stored hashes of the audit log '{path}' do not lead to the root of its newest checkpoint; "
            "`emitd audit verify` says more"
        )
