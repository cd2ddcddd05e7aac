"""`Clock` and `StepWatch`: times of receipt and steps, by clocks that are moved by hand."""

import threading
import time

import pytest

from emitd_handlers.clock import Clock, StepWatch, steady_ns

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


class Hands:
    """A wall clock and a steady one."""

    def __init__(self) -> None:
        self.wall = NOW
        self.steady = 5 * SECOND
        self.clock = Clock(lambda: self.wall, lambda: self.steady)
        self.steps = StepWatch(self.clock)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += round(seconds * SECOND)
        self.steady += round(seconds * SECOND)

    def set(self, seconds: float) -> None:
        """Set the wall clock."""
        self.wall += round(seconds * SECOND)


@pytest.fixture
def hands() -> Hands:
    return Hands()


def test_times_of_receipt_are_those_of_the_wall_clock(hands: Hands) -> None:
    """Also after it was set forward."""
    assert hands.clock.now() == NOW
    hands.run(1)
    assert hands.clock.now() == NOW + SECOND
    hands.set(7200)
    assert hands.clock.now() == NOW + 7201 * SECOND


def test_after_a_step_back_they_go_on_at_half_speed_until_the_wall_clock_has_caught_up(hands: Hands) -> None:
    """Ten seconds back: that takes twenty."""
    hands.clock.now()
    hands.set(-10)
    for seconds in range(1, 20):
        hands.run(1)
        assert hands.clock.now() == NOW + seconds * SECOND // 2
    hands.run(1)
    assert hands.clock.now() == hands.wall == NOW + 10 * SECOND
    hands.run(1)
    assert hands.clock.now() == hands.wall


def test_half_speed_does_not_depend_on_how_often_it_is_asked(hands: Hands) -> None:
    """No half of a nanosecond is lost."""
    hands.clock.now()
    hands.set(-3600)
    for _ in range(1001):
        hands.wall += 1
        hands.steady += 1
        hands.clock.now()
    assert hands.clock.now() == NOW + 500


def test_they_go_on_after_the_last_before_a_restart(hands: Hands) -> None:
    """At half speed if that is ahead of the wall clock; what is behind changes nothing."""
    hands.clock.resume(NOW + 100 * SECOND)
    assert hands.clock.now() == NOW + 100 * SECOND
    hands.run(4)
    hands.clock.resume(NOW + 101 * SECOND)
    assert hands.clock.now() == NOW + 102 * SECOND
    hands.clock.resume(0)
    assert hands.clock.now() == NOW + 102 * SECOND


def test_another_machines_clock_may_be_the_wall_clock(hands: Hands) -> None:
    """The steady one is this machine's."""
    assert hands.clock.now(77) == 77
    hands.run(10)
    assert hands.clock.now(60) == 77 + 5 * SECOND


def test_threads_never_see_it_go_back() -> None:
    """A caller that asks after another was answered gets no earlier time."""
    wall = [NOW]
    clock = Clock(lambda: wall[0])
    last, wrong = [0], []
    lock = threading.Lock()

    def ask() -> None:
        for _ in range(3000):
            with lock:
                before = last[0]
            now = clock.now()
            with lock:
                if now < before:
                    wrong.append((before, now))
                last[0] = max(last[0], now)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for seconds in (7200, -7200, 30, -600):
        time.sleep(0.002)
        wall[0] += seconds * SECOND
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_steady_clock_runs() -> None:
    """It is no wall clock."""
    before = steady_ns()
    time.sleep(0.01)
    assert 5_000_000 < steady_ns() - before < 5 * SECOND
    assert abs(time.time_ns() - before) > 1000 * SECOND


@pytest.mark.parametrize("seconds", [7200, 1, -1, -600])
def test_a_step_of_a_second_or_more_is_seen(hands: Hands, seconds: int) -> None:
    """Once, with its size; the sum since the last `settle` is kept."""
    hands.steps.look()
    hands.steps.settle()
    hands.run(3600)
    assert hands.steps.look() == 0
    assert hands.steps.set_by is None
    assert not hands.steps.has_stepped_within(60)
    old_offset = hands.steps.offset
    hands.set(seconds)
    assert hands.steps.look() == seconds * SECOND == hands.steps.offset - old_offset
    assert hands.steps.look() == 0
    hands.set(-3 * seconds)
    hands.steps.look()
    assert hands.steps.set_by == -2 * seconds * SECOND
    hands.run(59)
    assert hands.steps.has_stepped_within(60)
    hands.run(1)
    assert not hands.steps.has_stepped_within(60)


def test_less_than_a_second_is_no_step(hands: Hands) -> None:
    """Nor is a clock that runs a little too fast."""
    hands.steps.look()
    for _ in range(10):
        hands.run(1)
        hands.set(0.5)
        assert hands.steps.look() == 0


def test_an_answer_that_came_late_is_no_step(hands: Hands) -> None:
    """It may be from any moment since it was asked for; only what no such moment explains is a step."""
    assert hands.steps.look(hands.wall, hands.steady) == 0
    asked_at, answer = hands.steady, hands.wall
    hands.run(30)
    assert hands.steps.look(answer, asked_at) == 0
    assert hands.steps.look(hands.wall, hands.steady) == 0
    asked_at, answer = hands.steady, hands.wall
    hands.run(5)
    assert hands.steps.look(answer + 36 * SECOND, asked_at) == 31 * SECOND
    assert hands.steps.look(hands.wall, hands.steady) == -31 * SECOND
