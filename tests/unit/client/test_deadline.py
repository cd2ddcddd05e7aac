"""`TimeLeft`: how long a client may go on trying."""

import math
import threading
import time
from types import SimpleNamespace

import pytest

from emitd.runtime import threads
from emitd.runtime.threads import MIN_CALL_SECONDS, TimeLeft, is_sender


@pytest.fixture
def left() -> TimeLeft:
    return TimeLeft(patience_seconds=0.3)


def test_there_is_all_the_time_before_the_end(left: TimeLeft) -> None:
    """A client that is not being closed tries for ever, and a call takes what it may."""
    assert left.seconds() == math.inf
    assert left.for_call(10.0) == 10.0


def test_after_the_deadline_a_call_gets_the_least(left: TimeLeft) -> None:
    """It is enough for a service that is there, and a hanging one is not waited for."""
    left.close(time.monotonic() - 5.0)
    assert left.seconds() <= -5.0
    assert left.for_call(10.0) == MIN_CALL_SECONDS


def test_no_call_takes_longer_than_is_left(left: TimeLeft) -> None:
    """Nor longer than it may at any time."""
    left.close(time.monotonic() + 20.0)
    assert 10.0 < left.for_call(100.0) <= 20.0
    assert left.for_call(0.5) == 0.5


def test_a_pause_lasts(left: TimeLeft) -> None:
    """It is as long as asked for, also while the client is being closed."""
    for deadline in (math.inf, time.monotonic() + 5.0):
        left.close(deadline) if deadline < math.inf else None
        began = time.monotonic()
        assert left.pause(0.1)
        assert time.monotonic() - began >= 0.1


def test_there_is_no_pause_for_which_no_time_is_left(left: TimeLeft) -> None:
    """It says so at once."""
    left.close(time.monotonic() + 5.0)
    began = time.monotonic()
    assert not left.pause(10.0)
    assert time.monotonic() - began < 4.0


def test_closing_ends_a_pause(left: TimeLeft) -> None:
    """There is another try at once then."""
    threading.Timer(0.1, left.close, [time.monotonic() + 5.0]).start()
    began = time.monotonic()
    assert left.pause(30.0)
    assert time.monotonic() - began < 5.0


def test_a_pause_can_be_longer_than_threads_can_wait(left: TimeLeft) -> None:
    """A service may ask for any number of seconds."""
    threading.Timer(0.1, left.close, [time.monotonic()]).start()
    assert left.pause(threading.TIMEOUT_MAX * 2)


def test_what_comes_after_the_end_has_time_again(left: TimeLeft) -> None:
    """A program may log after the client's own end."""
    left.close(time.monotonic())
    left.reopen()
    assert left.seconds() == math.inf


def test_who_sends_alone_waits_while_there_is_patience(
    left: TimeLeft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All such waiting together is bounded; then a call gets the least. An answer brings all of it back."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(threads, "time", clock)
    with left.alone() as deadline:
        assert is_sender()
        assert deadline - clock.now == left.seconds() == pytest.approx(0.3)
        clock.now += 0.2
    with left.alone():
        assert left.seconds() == pytest.approx(0.1)
        clock.now += 0.15
    with left.alone():
        assert left.seconds() <= MIN_CALL_SECONDS
        left.answered()
    with left.alone():
        assert left.seconds() == pytest.approx(0.3)


def test_who_sends_alone_has_a_timeout_too(left: TimeLeft) -> None:
    """It is the caller's own."""
    with left.alone(0.05):
        assert left.seconds() <= 0.05
