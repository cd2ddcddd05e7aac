"""How one row of leaves became another: which were changed, taken out, put in, or changed places.

Works on the hashes of the leaves, which are as good as different from each other. Looks at some thousand at once, so
that it takes little memory; a leaf that moved further than that is taken for one that was taken out and one put in.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import SequenceMatcher

import msgspec

#: How many leaves are compared at once.
BLOCK_LEAVES = 8192
#: How many are aligned at once; more if none of them is in both.
WINDOW_LEAVES = 1024
MAX_WINDOW_LEAVES = 65_536
#: With more differences than this, leaves are not taken to be in their places.
MAX_DIFFERENCES = 1000


class Leaves(msgspec.Struct, frozen=True):
    """The hashes of some leaves."""

    count: int
    #: Returns a number of hashes from one on.
    read: Callable[[int, int], Sequence[bytes]]

    def up_to(self, first: int, limit: int) -> Sequence[bytes]:
        """Return at most `limit` from `first` on."""
        return self.read(first, max(0, min(limit, self.count - first)))


class Change(msgspec.Struct, frozen=True):
    """`new_count` leaves stand where `old_count` others stood; one of the two may be 0."""

    old_first: int
    old_count: int
    new_first: int
    new_count: int

    @property
    def old_end(self) -> int:
        """The one after the last that stood there."""
        return self.old_first + self.old_count

    @property
    def new_end(self) -> int:
        """The one after the last that stands there now."""
        return self.new_first + self.new_count


class Swap(msgspec.Struct, frozen=True):
    """Two leaves have changed places."""

    first: int
    second: int


def alignment(old: Leaves, new: Leaves, start: int) -> Iterator[Change | Swap]:
    """Yield how `old` became `new`, in order; both are the same before `start`.

    Leaves that `new` has at its end in addition are not a change: they were appended.
    """
    in_place = _in_place(old, new, start)
    yield from _joined(_moved(old, new, start) if in_place is None else in_place)


def _moved(old: Leaves, new: Leaves, start: int) -> Iterator[Change]:
    old_at = new_at = start
    while True:
        same = _count_same(old, new, old_at, new_at)
        old_at, new_at = old_at + same, new_at + same
        if old_at == old.count:
            return
        changes, old_at, new_at = _align_window(old, new, old_at, new_at)
        yield from changes


def _joined(changes: Iterable[Change | Swap]) -> Iterator[Change | Swap]:
    """Make one of those changes that stand side by side."""
    last: Change | Swap | None = None
    for change in changes:
        if (
            isinstance(change, Change)
            and isinstance(last, Change)
            and (last.old_end, last.new_end) == (change.old_first, change.new_first)
        ):
            old_count, new_count = last.old_count + change.old_count, last.new_count + change.new_count
            last = Change(last.old_first, old_count, last.new_first, new_count)
            continue
        if last is not None:
            yield last
        last = change
    if last is not None:
        yield last


def _in_place(old: Leaves, new: Leaves, start: int) -> list[Change | Swap] | None:
    """Return the differences if all of them are leaves that were changed or swapped, so that none has moved."""
    if new.count < old.count:
        return None
    differing: dict[int, tuple[bytes, bytes]] = {}
    for first in range(start, old.count, BLOCK_LEAVES):
        count = min(BLOCK_LEAVES, old.count - first)
        before, after = old.read(first, count), new.read(first, count)
        if before != after:
            pairs = enumerate(zip(before, after, strict=True), first)
            differing |= {index: pair for index, pair in pairs if pair[0] != pair[1]}
        if len(differing) > MAX_DIFFERENCES:
            return None
    was_at = {old_leaf: index for index, (old_leaf, _) in differing.items()}
    is_at = {new_leaf: index for index, (_, new_leaf) in differing.items()}
    appended = set(new.up_to(old.count, WINDOW_LEAVES))
    found: list[Change | Swap] = []
    for index, (old_leaf, new_leaf) in differing.items():
        came_from, went_to = was_at.get(new_leaf), is_at.get(old_leaf)
        if came_from != went_to or old_leaf in appended:
            return None
        if came_from is None:
            found.append(Change(index, 1, index, 1))
        elif index < came_from:
            found.append(Swap(index, came_from))
    return found


def _count_same(old: Leaves, new: Leaves, old_at: int, new_at: int) -> int:
    same = 0
    while True:
        before, after = old.up_to(old_at + same, BLOCK_LEAVES), new.up_to(new_at + same, BLOCK_LEAVES)
        count = min(len(before), len(after))
        if not count or before[:count] != after[:count]:
            pairs = zip(before, after, strict=False)
            return same + next((place for place, pair in enumerate(pairs) if pair[0] != pair[1]), count)
        same += count


def _align_window(old: Leaves, new: Leaves, old_at: int, new_at: int) -> tuple[Sequence[Change], int, int]:
    """Return the changes from two places on, and the places up to which they go."""
    window = WINDOW_LEAVES
    while True:
        before, after = old.up_to(old_at, window), new.up_to(new_at, window)
        opcodes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        is_end = old_at + len(before) == old.count and new_at + len(after) == new.count
        if len(opcodes) > 1 or is_end or window >= MAX_WINDOW_LEAVES:
            break
        window *= 4  # to find leaves that both have
    if not is_end and len(opcodes) > 1:
        # What is left behind the last leaves that both have may go on behind the window.
        while opcodes[-1][0] != "equal":
            del opcodes[-1]
    changes = [
        Change(old_at + first, end - first, new_at + new_first, new_end - new_first)
        for tag, first, end, new_first, new_end in opcodes
        if tag != "equal"
    ]
    old_end, new_end = old_at + opcodes[-1][2], new_at + opcodes[-1][4]
    if changes and changes[-1].old_first == old.count:
        del changes[-1]
    return changes, old_end, new_end
