"""GrpcForkGuard: keeps threads out of grpc while their process forks."""

import threading
import time
from collections.abc import Callable

from emitd.runtime.fork_guards import GrpcForkGuard


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class Inside:
    """A thread that is inside until it is told to leave."""

    def __init__(self, gate: GrpcForkGuard) -> None:
        self._gate = gate
        self.is_inside = threading.Event()
        self.leave = threading.Event()
        self.thread = in_thread(self._run)

    def _run(self) -> None:
        with self._gate:
            self.is_inside.set()
            self.leave.wait(30)


def test_a_shut_gate_lets_no_other_thread_in_until_it_is_opened() -> None:
    """Who comes waits, and enters then."""
    gate = GrpcForkGuard()
    gate.shut()
    late = Inside(gate)
    assert not late.is_inside.wait(0.05)
    gate.open()
    assert late.is_inside.wait(10)
    late.leave.set()


def test_the_thread_that_forks_is_let_in() -> None:
    """A finalizer that runs in it while the gate is shut must not wait for itself."""
    gate = GrpcForkGuard()
    gate.shut()
    with gate:
        pass
    assert gate.wait_until_empty(time.monotonic())


def test_a_gate_that_was_shut_twice_opens_with_the_second_open() -> None:
    """A fork within a fork does not open what the outer one has shut."""
    gate = GrpcForkGuard()
    gate.shut()
    gate.shut()
    gate.open()
    late = Inside(gate)
    assert not late.is_inside.wait(0.05)
    gate.open()
    assert late.is_inside.wait(10)
    late.leave.set()


def test_it_is_empty_when_the_last_has_left() -> None:
    """Who waits for that is told at once."""
    gate = GrpcForkGuard()
    first, second = Inside(gate), Inside(gate)
    assert first.is_inside.wait(10)
    assert second.is_inside.wait(10)
    gate.shut()
    first.leave.set()
    first.thread.join(10)
    assert not gate.wait_until_empty(time.monotonic() + 0.05)
    second.leave.set()
    assert gate.wait_until_empty(time.monotonic() + 30)


def test_the_wait_for_it_to_be_empty_ends_with_its_deadline() -> None:
    """Also one that is over already."""
    gate = GrpcForkGuard()
    inside = Inside(gate)
    assert inside.is_inside.wait(10)
    assert not gate.wait_until_empty(time.monotonic() - 1)
    inside.leave.set()
    assert gate.wait_until_empty(time.monotonic() + 30)


def test_an_exception_leaves_the_gate_too() -> None:
    """Nobody is inside after it."""
    gate = GrpcForkGuard()
    try:
        with gate:
            raise ValueError
    except ValueError:
        assert gate.wait_until_empty(time.monotonic())
