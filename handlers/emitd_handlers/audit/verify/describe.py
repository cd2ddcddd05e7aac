"""In words: how the lines of a log differ from those that its hashes were stored for."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from emitd_handlers.audit.verify.findings import Finding, Kind, lines_in_words
from emitd_handlers.audit.verify.leaf_diff import Change, Leaves, Swap

__all__ = ["Words", "describe"]

#: So many lines are read at once where a line's twin is looked for.
LINES_AT_ONCE = 8192


class Words(msgspec.Struct, frozen=True):
    """What all of the sentences share."""

    #: The lines' file.
    file: str
    #: How many lines there are stored hashes for.
    stored_count: int
    #: Whether the stored hashes are known to be right; else it may be they that were changed.
    is_certain: bool

    def finding(self, kind: Kind, message: str, index: int) -> Finding:
        """Return a finding about a line."""
        if not self.is_certain:
            message += "; or that was done to the stored hashes: no checkpoint tells"
        return Finding(kind, self.file, message, index)


def describe(changes: Sequence[Change | Swap], present: Leaves, words: Words) -> Iterator[Finding]:
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


def _describe_other(change: Change, words: Words) -> Finding:
    now = lines_in_words(change.new_first, change.new_count)
    were = "was" if change.new_count == 1 else "were"
    if change.old_count == change.new_count:
        moved = "" if change.old_first == change.new_first else f"; signed as {_signed(change)}"
        message = f"{now} {were} changed{moved}"
    else:
        message = f"{now} {were} put in the place of {_signed(change)}, as they were signed"
    kind = Kind.LINE_CHANGED if words.is_certain else Kind.HASH_MISMATCH
    return words.finding(kind, message, change.new_first)


def _describe_gone(change: Change, present: Leaves, words: Words) -> Finding:
    gone = _signed(change)
    were = "was" if change.old_count == 1 else "were"
    if change.new_first == present.count and change.old_end == words.stored_count:
        message = (
            f"the log was cut: {gone} {were} at its end, and {'is' if change.old_count == 1 else 'are'} gone"
        )
        return words.finding(Kind.LOG_CUT, message, change.old_first)
    message = f"{gone} {were} deleted, before what now is line {change.new_first}"
    return words.finding(Kind.LINE_DELETED, message, change.old_first)


def _describe_new(
    change: Change, present: Leaves, twins: dict[bytes, list[int]], words: Words
) -> Iterator[Finding]:
    copied = 0
    for index, leaf in enumerate(present.read(change.new_first, change.new_count), change.new_first):
        others = [place for place in twins.get(leaf, ()) if place != index]
        if others:
            copied += 1
            yield words.finding(
                Kind.LINE_DUPLICATED, f"line {others[0]} stands once more, as line {index}", index
            )
    if copied < change.new_count:
        now = lines_in_words(change.new_first, change.new_count)
        message = f"{now} {'was' if change.new_count == 1 else 'were'} put in"
        yield words.finding(Kind.LINE_INSERTED, message, change.new_first)


def _find_twins(changes: Iterable[Change | Swap], present: Leaves) -> dict[bytes, list[int]]:
    """Return where the lines that were put in stand, each in all places."""
    twins: dict[bytes, list[int]] = {}
    for change in changes:
        if isinstance(change, Change) and change.old_count == 0:
            twins |= {leaf: [] for leaf in present.read(change.new_first, change.new_count)}
    for first in range(0, present.count if twins else 0, LINES_AT_ONCE):
        for index, leaf in enumerate(present.up_to(first, LINES_AT_ONCE), first):
            if leaf in twins:
                twins[leaf].append(index)
    return twins


def _signed(change: Change) -> str:
    return lines_in_words(change.old_first, change.old_count)
