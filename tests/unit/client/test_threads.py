"""`Senders`: the threads that send, and threads that send for themselves."""

import math
import threading
import time
from collections.abc import Iterator

import pytest

from emitd.runtime import process_hooks
from emitd.runtime.threads import Senders, is_sender, sending_by_itself, sending_deadline


class Work:
    """What senders run: it lasts until it is released."""

    def __init__(self, max_threads: int) -> None:
        self.release = threading.Event()
        self.senders = Senders("test", self._run, max_threads)
        self.were_senders: list[bool] = []

    def _run(self) -> None:
        self.were_senders.append(is_sender())
        self.release.wait(10)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work(max_threads=2)
    yield work
    work.release.set()
    assert work.senders.join(time.monotonic() + 10)


def test_one_more_thread_is_started_each_time_up_to_the_limit(work: Work) -> None:
    """There are never more than the limit, and `start` tells that there are some."""
    assert [(work.senders.start(), len(work.senders.threads)) for _ in range(3)] == [
        (True, 1),
        (True, 2),
        (True, 2),
    ]


def test_a_thread_that_has_returned_makes_room(work: Work) -> None:
    """When its work is done a thread counts no more, and another can be started."""
    work.senders.start()
    work.release.set()
    assert work.senders.join(time.monotonic() + 10)
    assert len(work.senders.threads) == 0
    assert work.senders.start()


def test_a_thread_whose_work_raises_makes_room(capfd: pytest.CaptureFixture[str]) -> None:
    """An error of the work ends its thread, is reported, and does not take its place for ever."""
    senders = Senders("test", lambda: 1 // 0, 1)
    senders.start()
    assert senders.join(time.monotonic() + 10)
    assert len(senders.threads) == 0
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_threads_are_daemons_with_names(work: Work) -> None:
    """They do not keep the program alive, and a debugger shows whose they are."""
    work.senders.start()
    (thread,) = work.senders.threads
    assert (thread.name, thread.daemon) == ("test-1", True)


def test_senders_know_that_they_are(work: Work) -> None:
    """What they log themselves must not become more to send; others may."""
    work.senders.start()
    work.release.set()
    work.senders.join(time.monotonic() + 10)
    assert work.were_senders == [True]
    assert not is_sender()


def test_joining_takes_no_longer_than_until_the_deadline(work: Work) -> None:
    """However many threads there are, they share the time."""
    work.senders.start()
    work.senders.start()
    began = time.monotonic()
    assert not work.senders.join(began + 2.0)
    assert 2.0 <= time.monotonic() - began < 3.9


def test_a_sender_that_joins_does_not_wait_for_itself() -> None:
    """A client may be closed from a thread that sends, such as by a finalizer."""
    done: list[bool] = []
    senders = Senders("test", lambda: done.append(senders.join(time.monotonic() + 10)), 1)
    began = time.monotonic()
    senders.start()
    assert senders.join(began + 5)
    assert done == [True]
    assert time.monotonic() - began < 5


def test_where_no_thread_can_be_started_there_is_none(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """`start` says so, and the next try is not spoiled by the one that failed."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not work.senders.start()
        assert len(work.senders.threads) == 0
    assert work.senders.start()


def test_no_thread_is_started_at_the_end_of_the_program(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run are used, and none is added."""
    work.senders.start()
    monkeypatch.setattr(process_hooks, "_ending_since", time.monotonic())
    assert work.senders.start()
    assert len(work.senders.threads) == 1
    assert not Senders("test", lambda: None, 1).start()


def test_a_thread_can_send_for_itself() -> None:
    """Within the block it is a sender, until the deadline of whoever waits longest for it; afterwards as before."""
    assert sending_deadline() == math.inf
    with sending_by_itself(2000.0):
        assert is_sender()
        with sending_by_itself(1000.0):
            assert sending_deadline() == 1000.0
        with sending_by_itself(3000.0):
            assert sending_deadline() == 2000.0
        assert is_sender()
    assert not is_sender()
    assert sending_deadline() == math.inf
