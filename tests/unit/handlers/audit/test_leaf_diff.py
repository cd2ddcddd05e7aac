"""`alignment`: how one row of leaves became another."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.audit.verify import leaf_diff as audit_alignment
from emitd_handlers.audit.verify.leaf_diff import Change, Leaves, Swap, alignment


def align(old: str, new: str, start: int = 0) -> list[Change | Swap]:
    """Each letter is a leaf."""
    return list(alignment(leaves(old), leaves(new), start))


def leaves(letters: str) -> Leaves:
    def read(first: int, count: int) -> Sequence[bytes]:
        assert 0 <= first <= first + count <= len(letters)
        return [letter.encode() for letter in letters[first : first + count]]

    return Leaves(len(letters), read)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("abcdef", "abcdef", []),
        ("abcdef", "abcdefgh", []),
        ("abcdef", "abXdef", [Change(2, 1, 2, 1)]),
        ("abcdef", "aXYdef", [Change(1, 2, 1, 2)]),
        ("abcdef", "Xbcdeg", [Change(0, 1, 0, 1), Change(5, 1, 5, 1)]),
        ("abcdef", "abdef", [Change(2, 1, 2, 0)]),
        ("abcdef", "abcd", [Change(4, 2, 4, 0)]),
        ("abcdef", "", [Change(0, 6, 0, 0)]),
        ("abcdef", "abcXdef", [Change(3, 0, 3, 1)]),
        ("abcdef", "abcdeXf", [Change(5, 0, 5, 1)]),
        ("abcdef", "bacdef", [Swap(0, 1)]),
        ("abcdef", "fbcdea", [Swap(0, 5)]),
        ("abcdef", "fbXdea", [Swap(0, 5), Change(2, 1, 2, 1)]),
        ("abcdef", "abXef", [Change(2, 2, 2, 1)]),
    ],
)
def test_what_was_done(old: str, new: str, changes: list[Change | Swap]) -> None:
    """It is told as an auditor would: what was changed, taken out, put in, or changed places."""
    assert sorted(align(old, new), key=repr) == sorted(changes, key=repr)


def test_a_start_behind_the_end() -> None:
    """Where nothing is left to compare, nothing has changed."""
    assert align("abc", "abcdef", 5) == []


def test_far_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the window at first is found in a larger one; what is side by side is told as one."""
    monkeypatch.setattr(audit_alignment, "WINDOW_LEAVES", 4)
    monkeypatch.setattr(audit_alignment, "BLOCK_LEAVES", 4)
    letters = "".join(map(chr, range(0x400, 0x500)))
    assert align(letters, letters[:10] + letters[40:]) == [Change(10, 30, 10, 0)]
    assert align(letters, letters[:10] + "x" + letters[10:200]) == [
        Change(10, 0, 10, 1),
        Change(200, 56, 201, 0),
    ]
    monkeypatch.setattr(audit_alignment, "MAX_WINDOW_LEAVES", 4)
    assert align(letters, letters[:10]) == [Change(10, 246, 10, 0)]


@given(st.text("abcdefgh", max_size=12), st.text("abcdefgh", max_size=12))
def test_changes_lead_from_the_old_to_the_new(old: str, new: str) -> None:
    """Applied to the old row, they make the new one, but for what was appended."""
    parts, at = [], 0
    present = list(old)
    changes = align(old, new)
    for change in changes:
        if isinstance(change, Swap):
            present[change.first], present[change.second] = present[change.second], present[change.first]
    for change in changes:
        if isinstance(change, Change):
            parts += [*present[at : change.old_first], *new[change.new_first : change.new_end]]
            at = change.old_end
    made = "".join([*parts, *present[at:]])
    assert new.startswith(made)
