"""Verifies an audit log: reads every byte of its files, and says what is wrong, in which file, at which line.

    lines, in chunks    ─> their form, times, ids; their hashes against those stored     (lines)
    checkpoints         ─> their form and signatures; their roots against the lines      (checkpoints)
    small files         ─> the log's id, its keys, the index                             (identity)
    what is wrong       ─> what was done, and where                                      (diagnosis)
    evidence elsewhere  ─> is it still in the log?                                       (evidence)

It needs the files and a public key, no service, and works while a service writes. Memory grows by 16 bytes a line.
"""

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from emitd_handlers.audit.format.files import ENTRY_BYTES, FIRST, Entry
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.checkpoints import CheckpointJudge, CheckpointSummary, check_checkpoints
from emitd_handlers.audit.verify.diagnosis import Evidence, diagnose
from emitd_handlers.audit.verify.evidence import EvidenceInvalid, HeldElsewhere, check_evidence
from emitd_handlers.audit.verify.findings import (
    MAX_LISTED,
    Findings,
    Kind,
    Verdict,
    VerifyReport,
    lines_in_words,
)
from emitd_handlers.audit.verify.hashes import LineRow
from emitd_handlers.audit.verify.identity import Identity, identify
from emitd_handlers.audit.verify.ids import repeated_hashes, repeated_in_words
from emitd_handlers.audit.verify.lines import ChunkReport, NumberedEntry, check_chunks
from emitd_handlers.audit.verify.workers import in_order, processor_count
from emitd_handlers.text.times import parse_time
from emitd_handlers.tlog.note import Verifier

#: A smaller log is verified before other processes are there.
MIN_BYTES_FOR_WORKERS = 32 * 1024 * 1024
MAX_WORKERS = 8
#: A line is in its file this long after it was received, or sooner, unless the disk is slow.
WRITE_NANOS = 100_000_000

#: Called with how many bytes of the lines were looked at since the last call, and how many there are.
Advance: TypeAlias = Callable[[int, int], None]


def verify_log(
    path: Path,
    *,
    keys: Sequence[Verifier] | None = None,
    log_id: str = "",
    against: Sequence[HeldElsewhere] = (),
    workers: int | None = None,
    advance: Advance = lambda size, total: None,
) -> VerifyReport:
    """Verify the log whose lines are in the file `path`, and report. Raises OSError if it cannot be read.

    `keys` are the public keys kept elsewhere; None: those next to the log are used, which proves less. `log_id` is the
    configured id, if any. `workers`, the number of processes, is by default chosen by the log's size.
    """
    with AuditTrail(path) as trail:
        if workers is None:
            is_large = trail.size + trail.checkpoint_bytes >= MIN_BYTES_FOR_WORKERS
            workers = min(processor_count(), MAX_WORKERS) if is_large else 1
        error: EOFError | None = None
        try:
            report = _LogVerifier(trail, workers, advance).verify(keys, log_id, against)
        except EOFError as cut:
            error = cut
        # A starting service repairs its log, maybe at this moment.
        if (error or report.findings) and trail.is_cut():
            raise OSError("its files were cut while they were read; verify it again")
        if error:
            raise error
        return report


class _LogVerifier:
    """Verifies one log, once."""

    def __init__(self, trail: AuditTrail, workers: int, advance: Advance) -> None:
        self._trail = trail
        self._workers = workers
        self._advance = advance
        self._findings = Findings()
        #: Findings about the form of lines and about the index; they come last in the report.
        self._form = Findings()
        self._index = Findings()
        self._notes: list[str] = []
        #: The reasons why the verdict cannot be good.
        self._doubts: list[str] = []
        self._line_count = 0
        self._last_time = ""
        #: The end of the lines whose stored hashes are all right, and whether all stored hashes are.
        self._good_end = FIRST
        self._is_row_good = True
        #: By the fields whose ids stand once: the hashes of all ids.
        self._id_hashes = {"event_id": bytearray(), "record_id": bytearray()}

    def verify(
        self, keys: Sequence[Verifier] | None, log_id: str, against: Sequence[HeldElsewhere]
    ) -> VerifyReport:
        trail, findings = self._trail, self._findings
        identity = identify(trail, keys, log_id, findings)
        entries = self._read_index()
        for report in check_chunks(trail, entries, self._workers):
            self._take(report)
        repeated = in_order(repeated_hashes, self._id_hashes.values(), self._workers)
        self._note_repeated_ids(dict(zip(self._id_hashes, repeated, strict=True)))
        with closing(LineRow(trail, self._good_end)) as row:
            outdated = frozenset(verifier.short_name for verifier in identity.replaced)
            verifiers = [*identity.verifiers, *identity.replaced]
            judge = CheckpointJudge(trail, row, verifiers, identity.log_id, outdated)
            checkpoints = check_checkpoints(judge, self._workers, findings)
            evidence = Evidence(trail, row, self._good_end.leaf_index, self._is_row_good, checkpoints)
            diagnosis = Findings()
            diagnose(evidence, diagnosis)
            is_behind = self._explain_as_copy(evidence, diagnosis)
            if not is_behind:
                findings.merge(diagnosis)
            self._weigh(identity, checkpoints)
            for held in against:
                self._hold_against(held, row, identity)
        is_signed = checkpoints.count or identity.verifiers or trail.has_hashes
        if is_signed or findings or any(self._id_hashes.values()):
            findings.merge(self._form)
        elif self._form:
            self._doubts.insert(0, f"'{trail.paths.lines}' is no audit log: none of its lines is an event")
        if not (
            checkpoints.misfit_count or is_behind
        ):  # else the index may be right for the lines as they were
            findings.merge(self._index)
        verdict = Verdict.CANNOT_TELL if self._doubts else Verdict.GOOD
        return VerifyReport(
            verdict=Verdict.BAD if findings else verdict,
            lines=self._line_count,
            checkpoints=checkpoints.count,
            covered_lines=checkpoints.covered,
            log_id=identity.log_id,
            keys=[verifier.vkey for verifier in identity.verifiers],
            signed_by=list(checkpoints.last.signed_by) if checkpoints.last else [],
            findings=findings.listed,
            unlisted=findings.unlisted,
            notes=self._doubts + self._notes,
        )

    def _read_index(self) -> Sequence[NumberedEntry]:
        """Return the entries of the index that could be right, by offset."""
        entries = list(enumerate(self._trail.entries()))
        before = Entry(-1, -1)
        for number, entry in entries:
            if entry.offset >= self._trail.size:
                self._add_entry(number, entry, "is behind the end of the lines")
                continue
            if entry.leaf_index <= before.leaf_index or entry.offset <= before.offset:
                self._add_entry(number, entry, "does not come after the one before it")
            before = entry
        inside = [numbered for numbered in entries if numbered[1].offset < self._trail.size]
        return sorted(inside, key=lambda numbered: numbered[1].offset)

    def _add_entry(self, number: int, entry: Entry, what: str) -> None:
        message = f"the index's entry for line {entry.leaf_index} {what}; delete the index, it is rebuilt"
        offset = number * ENTRY_BYTES
        self._index.add(Kind.INDEX_WRONG, self._trail.paths.index, message, entry.leaf_index, offset)

    def _take(self, report: ChunkReport) -> None:
        """Take what was found in the next chunk."""
        start = report.chunk.start
        self._line_count += report.line_count
        self._is_row_good = self._is_row_good and report.is_row_good
        if self._is_row_good and self._line_count <= self._trail.leaf_count:
            self._good_end = Entry(self._line_count, start.offset + report.chunk.size)
        if report.first_time and report.first_time < self._last_time:
            message = (
                f"from line {start.leaf_index} on, lines were received at {report.first_time}, before the lines that "
                f"stand before them ({self._last_time})"
            )
            self._form.add(Kind.TIME_WENT_BACK, self._trail.paths.lines, message, start.leaf_index)
        self._last_time = report.last_time or self._last_time
        self._form.merge(report.form)
        self._index.merge(report.index)
        self._id_hashes["event_id"] += report.event_ids
        self._id_hashes["record_id"] += report.record_ids
        self._advance(report.chunk.size, self._trail.size)

    def _note_repeated_ids(self, hashes: Mapping[str, set[int]]) -> None:
        notes = repeated_in_words(self._trail.lines() if any(hashes.values()) else (), hashes)
        self._notes += islice(notes, MAX_LISTED)
        if more := sum(1 for _ in notes):
            self._notes.append(f"{more} more lines have an id of an earlier line")

    def _explain_as_copy(self, evidence: Evidence, diagnosis: Findings) -> bool:
        """Return whether the diagnosis is what a copy shows that took one file before another while a service wrote.

        Nothing in the files tells such a copy from a log that was cut. So nothing else may be wrong, no service may
        have the log open, since this reader opens the files in the right order, and the file that ends too early must
        not have been written last: a cut leaves it so, unless its time was set back. See ADR 19.
        """
        paths, checkpoints = self._trail.paths, evidence.checkpoints
        kinds = {finding.kind for finding in diagnosis.listed}
        if self._findings or self._form or not checkpoints.are_misfits_ahead or len(kinds) != 1:
            return False
        if kinds == {Kind.HASHES_CUT}:
            early, late, what, into = paths.hashes, paths.checkpoints, "hashes are", self._notes
        elif kinds == {Kind.LOG_CUT}:
            late, end, how = paths.hashes, self._trail.leaf_count, ""
            if checkpoints.misfit_count:
                late, end, how = paths.checkpoints, checkpoints.max_size, " that the checkpoints sign"
            early, into, count = paths.lines, self._doubts, end - evidence.row.leaf_count
            what = f"line{how} is" if count == 1 else f"{count} lines{how} are"
        else:
            return False
        # rsync gives a copy the times that the files had when it listed them, before it read them: the checkpoints' may
        # be the older one, but the last line that it read was received about when its file was written, or later.
        written = max(
            parse_time(self._last_time) + WRITE_NANOS if self._last_time else 0, late.stat().st_mtime_ns - 1
        )
        if early.stat().st_mtime_ns > written or _is_in_use(paths.lines):
            return False
        into.append(
            f"the last {what} missing: this is a copy that took '{early.name}' before '{late.name}' while the "
            f"service wrote, or the log was cut. The first {checkpoints.covered} lines are as they were signed. Copy "
            "again, the checkpoints first and the lines last: if anything is missing then, the log was cut"
        )
        return True

    def _weigh(self, identity: Identity, checkpoints: CheckpointSummary) -> None:
        """Say how much is proved."""
        trail, signed = self._trail, checkpoints.max_size
        if not checkpoints.count:
            self._doubts.append("there are no checkpoints: nothing of this log is signed")
        elif not identity.verifiers:
            self._doubts.append("there is no public key: signatures were not verified; --key gives it")
        elif not signed and identity.replaced:
            self._doubts.append(
                "the key given has signed no checkpoint, only keys that it replaced have: the service signs with it "
                "from its next start on"
            )
        elif identity.is_key_listed:
            self._notes.append(
                f"the public key is the one next to the log ('{trail.paths.vkey}'), which proves less: an attacker "
                "who can change the log can change that too. --key takes one that was kept elsewhere"
            )
        if signed and signed < self._line_count:
            them = lines_in_words(signed, self._line_count - signed)
            self._notes.append(f"no checkpoint covers {them} yet, the last ones: only receipts protect them")
        if not trail.has_hashes:
            self._notes.append("there is no file of stored hashes: they were computed from the lines")
        self._notes += identity.notes
        torn = {
            "line": trail.torn_bytes,
            "stored hash": trail.torn_hash_bytes,
            "checkpoint": checkpoints.is_torn,
            "entry of the index": trail.torn_index_bytes,
        }
        if any(torn.values()) and not _is_in_use(trail.paths.lines):
            what = ", ".join(name for name, is_torn in torn.items() if is_torn)
            note = f"at the end there is part of a {what}: a crash leaves such; the next start mends it"
            self._notes.append(note)

    def _hold_against(self, held: HeldElsewhere, row: LineRow, identity: Identity) -> None:
        try:
            confirmed = check_evidence(held, self._trail, row, identity, self._findings)
        except EvidenceInvalid as error:
            self._doubts.append(f"'{held.name}' says nothing: {error}")
            return
        if confirmed:
            self._notes.append(f"by '{held.name}': {confirmed}")


def _is_in_use(path: Path) -> bool:
    """Return whether a service has the log open: then a torn end is being written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Only where something is torn: a service that starts at this instant would find the log in use.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
