"""Whether an id stands in a log twice."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.audit.verify import ids as audit_verify_ids
from emitd_handlers.audit.verify.ids import find_repeated, pack_hashes, repeated_hashes


def hashes_of(chunks: Sequence[Sequence[str]]) -> bytes:
    return b"".join(map(pack_hashes, chunks))


@pytest.mark.parametrize("at_once", [10, 1000, 1_000_000])
def test_repeated_hashes(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """They are found however many are looked at together; and no others are."""
    monkeypatch.setattr(audit_verify_ids, "HASHES_AT_ONCE", at_once)
    ids = [f"id-{number}" for number in range(2000)]
    random.Random(1).shuffle(ids)
    assert repeated_hashes(hashes_of([ids])) == set()
    twice = hashes_of([ids, [ids[7]], [ids[1999], ids[7]]])
    assert repeated_hashes(twice) == {hash(ids[7]), hash(ids[1999])}
    assert repeated_hashes(b"") == set()


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=3), max_size=5))
def test_wherever_an_id_stands(chunks: list[list[str]]) -> None:
    """It is found if it stands twice, in whichever chunks and orders."""
    ids = [id_ for chunk in chunks for id_ in chunk]
    assert repeated_hashes(hashes_of(chunks)) == {hash(id_) for id_ in ids if ids.count(id_) > 1}


def test_only_equal_ids_are_told() -> None:
    """Two ids with the same hash are two ids."""
    ids = enumerate(["a", "b", "a", "c", "a"])
    everything = {hash("a"), hash("b"), hash("c")}
    assert list(find_repeated(ids, everything)) == [("a", 0, 2), ("a", 0, 4)]
