"""The client's `LineQueue`: log lines that wait to be sent."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from emitd.sending.line_queue import Line, LineBatch, LineQueue
from emitd.settings import ClientSettings

#: Long enough never to pass within a test.
LONG = 60.0
_numbers = itertools.count()


def make(on_drop: Callable[[int], None] = lambda level: None, **settings: Any) -> LineQueue:
    return LineQueue(ClientSettings(**({"linger": LONG} | settings)), on_drop)


def line(size: int = 1, level: int = 20) -> Line:
    return Line(f"r{next(_numbers)}", 0, level, "", b"", b"", b"", size)


def put(queue: LineQueue, count: int, size: int = 1) -> list[Line]:
    lines = [line(size) for _ in range(count)]
    for each in lines:
        queue.put(each)
    return lines


@contextmanager
def taking(queue: LineQueue, when: Callable[[], bool]) -> Iterator[list[LineBatch | None]]:
    """Take one batch in another thread, which waits by the time the block begins; it is there after the block."""
    taken: list[LineBatch | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    until(when)
    yield taken
    thread.join(10)
    assert taken, "nothing was taken"


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def idle(queue: LineQueue) -> Callable[[], bool]:
    return lambda: queue._idle == 1


def lingering(queue: LineQueue) -> Callable[[], bool]:
    return lambda: queue._lingers


class TestBatches:
    def test_a_batch_is_due_when_it_is_full(self) -> None:
        """By the number of its lines, and the rest waits for the next."""
        queue = make(batch_records=3)
        lines = put(queue, 7)
        assert [queue.take().lines for _ in range(2)] == [lines[:3], lines[3:6]]  # type: ignore[union-attr]
        assert len(queue) == 1

    def test_a_batch_is_due_when_it_is_large(self) -> None:
        """By its bytes, which it has no more of than it may."""
        queue = make(batch_bytes=10)
        lines = put(queue, 3, size=4)
        batch = queue.take()
        assert batch is not None
        assert batch.lines == lines[:2]
        assert (len(queue), queue.size_bytes) == (1, 4)

    def test_a_line_larger_than_a_batch_goes_alone(self) -> None:
        """Rather than never."""
        queue = make(batch_bytes=10)
        lines = put(queue, 2, size=25)
        assert [queue.take().lines for _ in range(2)] == [lines[:1], lines[1:]]  # type: ignore[union-attr]

    def test_a_batch_is_due_when_it_is_old(self) -> None:
        """A line waits no longer than it may, and not much less, so that others can join it."""
        queue = make(linger=0.05)
        begun = time.monotonic()
        lines = put(queue, 2)
        batch = queue.take()
        assert batch is not None
        assert batch.lines == lines
        assert time.monotonic() - begun >= 0.05

    def test_the_rest_of_a_batch_lingers_anew(self) -> None:
        """It is younger than those before it."""
        queue = make(batch_records=2, linger=0.1)
        put(queue, 1)
        time.sleep(0.06)
        put(queue, 2)
        queue.take()
        begun = time.monotonic()
        queue.take()
        assert time.monotonic() - begun >= 0.09

    def test_the_rest_of_a_batch_is_another_sender_s(self) -> None:
        """One that waited for nothing so far: whoever took the batch is busy with it."""
        queue = make(batch_records=2)
        put(queue, 1)
        with taking(queue, lingering(queue)) as first, taking(queue, idle(queue)) as second:
            with queue._lock:
                put(queue, 2)
            until(lambda: bool(first))
            until(lingering(queue))
            queue.wake()
        assert [len(batch.lines) for batch in (*first, *second) if batch] == [2, 1]

    @pytest.mark.parametrize(
        ("action", "count"),
        [
            (lambda queue: put(queue, 2), 3),
            (lambda queue: put(queue, 1, size=10), 2),
            (lambda queue: queue.wake(), 1),
            (lambda queue: queue.wake_if_free(), 1),
            (lambda queue: queue.flush(0), 1),
            (lambda queue: queue.nudge(), 1),
            (lambda queue: queue.close(), 1),
            (lambda queue: put(queue, 1, size=99), 1),
        ],
        ids=["count", "bytes", "wake", "wake_if_free", "flush", "nudge", "close", "no room"],
    )
    def test_what_ends_the_wait_for_a_fuller_batch(
        self, action: Callable[[LineQueue], object], count: int
    ) -> None:
        """It is full, or somebody waits for it, or there is no room for what comes next."""
        queue = make(batch_records=3, batch_bytes=11, max_queue_bytes=99)
        put(queue, 1)
        with taking(queue, lingering(queue)) as taken:
            action(queue)
        assert [len(batch.lines) for batch in taken if batch] == [count]

    def test_a_sender_that_waits_is_woken_by_the_first_line(self) -> None:
        """And takes it as soon as it is due."""
        queue = make(linger=0.01)
        with taking(queue, idle(queue)) as taken:
            lines = put(queue, 1)
        assert [batch.lines for batch in taken if batch] == [lines]

    def test_one_sender_lingers_and_the_others_wait_for_a_full_batch(self) -> None:
        """Each batch goes to one of them."""
        queue = make(batch_records=2)
        put(queue, 1)
        with taking(queue, lingering(queue)) as first, taking(queue, idle(queue)) as second:
            put(queue, 3)
        sizes = [len(batch.lines) for batch in (*first, *second) if batch]
        assert sizes == [2, 2]

    def test_a_nudge_makes_one_batch_even_of_nothing(self) -> None:
        """Something else than a line is to be sent, once."""
        queue = make()
        queue.nudge()
        batch = queue.take()
        assert batch is not None
        assert batch.lines == []
        assert queue.take(may_wait=False) is None

    def test_a_nudge_wakes_a_sender_that_waits(self) -> None:
        """For a first line, which may never come."""
        queue = make()
        with taking(queue, idle(queue)) as taken:
            queue.nudge()
        assert [batch.lines for batch in taken if batch] == [[]]

    def test_without_waiting_there_is_what_there_is(self) -> None:
        """However young; or nothing."""
        queue = make(batch_records=2)
        assert queue.take(may_wait=False) is None
        lines = put(queue, 3)
        found = [queue.take(may_wait=False) for _ in range(3)]
        assert [batch and batch.lines for batch in found] == [lines[:2], lines[2:], None]


class TestStarting:
    def test_the_first_line_starts_a_sender(self) -> None:
        """Those after it do not, until there is a batch for another."""
        queue = make(batch_records=3)
        assert [queue.put(line()) for _ in range(7)] == [True, False, True, False, False, True, False]

    def test_a_large_batch_starts_a_sender(self) -> None:
        """Once, when it has become so large."""
        queue = make(batch_bytes=10)
        assert [queue.put(line(4)) for _ in range(5)] == [True, False, True, False, False]

    def test_where_one_waits_none_is_started(self) -> None:
        """For a line, for a full batch, or for a nudge."""
        queue = make(batch_records=2)
        for action in (lambda: queue.put(line()), queue.nudge):
            with taking(queue, idle(queue)):
                assert action() is False
                queue.wake()
        put(queue, 1)
        with taking(queue, lingering(queue)):
            assert queue.put(line()) is False
        put(queue, 1)
        with taking(queue, lingering(queue)):
            assert queue.nudge() is False

    def test_a_nudge_starts_one_where_none_waits(self) -> None:
        """Somebody has to come by."""
        assert make().nudge() is True

    def test_a_line_that_was_dropped_starts_none(self) -> None:
        """There is nothing more to send than before."""
        queue = make(max_queue_records=1)
        assert [queue.put(line()) for _ in range(2)] == [True, False]

    def test_it_is_crowded_while_a_full_batch_waits_for_nobody(self) -> None:
        """A sender that leaves one behind should have others started."""
        queue = make(batch_records=2)
        assert not queue.is_crowded
        put(queue, 1)
        assert not queue.is_crowded
        put(queue, 1)
        assert queue.is_crowded
        queue.drain()
        with taking(queue, idle(queue)), queue._lock:
            put(queue, 2)
            assert not queue.is_crowded


class TestOverflow:
    @pytest.mark.parametrize("limit", [{"max_queue_records": 3}, {"max_queue_bytes": 30}])
    @pytest.mark.parametrize(
        ("overflow", "kept", "dropped"),
        [("drop_newest", [10, 20, 30], [40, 50]), ("drop_oldest", [30, 40, 50], [10, 20])],
    )
    def test_the_policy_says_which_line_is_dropped(
        self, limit: dict[str, int], overflow: str, kept: list[int], dropped: list[int]
    ) -> None:
        """Beyond the limit of lines as of bytes; each is told by its level, in order."""
        told: list[int] = []
        queue = make(told.append, overflow=overflow, **limit)
        for level in (10, 20, 30, 40, 50):
            queue.put(line(10, level))
        assert [each.level for each in queue.drain()] == kept
        assert told == dropped

    def test_a_large_line_takes_the_room_of_several(self) -> None:
        """As many of the oldest go as it takes, and no more."""
        told: list[int] = []
        queue = make(told.append, overflow="drop_oldest", max_queue_bytes=30)
        for level in (10, 20, 30):
            queue.put(line(10, level))
        queue.put(line(20, 40))
        assert ([each.level for each in queue.drain()], told) == ([30, 40], [10, 20])

    @pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "block(60)"])
    def test_a_line_that_never_fits_is_the_only_one_dropped(self, overflow: str) -> None:
        """At once: no other could make room for it, and no waiting."""
        told: list[int] = []
        queue = make(told.append, overflow=overflow, max_queue_bytes=30)
        kept = put(queue, 3, size=10)
        queue.put(line(31, 50))
        assert (queue.drain(), told) == (kept, [50])

    def test_what_just_fits_is_kept(self) -> None:
        """The limit itself is no overflow."""
        queue = make(max_queue_bytes=30, max_queue_records=3)
        assert queue.drain() == [] != put(queue, 3, size=10)
        assert (len(queue), queue.size_bytes) == (3, 30)

    def test_blocking_waits_for_room(self) -> None:
        """Which whoever takes a batch, or all, makes."""
        for make_room in (LineQueue.take, LineQueue.drain):
            queue = make(overflow="block(60)", max_queue_records=1, batch_records=1)
            put(queue, 1)
            blocked = threading.Thread(target=put, args=(queue, 1))
            blocked.start()
            until(lambda queue=queue: bool(queue._has_room._waiters))  # type: ignore[misc]
            assert len(queue) == 1
            make_room(queue)
            blocked.join(10)
            assert len(queue) == 1

    def test_blocking_ends_with_a_drop_when_time_is_up(self) -> None:
        """After its time, not before."""
        told: list[int] = []
        queue = make(told.append, overflow="block(0.05)", max_queue_records=1)
        kept = put(queue, 1)
        begun = time.monotonic()
        queue.put(line(level=50))
        assert time.monotonic() - begun >= 0.05
        assert (queue.drain(), told) == (kept, [50])

    def test_who_may_not_block_does_not(self) -> None:
        """Such as an event loop's thread."""
        told: list[int] = []
        queue = make(told.append, overflow="block(60)", max_queue_records=1)
        put(queue, 1)
        queue.put(line(level=50), may_block=False)
        assert told == [50]

    def test_closing_ends_all_blocking(self) -> None:
        """For who waits already, and for who comes later."""
        told: list[int] = []
        queue = make(told.append, overflow="block(60)", max_queue_records=1)
        put(queue, 1)
        blocked = threading.Thread(target=put, args=(queue, 1))
        blocked.start()
        until(lambda: bool(queue._has_room._waiters))
        queue.close()
        blocked.join(10)
        put(queue, 1)
        assert told == [20, 20]

    def test_a_drop_is_told_outside_of_the_lock(self) -> None:
        """Whoever is told may print, to a standard error that logs, for which another thread may wait in here."""
        is_free: list[bool] = []

        def told(level: int) -> None:
            thread = threading.Thread(target=queue.wake)
            thread.start()
            thread.join(30)
            is_free.append(not thread.is_alive())

        queue = make(told, overflow="drop_oldest", max_queue_records=1)
        put(queue, 2)
        assert is_free == [True]

    def test_who_is_told_may_log(self) -> None:
        """In the same thread, as a signal handler may at any time."""
        told: list[int] = []

        def note(level: int) -> None:
            told.append(level)
            if len(told) < 3:
                queue.put(line(level=level + 1))

        queue = make(note, max_queue_records=1)
        put(queue, 1)
        with queue._lock:
            queue.put(line(level=30))
        assert told == [30, 31, 32]


class TestFlush:
    def test_an_empty_queue_is_flushed(self) -> None:
        """Without anybody there to send."""
        assert make().flush(0)

    def test_it_waits_until_each_line_so_far_is_settled(self) -> None:
        """Taken is not enough; batches may be resolved in any order."""
        queue = make(batch_records=2)
        put(queue, 4)
        first, second = queue.take(), queue.take()
        assert first is not None
        assert second is not None
        assert not queue.flush(0)
        queue.resolve(second)
        assert not queue.flush(0)
        queue.resolve(first)
        assert queue.flush(0)

    def test_later_lines_do_not_hold_it_up(self) -> None:
        """Else it would never end in a program that logs all the time."""
        queue = make(batch_records=1)
        put(queue, 1)
        batch = queue.take()
        assert batch is not None
        flushed: list[bool] = []
        thread = threading.Thread(target=lambda: flushed.append(queue.flush(time.monotonic() + 10)))
        thread.start()
        until(lambda: bool(queue._resolved._waiters))
        put(queue, 5)
        queue.resolve(batch)
        thread.join(10)
        assert flushed == [True]

    def test_it_returns_false_when_time_is_up(self) -> None:
        """A deadline by the monotonic clock."""
        queue = make()
        put(queue, 1)
        begun = time.monotonic()
        assert not queue.flush(begun + 0.05)
        assert time.monotonic() - begun >= 0.05

    def test_it_can_wait_for_ever(self) -> None:
        """Or longer than threads can be told to."""
        for deadline in (float("inf"), 1e300):
            queue = make(linger=0)
            put(queue, 1)
            with taking(queue, lambda: True) as taken:
                thread = threading.Thread(target=queue.flush, args=(deadline,))
                thread.start()
            (batch,) = taken
            assert batch is not None
            queue.resolve(batch)
            thread.join(10)
            assert not thread.is_alive()

    @pytest.mark.parametrize("action", ["drain", "drop"])
    def test_dropped_lines_are_settled(self, action: str) -> None:
        """By whoever gives them up, or by newer ones: nobody waits for them any more."""
        queue = make(overflow="drop_oldest", max_queue_records=1)
        put(queue, 1)
        flushed: list[bool] = []
        thread = threading.Thread(target=lambda: flushed.append(queue.flush(time.monotonic() + 10)))
        thread.start()
        until(lambda: bool(queue._resolved._waiters))
        if action == "drain":
            queue.drain()
        else:
            put(queue, 1)
        thread.join(30)
        assert flushed == [True]


class TestEnd:
    def test_a_closed_queue_gives_what_it_has_and_then_none(self) -> None:
        """Without waiting for a batch to fill."""
        queue = make()
        lines = put(queue, 2)
        queue.close()
        batch = queue.take()
        assert batch is not None
        assert batch.lines == lines
        assert queue.take() is None

    def test_closing_ends_every_wait(self) -> None:
        """Of senders for whom there is nothing more."""
        queue = make()
        with taking(queue, idle(queue)) as taken:
            queue.close()
        assert taken == [None]

    def test_later_lines_can_still_be_taken(self) -> None:
        """Whoever writes at the end of the program sends by itself."""
        queue = make()
        queue.close()
        lines = put(queue, 1)
        batch = queue.take()
        assert batch is not None
        assert batch.lines == lines

    def test_draining_takes_all_in_order(self) -> None:
        """And leaves the queue as if nothing had been in it."""
        queue = make(batch_records=2)
        lines = put(queue, 5)
        batch = queue.take()
        assert batch is not None
        assert queue.drain() == lines[2:]
        assert (len(queue), queue.size_bytes, list(queue.drain())) == (0, 0, [])
        queue.resolve(batch)
        assert queue.flush(0)

    def test_waking_it_never_waits_for_another_thread(self) -> None:
        """For who holds a lock that the thread in here may want."""
        queue = make()
        inside, leave = threading.Event(), threading.Event()

        def stay() -> None:
            with queue._lock:
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=stay)
        thread.start()
        inside.wait(10)
        begun = time.monotonic()
        queue.wake_if_free()
        took = time.monotonic() - begun
        leave.set()
        thread.join()
        assert took < 5


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "block(0.01)"])
def test_no_line_is_lost_or_doubled_among_threads(overflow: str) -> None:
    """Four that write, three that send, one that flushes: each line is delivered or dropped, once, and in order."""
    dropped: list[int] = []
    queue = make(
        dropped.append,
        overflow=overflow,
        max_queue_records=50,
        max_queue_bytes=300,
        batch_records=16,
        batch_bytes=60,
        linger=0.001,
    )
    batches: list[LineBatch] = []
    too_many: list[int] = []

    def write(writer: int) -> None:
        for number in range(3_000):
            # Its level says who wrote a line, its time in which order.
            queue.put(Line("", number, writer, "", b"", b"", b"", 1 + number % 13))

    def send() -> None:
        while (batch := queue.take()) is not None:
            batches.append(batch)
            too_many.extend(number for number in (len(queue) - 50, queue.size_bytes - 300) if number > 0)
            too_many.extend([1] if sum(each.size for each in batch.lines) > 60 else [])
            queue.resolve(batch)

    senders = [threading.Thread(target=send) for _ in range(3)]
    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in (*senders, *writers):
        thread.start()
    assert queue.flush(time.monotonic() + 30)
    for thread in writers:
        thread.join(30)
    assert queue.flush(time.monotonic() + 30)
    delivered = sum(len(batch.lines) for batch in batches)
    assert delivered + len(dropped) == 12_000
    queue.close()
    for thread in senders:
        thread.join(30)
    assert (delivered, too_many) == (sum(len(batch.lines) for batch in batches), [])
    in_order = [each for batch in sorted(batches, key=lambda batch: batch.number) for each in batch.lines]
    for writer in range(4):
        numbers = [each.time_unix_nano for each in in_order if each.level == writer]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + dropped.count(writer) == 3_000
