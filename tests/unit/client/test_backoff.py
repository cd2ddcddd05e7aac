"""`Backoff`: the pauses between tries."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd.runtime import backoff as module
from emitd.runtime.backoff import Backoff

BACKOFF = Backoff(initial=0.1, maximum=2.0)


def by_chance(choose: Callable[[float, float], float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.random, "uniform", choose)


def test_pauses_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning, after the first failure, with the initial one."""
    by_chance(max, monkeypatch)
    assert [BACKOFF.pause(attempts) for attempts in range(1, 8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_chance_shortens_a_pause_to_half_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is a pause at all, and clients do not return all at once."""
    by_chance(min, monkeypatch)
    assert [BACKOFF.pause(attempts) for attempts in (1, 2, 20)] == [0.05, 0.1, 1.0]


def test_two_clients_pause_for_different_times() -> None:
    """Else a server that comes back would be overrun by all in the same moment."""
    assert len({BACKOFF.pause(5) for _ in range(20)}) > 1


@given(st.integers(min_value=1, max_value=10**9), st.floats(min_value=0, max_value=1e9))
def test_what_the_server_asks_for_is_the_least(attempts: int, at_least: float) -> None:
    """However many attempts there were, which must not overflow."""
    pause = BACKOFF.pause(attempts, at_least)
    assert max(at_least, 0.05) <= pause <= max(at_least, BACKOFF.maximum)


def test_an_initial_pause_above_the_longest_is_cut() -> None:
    """Two settings that contradict each other do not make the client wait longer than either says."""
    assert Backoff(initial=5.0, maximum=1.0).pause(1) <= 1.0
