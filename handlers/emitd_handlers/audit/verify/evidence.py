"""Compares a log with evidence kept elsewhere: an older checkpoint, a proof with one, a receipt.

An older checkpoint finds what nothing in the log can show: that its end was cut, or that all of it was rebuilt and
signed again. A receipt finds this for one line; it is not signed, so it is a reminder rather than evidence.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from emitd_handlers.audit.format.files import split_notes
from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.findings import Findings, Kind
from emitd_handlers.audit.verify.hashes import LineRow
from emitd_handlers.audit.verify.identity import Identity
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import HASH_BYTES, root_hash, stored_index
from emitd_handlers.tlog.note import Note, NoteInvalid, UnknownKey
from emitd_handlers.tlog.proof_file import HEADER


class HeldElsewhere(msgspec.Struct, frozen=True):
    """A file that was kept elsewhere."""

    #: What to call it: its path.
    name: str
    data: bytes


class HeldReceipt(msgspec.Struct, frozen=True):
    """The receipt that a sender got for an audit event."""

    log_id: str
    event_id: str
    leaf_hash: Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
    leaf_index: Annotated[int, msgspec.Meta(ge=0)] = 0


class HeldCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint with its signatures, which nobody has verified yet."""

    note: Note
    checkpoint: Checkpoint


class _Contradiction(Exception):
    """The log is not as the evidence says: the arguments are those of a finding."""


class EvidenceInvalid(ValueError):
    """A file is none of the three, or damaged: nothing can be said by it."""


def read_evidence(data: bytes) -> HeldReceipt | Sequence[HeldCheckpoint]:
    """Read a receipt (JSON as `emitd emit --json` prints it), a checkpoint, a copy of the file of them, or a proof.

    Raises EvidenceInvalid.
    """
    if data.lstrip()[:1] == b"{":
        return _read_receipt(data)
    if data.startswith(HEADER.encode()):  # a proof has its checkpoint behind the first blank line
        data = data.partition(b"\n\n")[2]
    notes = [note for _, note in split_notes(data)]
    if len(notes) > 1 and not data.endswith(b"\n\n"):
        del notes[-1]  # was being written when the file was copied
    if not notes:
        raise EvidenceInvalid("it is empty")
    try:
        parsed = [Note.parse(note) for note in notes]
        return [HeldCheckpoint(note, Checkpoint.parse(note.text)) for note in parsed]
    except ValueError as error:
        raise EvidenceInvalid(f"it is neither a checkpoint nor a receipt nor a proof: {error}") from None


def check_evidence(
    held: HeldElsewhere, trail: AuditTrail, row: LineRow, identity: Identity, findings: Findings
) -> str:
    """Hold a file against a log, add what that finds, and return what it confirms; empty: nothing.

    Raises EvidenceInvalid where it says nothing of the log.
    """
    evidence = read_evidence(held.data)
    try:
        if isinstance(evidence, HeldReceipt):
            return _check_receipt(evidence, trail, row, identity)
        for held_checkpoint in evidence:
            _check_checkpoint(held_checkpoint, row, identity)
    except _Contradiction as found:
        kind, message, *index = found.args
        findings.add(kind, trail.paths.lines, f"by '{held.name}': {message}", *index)
        return ""
    size = evidence[-1].checkpoint.size
    which = "this checkpoint" if len(evidence) == 1 else f"the last of these {len(evidence)} checkpoints"
    return f"the log begins with the {size} lines that {which} was signed over"


def _check_checkpoint(held: HeldCheckpoint, row: LineRow, identity: Identity) -> None:
    """Raise _Contradiction if the log lacks what a checkpoint was signed over."""
    _check_log_id(held.checkpoint.origin, identity)
    try:
        held.note.verify([*identity.verifiers, *identity.replaced])
    except UnknownKey as error:
        raise EvidenceInvalid(
            f"{error}: give that key with --key. If it was a key of this log, the list beside the log was replaced"
        ) from None
    except NoteInvalid as error:
        raise EvidenceInvalid(f"it is forged or damaged: {error}") from None
    size = held.checkpoint.size
    if size > row.leaf_count:
        message = (
            f"the log has been cut: the checkpoint was signed over {size} lines, the log has {row.leaf_count}"
        )
        raise _Contradiction(Kind.LOG_CUT, message, row.leaf_count)
    if root_hash(size, row.read_hash) != held.checkpoint.root:
        message = (
            f"the first {size} lines are not those that were signed: the log was changed before line {size}"
        )
        raise _Contradiction(Kind.LOG_REBUILT, f"{message}, or rebuilt")


def _check_receipt(receipt: HeldReceipt, trail: AuditTrail, row: LineRow, identity: Identity) -> str:
    index = receipt.leaf_index
    _check_log_id(receipt.log_id, identity)
    if index >= row.leaf_count:
        message = f"the log has been cut: the receipt is for line {index}, the log has {row.leaf_count} lines"
        raise _Contradiction(Kind.LOG_CUT, message, index)
    if row.read_hash(stored_index(0, index)) != receipt.leaf_hash:
        message = (
            f"line {index} is not the one that the receipt was given for, that of event '{receipt.event_id}'"
        )
        raise _Contradiction(Kind.RECEIPT_MISMATCH, message, index)
    with suppress(ValueError):
        if decode_line(trail.line(index)).event_id == receipt.event_id:
            return f"line {index} is the one that this receipt was given for"
    raise EvidenceInvalid(f"its hash is that of line {index}, but its event id is another: it was changed")


def _check_log_id(log_id: str, identity: Identity) -> None:
    if identity.log_id not in ("", log_id):
        message = (
            f"it is of the log '{log_id}', and this is '{identity.log_id}': another log was put in its place, or it is "
            "about another"
        )
        raise _Contradiction(Kind.LOG_ID_WRONG, message)


def _read_receipt(data: bytes) -> HeldReceipt:
    try:
        members: Any = msgspec.json.decode(data)
        # The receipt of a call has that of its audit event inside.
        for name in ("receipt", "audit"):
            members = members.get(name, members)
        # Not strict, because JSON may have a number of 64 bits as a text.
        return msgspec.convert(members, HeldReceipt, strict=False)
    except (ValueError, AttributeError, RecursionError) as error:
        raise EvidenceInvalid(f"no audit receipt as `emitd emit --json` prints it: {error}") from None
