"""Says what was done to a log, from the lines, the stored hashes and the checkpoints, of which not all can be right.

The checkpoints decide, since they are signed. If the lines fit all of them, the stored hashes were changed. If only the
stored hashes fit, these show line by line what was changed. If neither fits, the first checkpoint that does not fit
shows before which line it was. An attacker who can change lines, hashes and checkpoints alike leaves no trace in the
log: then an older checkpoint or a receipt that is kept elsewhere finds it (see `audit.verify.evidence`).
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import msgspec

from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.checkpoints import CheckpointSummary
from emitd_handlers.audit.verify.findings import Finding, Findings, Kind, lines_in_words
from emitd_handlers.audit.verify.hashes import LineRow, leaves_of, place_of
from emitd_handlers.audit.verify.leaf_diff import Change, Leaves, Swap, alignment
from emitd_handlers.tlog.merkle import HASH_BYTES, stored_count

#: How many hashes are compared at once.
HASHES_AT_ONCE = 16_384
#: How many differences are described; more would not be read.
MAX_DIFFERENCES = 1000
#: How many lines are read at once to look for a line's twin.
LINES_AT_ONCE = 8192


class Evidence(msgspec.Struct, frozen=True):
    """A log, all of which was read."""

    trail: AuditTrail
    #: The hashes that its lines give.
    row: LineRow
    #: The first lines whose stored hashes are right, and whether all stored hashes are.
    good_leaves: int
    is_row_good: bool
    checkpoints: CheckpointSummary


def diagnose(evidence: Evidence, findings: Findings) -> None:
    """Add what was done to lines and stored hashes."""
    if evidence.checkpoints.misfit_count:
        are_hashes_signed = evidence.checkpoints.do_hashes_fit
        if not (are_hashes_signed and _add_lines(evidence, evidence.good_leaves, findings, is_certain=True)):
            _add_misfits(evidence, findings)
            _add_lines(evidence, evidence.good_leaves, findings, is_certain=False)
        return
    trail, covered = evidence.trail, evidence.checkpoints.covered
    needed = stored_count(covered)
    if trail.has_hashes and trail.hash_count < needed:
        what = f"ends after {trail.hash_count} hashes; {needed} were stored when {covered} lines were signed"
        _add_about_hashes(evidence, findings, Kind.HASHES_CUT, what, trail.hash_count)
    if not evidence.is_row_good:
        for number in _differing(evidence, stored_count(evidence.good_leaves), needed):
            what = f"has a wrong hash: {_hash_in_words(number)}; the lines are as they were signed"
            _add_about_hashes(evidence, findings, Kind.HASHES_CHANGED, what, number)
    _add_uncovered(evidence, findings)


def _add_uncovered(evidence: Evidence, findings: Findings) -> None:
    """Add what is wrong after the last checkpoint. There nothing decides between the lines and the hashes."""
    trail, covered = evidence.trail, evidence.checkpoints.covered
    if evidence.is_row_good and trail.leaf_count <= evidence.row.leaf_count:
        more = trail.hash_count * HASH_BYTES + trail.torn_hash_bytes
        more -= stored_count(evidence.row.leaf_count) * HASH_BYTES
        if more > 0:
            what = f"has {more} bytes more than the lines give"
            number = stored_count(evidence.row.leaf_count)
            _add_about_hashes(evidence, findings, Kind.HASHES_CHANGED, what, number)
        return
    start = max(covered, evidence.good_leaves)
    if _add_lines(evidence, start, findings, is_certain=False):
        return
    numbers = list(islice(_differing(evidence, stored_count(start), trail.hash_count), MAX_DIFFERENCES))
    if not numbers and not findings:
        numbers = [trail.hash_count]  # part of it
    for number in numbers:
        what = f"has a hash that the lines do not give: {_hash_in_words(number)}; no checkpoint covers it"
        _add_about_hashes(evidence, findings, Kind.HASH_MISMATCH, what, number)


def _add_lines(evidence: Evidence, start: int, findings: Findings, *, is_certain: bool) -> bool:
    """Add how the lines differ from those that the hashes were stored for; return whether they do."""
    trail, row = evidence.trail, evidence.row
    stored = Leaves(trail.leaf_count, partial(leaves_of, trail))
    present = Leaves(row.leaf_count, partial(leaves_of, row))
    changes = list(islice(alignment(stored, present, start), MAX_DIFFERENCES))
    words = _Words(str(trail.paths.lines), stored.count, is_certain)
    findings.extend(_describe(changes, present, words))
    if changes or not is_certain:
        return bool(changes)
    return _add_smallest_subtrees(evidence, findings)


def _add_smallest_subtrees(evidence: Evidence, findings: Findings) -> bool:
    """Add lines that were changed with their own hashes, but not with those above; return whether there are any."""
    end = min(evidence.trail.hash_count, stored_count(evidence.row.leaf_count))
    numbers = islice(_differing(evidence, stored_count(evidence.good_leaves), end), MAX_DIFFERENCES)
    places = [place_of(number) for number in numbers]
    lowest = min((level for level, _ in places), default=0)
    for first, count in [(node << level, 1 << level) for level, node in places if level == lowest]:
        message = (
            f"one of {lines_in_words(first, count)} was changed, and its stored hash with it; the hashes above are "
            "those that were signed"
        )
        findings.add(Kind.LINE_CHANGED, evidence.trail.paths.lines, message, first)
    return bool(places)


def _add_misfits(evidence: Evidence, findings: Findings) -> None:
    """Add which checkpoints the lines do not fit, and between which lines that begins."""
    checkpoints, line_count = evidence.checkpoints, evidence.row.leaf_count
    covered = checkpoints.covered
    file = evidence.trail.paths.checkpoints
    sized = [(misfit, misfit.checkpoint.size) for misfit in checkpoints.misfits if misfit.checkpoint]
    for misfit, size in sized:
        if size <= covered:
            message = (
                f"checkpoint {misfit.number} was signed over {size} other lines, though one over {covered} fits: "
                "another log was signed with this log's key"
            )
            findings.add(Kind.CHECKPOINT_MISMATCH, file, message, offset=misfit.offset)
    within = [(misfit, size) for misfit, size in sized if covered < size <= line_count]
    if within:
        misfit, size = min(within, key=lambda pair: pair[1])
        message = (
            f"{lines_in_words(covered, size - covered)}: not as they were signed. Checkpoint {misfit.number} "
            f"(byte {misfit.offset} of '{file}') is over {size} lines, and those that stand here have another root; "
            + (f"the lines up to {covered - 1} are as they were signed" if covered else "no checkpoint fits")
        )
        findings.add(Kind.CHECKPOINT_MISMATCH, evidence.trail.paths.lines, message, covered, misfit.offset)
    if checkpoints.max_size > line_count:
        message = f"the log was cut: {checkpoints.max_size} lines were signed, and {line_count} are here"
        findings.add(Kind.LOG_CUT, evidence.trail.paths.lines, message, line_count)


def _differing(evidence: Evidence, first: int, end: int) -> Iterator[int]:
    """Yield the numbers of the stored hashes that are not those that the lines give."""
    end = min(end, evidence.trail.hash_count, stored_count(evidence.row.leaf_count))
    for number in range(first, end, HASHES_AT_ONCE):
        count = min(HASHES_AT_ONCE, end - number)
        stored = evidence.trail.read_hashes(number, count)
        right = evidence.row.read_hashes(number, count)
        if stored != right:
            places = range(0, len(right), HASH_BYTES)
            wrong = [at for at in places if stored[at : at + HASH_BYTES] != right[at : at + HASH_BYTES]]
            yield from (number + at // HASH_BYTES for at in wrong)


def _add_about_hashes(evidence: Evidence, findings: Findings, kind: Kind, what: str, number: int) -> None:
    level, node = place_of(number)
    index = node if level == 0 and node < evidence.row.leaf_count else None
    message = f"the file of the stored hashes {what}"
    findings.add(kind, evidence.trail.paths.hashes, message, index, number * HASH_BYTES)


def _hash_in_words(number: int) -> str:
    level, node = place_of(number)
    return f"the one over {lines_in_words(node << level, 1 << level)}, at byte {number * HASH_BYTES}"


class _Words(msgspec.Struct, frozen=True):
    """The common part of all sentences."""

    #: The lines' file.
    file: str
    #: How many lines there are stored hashes for.
    stored_count: int
    #: Whether the stored hashes are known to be right; else it may be they that were changed.
    is_certain: bool

    def finding(self, kind: Kind, message: str, index: int) -> Finding:
        """Return a finding about a line."""
        if not self.is_certain:
            message += "; or that was done to the stored hashes: no checkpoint decides"
        return Finding(kind, self.file, message, index)


def _describe(changes: Sequence[Change | Swap], present: Leaves, words: _Words) -> Iterator[Finding]:
    """Yield what the changes are; `present` has the lines as they are now."""
    twins = _find_twins(changes, present)
    for change in changes:
        if isinstance(change, Swap):
            message = f"lines {change.first} and {change.second} were swapped"
            yield words.finding(Kind.LINES_SWAPPED, message, change.first)
        elif change.old_count == 0:
            yield from _describe_new(change, present, twins, words)
        elif change.new_count == 0:
            yield _describe_gone(change, present, words)
        else:
            yield _describe_other(change, words)


def _describe_other(change: Change, words: _Words) -> Finding:
    signed = lines_in_words(change.old_first, change.old_count)
    now = _were(change.new_first, change.new_count)
    if change.old_count == change.new_count:
        moved = "" if change.old_first == change.new_first else f"; signed as {signed}"
        message = f"{now} changed{moved}"
    else:
        message = f"{now} put in the place of {signed}, as they were signed"
    kind = Kind.LINE_CHANGED if words.is_certain else Kind.HASH_MISMATCH
    return words.finding(kind, message, change.new_first)


def _describe_gone(change: Change, present: Leaves, words: _Words) -> Finding:
    gone = _were(change.old_first, change.old_count)
    if change.new_first == present.count and change.old_end == words.stored_count:
        message = f"the log was cut: {gone} at its end, and {'is' if change.old_count == 1 else 'are'} gone"
        return words.finding(Kind.LOG_CUT, message, change.old_first)
    message = f"{gone} deleted, before what now is line {change.new_first}"
    return words.finding(Kind.LINE_DELETED, message, change.old_first)


def _describe_new(
    change: Change, present: Leaves, twins: dict[bytes, list[int]], words: _Words
) -> Iterator[Finding]:
    copied = 0
    for index, leaf in enumerate(present.read(change.new_first, change.new_count), change.new_first):
        others = [place for place in twins.get(leaf, ()) if place != index]
        if others:
            copied += 1
            message = f"line {others[0]} stands once more, as line {index}"
            yield words.finding(Kind.LINE_DUPLICATED, message, index)
    if copied < change.new_count:
        message = f"{_were(change.new_first, change.new_count)} put in"
        yield words.finding(Kind.LINE_INSERTED, message, change.new_first)


def _find_twins(changes: Iterable[Change | Swap], present: Leaves) -> dict[bytes, list[int]]:
    """Return all places of each line that was put in."""
    twins: dict[bytes, list[int]] = {}
    for change in changes:
        if isinstance(change, Change) and change.old_count == 0:
            twins |= {leaf: [] for leaf in present.read(change.new_first, change.new_count)}
    for first in range(0, present.count if twins else 0, LINES_AT_ONCE):
        for index, leaf in enumerate(present.up_to(first, LINES_AT_ONCE), first):
            if leaf in twins:
                twins[leaf].append(index)
    return twins


def _were(first: int, count: int) -> str:
    return f"{lines_in_words(first, count)} {'was' if count == 1 else 'were'}"
