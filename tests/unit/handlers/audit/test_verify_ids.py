"""Whether an id stands in a log twice."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.audit.verify import ids as audit_verify_ids
from emitd_handlers.audit.verify.ids import pack_hashes, repeated_hashes, repeated_in_words
from support.audit.sealed_log import TIME, make_line


def hashes_of(chunks: Sequence[Sequence[str]]) -> bytes:
    return b"".join(pack_hashes([("shop", id_) for id_ in chunk]) for chunk in chunks)


def hash_of(id_: str, source: str = "shop") -> int:
    return hash((source, id_))


@pytest.mark.parametrize("at_once", [10, 1000, 1_000_000])
def test_repeated_hashes(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """They are found however many are looked at together; and no others are."""
    monkeypatch.setattr(audit_verify_ids, "HASHES_AT_ONCE", at_once)
    ids = [f"id-{number}" for number in range(2000)]
    random.Random(1).shuffle(ids)
    assert repeated_hashes(hashes_of([ids])) == set()
    twice = hashes_of([ids, [ids[7]], [ids[1999], ids[7]]])
    assert repeated_hashes(twice) == {hash_of(ids[7]), hash_of(ids[1999])}
    assert repeated_hashes(b"") == set()


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=3), max_size=5))
def test_wherever_an_id_stands(chunks: list[list[str]]) -> None:
    """It is found if it stands twice, in whichever chunks and orders."""
    ids = [id_ for chunk in chunks for id_ in chunk]
    assert repeated_hashes(hashes_of(chunks)) == {hash_of(id_) for id_ in ids if ids.count(id_) > 1}


def test_only_equal_ids_are_told() -> None:
    """Two ids with the same hash are two ids; the first line with one is named; and what is no line is passed over."""
    lines = [make_line(1), make_line(2), make_line(1, time=TIME), b"{", make_line(1, user="eve", time=TIME)]
    everything = {hash_of(f"event-{number:06}", "test") for number in (1, 2)}
    words = list(repeated_in_words(enumerate(lines), {"event_id": everything, "record_id": set()}))
    assert words == [
        "line 2 has the event_id 'event-000001' of line 0, and other content: its sender gave two events one id",
        "line 4 has the event_id 'event-000001' of line 0, and other content: its sender gave two events one id",
    ]
