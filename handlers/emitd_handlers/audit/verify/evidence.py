"""Compares a log with evidence kept elsewhere: an older checkpoint, a proof with one, a receipt.

An older checkpoint finds what nothing in the log can show: that its end was cut, or that all of it was rebuilt and
signed again. A receipt shows this for one line; it is not signed, so it is a reminder and no evidence. Files are read
in whatever form they were kept (`tlog.kept_file`).
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.findings import Findings, Kind
from emitd_handlers.audit.verify.hashes import LineRow
from emitd_handlers.audit.verify.identity import Identity
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.kept_file import kept_text, notes_in
from emitd_handlers.tlog.merkle import HASH_BYTES, root_hash, stored_index
from emitd_handlers.tlog.note import Note, NoteInvalid, UnknownKey


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


class EvidenceInvalid(ValueError):
    """A file proves nothing of the log, for or against it: it is something else, damaged, or not signed."""


class _Contradiction(Exception):
    """The log is not as the evidence says: the arguments are those of a finding."""


def read_evidence(data: bytes) -> HeldReceipt | Sequence[bytes]:
    """Read a receipt (JSON as `emitd emit --json` prints it), or all checkpoints in a file, such as a proof.

    Raises EvidenceInvalid.
    """
    text = kept_text(data)
    if text.startswith("{"):
        return _read_receipt(text)
    if notes := notes_in(text):
        return notes
    raise EvidenceInvalid(
        "it has neither a checkpoint nor a receipt nor a proof in it" if text.strip() else "it is empty"
    )


def check_evidence(
    held: HeldElsewhere, trail: AuditTrail, row: LineRow, identity: Identity, findings: Findings
) -> str:
    """Hold a file against a log, add what that finds, and return what it confirms; empty: nothing.

    Only a checkpoint that a known key of the log signed can contradict it. Raises EvidenceInvalid if the file has none,
    and is no receipt that fits.
    """
    evidence = read_evidence(held.data)
    if isinstance(evidence, HeldReceipt):
        return _check_receipt(evidence, trail, row, identity)
    sizes: list[int] = []
    untrusted: list[EvidenceInvalid] = []
    for data in evidence:
        try:
            sizes.append(_check_checkpoint(data, row, identity))
        except EvidenceInvalid as error:
            untrusted.append(error)
        except _Contradiction as found:
            kind, message, *index = found.args
            findings.add(kind, trail.paths.lines, f"by '{held.name}': {message}", *index)
            return ""
    if not sizes:
        raise untrusted[0]
    which = "this checkpoint" if len(sizes) == 1 else f"the last of these {len(sizes)} checkpoints"
    confirmed = f"the log begins with the {sizes[-1]} lines that {which} was signed over"
    return confirmed + (
        f"; of {len(untrusted)} more there, one says nothing: {untrusted[0]}" if untrusted else ""
    )


def _check_checkpoint(data: bytes, row: LineRow, identity: Identity) -> int:
    """Return the size of a checkpoint that a known key of this log signed; raise _Contradiction if the log lacks it.

    Raises EvidenceInvalid for another one.
    """
    try:
        note = Note.parse(data)
        checkpoint = Checkpoint.parse(note.text)
        _check_log_id(checkpoint.origin, identity)
        note.verify([*identity.verifiers, *identity.replaced])
    except UnknownKey as error:
        raise EvidenceInvalid(
            f"{error}: give that key with --key. If it was a key of this log, the list beside the log was replaced"
        ) from None
    except NoteInvalid as error:
        raise EvidenceInvalid(f"it is forged or damaged: {error}") from None
    size = checkpoint.size
    if size > row.leaf_count:
        lacks = f"the checkpoint was signed over {size} lines, the log has {row.leaf_count}"
        message = f"the log has been cut, or is a copy from before: {lacks}"
        raise _Contradiction(Kind.LOG_CUT, message, row.leaf_count)
    if root_hash(size, row.read_hash) != checkpoint.root:
        message = (
            f"the first {size} lines are not those that were signed: the log was changed before line {size}"
        )
        raise _Contradiction(Kind.LOG_REBUILT, f"{message}, or rebuilt")
    return size


def _check_receipt(receipt: HeldReceipt, trail: AuditTrail, row: LineRow, identity: Identity) -> str:
    index = receipt.leaf_index
    _check_log_id(receipt.log_id, identity)
    differs = f"line {index} is not the one that it was given for, that of event '{receipt.event_id}'"
    if index >= row.leaf_count:
        differs = f"it is for line {index}, and the log has {row.leaf_count} lines"
    elif row.read_hash(stored_index(0, index)) == receipt.leaf_hash:
        differs = ""
    if differs:
        raise EvidenceInvalid(
            f"{differs}. A receipt is not signed: a checkpoint or a proof of that time shows if the log was changed"
        )
    with suppress(ValueError):
        if decode_line(trail.line(index)).event_id == receipt.event_id:
            return f"line {index} is the one that this receipt was given for"
    raise EvidenceInvalid(f"its hash is that of line {index}, but its event id is another: it was changed")


def _check_log_id(log_id: str, identity: Identity) -> None:
    if identity.log_id not in ("", log_id):
        raise EvidenceInvalid(
            f"it is of the log '{log_id}', and this is '{identity.log_id}'. If this must be that log, verify it with "
            "the key of that: --key"
        )


def _read_receipt(data: str) -> HeldReceipt:
    try:
        members: Any = msgspec.json.decode(data)
        # The receipt of a call has that of its audit event inside.
        for name in ("receipt", "audit"):
            members = members.get(name, members)
        # Not strict, because JSON may have a number of 64 bits as a text.
        return msgspec.convert(members, HeldReceipt, strict=False)
    except (ValueError, AttributeError, RecursionError) as error:
        raise EvidenceInvalid(f"no audit receipt as `emitd emit --json` prints it: {error}") from None
