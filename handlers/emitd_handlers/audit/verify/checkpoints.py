"""The checkpoints of a log: their form, their signatures, and whether the lines are those that they were signed over.

Each is compared with the root over the log's own first lines. If the roots are the same for all of them, each
checkpoint continues the one before it: no consistency proof could say more.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeAlias

import msgspec

from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.findings import Finding, Findings, Kind
from emitd_handlers.audit.verify.hashes import LineRow
from emitd_handlers.audit.verify.workers import in_order
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import ReadHash, root_hash
from emitd_handlers.tlog.note import SIGNATURE_LENGTH, Note, NoteInvalid, UnknownKey, Verifier

#: How many are given to a worker at once: some 40 ms of work.
NOTES_AT_ONCE = 256
#: How many checkpoints that do not fit the lines are kept; the others are counted.
MAX_MISFITS = 1000
#: What can follow the origin in a checkpoint that was cut off: part of the size, of the root, of the signature line.
_TORN = re.compile(
    rb"[0-9]*|[0-9]+\n[A-Za-z0-9+/=]{0,44}|[0-9]+\n[A-Za-z0-9+/]{43}=\n(?:\n(?P<signature>.*))?"
)

_Numbered: TypeAlias = tuple[int, int, bytes]


class CheckedNote(msgspec.Struct, frozen=True):
    """One checkpoint, checked."""

    #: Its place among the checkpoints, from 0, and in their file.
    number: int
    offset: int
    #: None if it is not to be trusted: `finding` says why.
    checkpoint: Checkpoint | None = None
    #: Which keys signed it, as `NAME+ID`, and whether all of them were replaced by those that are trusted.
    signed_by: Sequence[str] = ()
    is_outdated: bool = False
    #: Whether its root is that of the first lines; if not, whether it is that of the stored hashes.
    fits_lines: bool = False
    fits_hashes: bool = False
    finding: Finding | None = None


class CheckpointSummary(msgspec.Struct):
    """All checkpoints, checked."""

    count: int = 0
    #: The last one over most lines that is to be trusted and fits the lines.
    last: CheckedNote | None = None
    #: Those that are to be trusted, and do not fit the lines: the first ones, and how many there are.
    misfits: list[CheckedNote] = msgspec.field(default_factory=list)
    misfit_count: int = 0
    #: Whether the stored hashes fit all of these.
    do_hashes_fit: bool = True
    #: Whether all of these are over more lines than there are, and fit the stored hashes that reach so far.
    are_misfits_ahead: bool = True
    #: The largest size in one that is to be trusted.
    max_size: int = 0
    #: Whether there is the beginning of one more.
    is_torn: bool = False

    @property
    def covered(self) -> int:
        """How many lines are known to be as they were signed."""
        return 0 if self.last is None or self.last.checkpoint is None else self.last.checkpoint.size


class CheckpointJudge(msgspec.Struct, frozen=True):
    """Checks checkpoints; if `verifiers` is empty, signatures are not checked."""

    trail: AuditTrail
    row: LineRow
    verifiers: Sequence[Verifier]
    log_id: str
    #: Which of these, as `NAME+ID`, were replaced by those that are trusted.
    replaced: frozenset[str] = frozenset()

    def look_at(self, batch: Sequence[_Numbered]) -> list[CheckedNote]:
        """Check some notes."""
        return [self._look(*numbered) for numbered in batch]

    def _look(self, number: int, offset: int, data: bytes) -> CheckedNote:
        wrong = partial(self._wrong, number, offset)
        try:
            note = Note.parse(data)
            checkpoint = Checkpoint.parse(note.text)
        except ValueError as error:
            return wrong(Kind.CHECKPOINT_DAMAGED, f"cannot be read: {error}")
        if checkpoint.origin != self.log_id:
            what = f"is of the log '{checkpoint.origin}', and this is '{self.log_id}'"
            return wrong(Kind.LOG_ID_WRONG, what)
        signed_by: Sequence[str] = ()
        is_outdated = False
        if self.verifiers:
            try:
                signed_by = [key.short_name for key in note.verify(self.verifiers)]
                is_outdated = self.replaced.issuperset(signed_by)
            except UnknownKey as error:
                what = f"{error}; it is forged, or its key is the log's, and no key that is known here vouches for it"
                return wrong(Kind.KEY_UNKNOWN, f"is not to be trusted: {what}")
            except NoteInvalid as error:
                return wrong(Kind.SIGNATURE_WRONG, f"was forged, or changed after it was signed: {error}")
        if note.written() != data:
            return wrong(Kind.CHECKPOINT_DAMAGED, "was changed after it was written, if without effect")
        fits_lines = _fits(checkpoint, self.row.leaf_count, self.row.read_hash)
        fits_hashes = not fits_lines and _fits(checkpoint, self.trail.leaf_count, self.trail.read_hash)
        return CheckedNote(number, offset, checkpoint, signed_by, is_outdated, fits_lines, fits_hashes)

    def _wrong(self, number: int, offset: int, kind: Kind, what: str) -> CheckedNote:
        message = f"checkpoint {number} {what}"
        finding = Finding(kind, str(self.trail.paths.checkpoints), message, offset=offset)
        return CheckedNote(number, offset, finding=finding)


def check_checkpoints(judge: CheckpointJudge, workers: int, findings: Findings) -> CheckpointSummary:
    """Check all checkpoints, and sum them up. Adds what is wrong, except a root that does not fit the lines."""
    summary = CheckpointSummary()
    numbered = _numbered(judge, summary)
    batches = iter(lambda: list(islice(numbered, NOTES_AT_ONCE)), [])
    for checked in (note for batch in in_order(judge.look_at, batches, workers) for note in batch):
        if checked.finding is not None:
            findings.extend([checked.finding])
        if checked.checkpoint is None:
            continue
        size = checked.checkpoint.size
        if size < summary.max_size:
            message = (
                f"checkpoint {checked.number} is over {size} lines, and stands behind one over {summary.max_size}: the "
                "service never goes backwards"
            )
            file = judge.trail.paths.checkpoints
            findings.add(Kind.CHECKPOINT_ORDER, file, message, offset=checked.offset)
        if not checked.is_outdated:
            summary.max_size = max(summary.max_size, size)
        if checked.fits_lines:
            if not checked.is_outdated and size >= summary.covered:
                summary.last = checked
            continue
        summary.misfit_count += 1
        summary.do_hashes_fit = summary.do_hashes_fit and checked.fits_hashes
        if size <= judge.row.leaf_count or not (checked.fits_hashes or size > judge.trail.leaf_count):
            summary.are_misfits_ahead = False
        if len(summary.misfits) < MAX_MISFITS:
            summary.misfits.append(checked)
    return summary


def _numbered(judge: CheckpointJudge, summary: CheckpointSummary) -> Iterator[_Numbered]:
    """Yield the notes with their numbers; a last one that is cut off is left out, or gets its newline."""
    trail = judge.trail
    for number, (offset, note) in enumerate(trail.checkpoints()):
        if offset + len(note) >= trail.checkpoint_bytes:
            cut_off = _signature_of_torn(note, judge.log_id)
            if cut_off is not None and len(cut_off) < SIGNATURE_LENGTH:
                summary.is_torn = True
                return
            note += b"\n" * (cut_off is not None)
        summary.count += 1
        yield number, offset, note


def _signature_of_torn(data: bytes, log_id: str) -> bytes | None:
    """Return the signature in a checkpoint without its last newline, as far as it goes; None: this is no such thing."""
    head = f"{log_id}\n".encode()
    if head.startswith(data):
        return b""
    match = _TORN.fullmatch(data, len(head)) if data.startswith(head) else None
    if match is None:
        return None
    line, name = match["signature"] or b"", f"— {log_id} ".encode()
    if name.startswith(line):
        return b""
    is_whole = line.startswith(name) and re.fullmatch(rb"[A-Za-z0-9+/=]{0,92}", line[len(name) :])
    return line[len(name) :] if is_whole else None


def _fits(checkpoint: Checkpoint, leaf_count: int, read: ReadHash) -> bool:
    return checkpoint.size <= leaf_count and root_hash(checkpoint.size, read) == checkpoint.root
