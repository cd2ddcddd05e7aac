"""`Track`: a loop that is a job, over any reporter; and what it shares with its asynchronous twin."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

import pytest

from emitd import ClientNotOpen
from emitd.errors import JobNotApplied, LeaseLost
from emitd.jobs.track import Track
from emitd.records.exceptions import failure_message, failure_reason


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self, job_id: str, total: int | None) -> None:
        self.job_id = job_id
        self.total = total
        self.told: list[str] = []
        self.is_lost = False
        self.entering_fails: Exception | None = None
        self.end_fails: Exception | None = None
        self.ended_by: BaseException | None = None
        #: Called while the job begins, and while it ends.
        self.on_enter: Any = None
        self.on_exit: Any = None

    def advance(self, steps: int = 1, /) -> None:
        self.told.append("+" * steps)

    def refuse_if_lost(self) -> None:
        if self.is_lost:
            raise LeaseLost(self.job_id, "SUPERSEDED")

    def __enter__(self) -> Self:
        if self.on_enter is not None:
            self.on_enter()
        if self.entering_fails is not None:
            raise self.entering_fails
        self.told.append("RUNNING")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.ended_by = exception
        if self.on_exit is not None:
            self.on_exit()
        if exception is None:
            self.told.append("COMPLETED")
            if self.end_fails is not None:
                raise self.end_fails
        else:
            assert kind is type(exception)
            self.told.append(f"{failure_reason(exception)}: {failure_message(exception)}")


def track(
    items: Iterable[Any], job_id: str | None = None, total: int | None = None
) -> "Track[Any, Recorder]":
    return Track(items, Recorder, job_id=job_id, total=total)


def keeping(made: list[Recorder]) -> Callable[[str, int | None], Recorder]:
    """Makes reporters that outlive their track."""

    def make(job_id: str, total: int | None) -> Recorder:
        made.append(Recorder(job_id, total))
        return made[-1]

    return make


class Unmeasured:
    """Two items, whose length raises or is no length."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def __len__(self) -> int:
        if self._error is not None:
            raise self._error
        return -1

    def __length_hint__(self) -> int:
        return 10**9

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


def refusing(job_id: str, total: int | None) -> Recorder:
    raise ValueError("no job")


def failing(count: int, error: BaseException) -> Iterator[int]:
    yield from range(count)
    raise error


class TestLoop:
    def test_the_end_of_the_items_is_the_end_of_the_job(self) -> None:
        """Begun before the first item; a step is done when the next item is asked for; COMPLETED after the last."""
        items = track([1, 2])
        job = items.job
        assert job.told == []
        seen = []
        for item in items:
            seen.append((item, list(job.told)))
        assert seen == [(1, ["RUNNING"]), (2, ["RUNNING", "+"])]
        assert job.told == ["RUNNING", "+", "+", "COMPLETED"]
        assert list(items) == []
        items.close()
        assert job.told[-1] == "COMPLETED"

    def test_an_id_is_random_unless_it_is_given(self) -> None:
        """So that two loops at once are two jobs."""
        assert track([], job_id="nightly").job.job_id == "nightly"
        ids = {track([]).job.job_id for _ in range(100)}
        assert len(ids) == 100
        assert all(len(job_id) == 32 for job_id in ids)

    @pytest.mark.parametrize(
        ("items", "given", "total"),
        [
            ([1, 2, 3], None, 3),
            ({1: 2}, None, 1),
            (range(7), None, 7),
            ([1, 2, 3], 10, 10),
            (iter([1, 2, 3]), None, None),
            (iter([1, 2, 3]), 3, 3),
            ([], None, 0),
            ([1, 2, 3], 0, 0),
            (range(10**20), None, None),
            (Unmeasured(), None, None),
        ],
    )
    def test_the_number_of_steps_is_that_of_the_items(
        self, items: Iterable[Any], given: int | None, total: int | None
    ) -> None:
        """If they know it; what a step means for the percentage, the reporter knows."""
        looped = track(items, total=given)
        assert looped.job.total == total
        count = len(list(islice(looped, 9)))
        assert looped.job.told.count("+") == min(count, 8)  # the 9th is under way

    @pytest.mark.parametrize(
        "error", [RuntimeError("no"), OverflowError(), KeyError("x"), NotImplementedError()]
    )
    def test_a_length_that_raises_is_unknown(self, error: Exception) -> None:
        """The items may be looped over all the same."""
        items = track(Unmeasured(error))
        assert list(items) == [1, 2]
        assert items.job.told == ["RUNNING", "+", "+", "COMPLETED"]

    @pytest.mark.parametrize("total", [1, 100])
    def test_the_items_may_be_more_or_fewer_than_was_said(self, total: int) -> None:
        """The end of the items ends the job."""
        items = track(range(3), total=total)
        assert list(items) == [0, 1, 2]
        assert items.job.told == ["RUNNING", "+", "+", "+", "COMPLETED"]

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (ValueError("row 3 is bad"), "ValueError: row 3 is bad"),
            (KeyboardInterrupt(), "KeyboardInterrupt: "),
        ],
    )
    def test_items_that_raise_fail_the_job(self, error: BaseException, told: str) -> None:
        """FAILED with what they raised, which goes on."""
        items = track(failing(2, error), total=3)
        with pytest.raises(type(error)):
            list(items)
        assert items.job.told == ["RUNNING", "+", "+", told]
        assert list(items) == []

    def test_what_cannot_be_looped_over_fails_the_job(self) -> None:
        """A bug of the caller's is raised in the loop, and leaves no job RUNNING."""
        items = track(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not iterable"):
            next(items)
        assert items.job.told[-1].startswith("TypeError: ")

    def test_a_loop_left_by_break_is_incomplete(self) -> None:
        """At once: nobody holds its track any more. The message says how far it was."""
        made: list[Recorder] = []
        for item in Track(range(10), keeping(made)):
            if item == 3:
                break
        assert made[0].told[-1] == "INCOMPLETE: left after 3 of 10 items"

    def test_a_loop_left_by_an_exception_is_incomplete(self) -> None:
        """Before whoever catches it goes on: from within the loop it looks like a `break`."""
        made: list[Recorder] = []
        with pytest.raises(ValueError, match="body"):
            for item in Track(iter(range(10)), keeping(made)):
                if item == 3:
                    raise ValueError("body")
        assert made[0].told == ["RUNNING", "+", "+", "+", "INCOMPLETE: left after 3 items"]

    def test_a_track_under_a_name_goes_on(self) -> None:
        """A second loop takes the items that are left, as with any iterator."""
        items = track(range(4))
        for item in items:
            if item == 1:
                break
        assert "INCOMPLETE" not in str(items.job.told)
        assert list(items) == [2, 3]
        assert items.job.told == ["RUNNING", "+", "+", "+", "+", "COMPLETED"]

    def test_a_job_that_cannot_begin_takes_no_item(self) -> None:
        """The loop raises why, and nothing is reported of what never ran."""
        source = iter(range(3))
        items = track(source, total=3)
        items.job.entering_fails = JobNotApplied("j", "SUPERSEDED")
        with pytest.raises(JobNotApplied):
            next(items)
        items.close()
        assert (list(source), items.job.told) == ([0, 1, 2], [])

    def test_an_end_that_cannot_be_reported_is_raised(self) -> None:
        """A loop must not look complete where its job is not."""
        items = track([1])
        items.job.end_fails = LeaseLost("j", "ATTEMPT_ENDED")
        next(items)
        with pytest.raises(LeaseLost):
            next(items)

    @pytest.mark.parametrize("total", [None, 10])
    def test_a_lost_job_ends_the_loop_with_its_next_step(self, total: int | None) -> None:
        """LeaseLost is raised where the next item is asked for, with and without a percentage; no item is taken."""
        source = iter(range(10))
        items = track(source, total=total)
        next(items)
        items.job.is_lost = True
        with pytest.raises(LeaseLost):
            next(items)
        assert items.job.told[-1].startswith("LeaseLost: ")
        assert next(source) == 1


class TestBlock:
    def test_the_end_of_the_block_is_the_end_of_the_job(self) -> None:
        """What comes after the last item belongs to the job, and fails it."""
        items = track([1, 2])
        with pytest.raises(ValueError, match="commit"), items as looped:
            assert items.job.told == ["RUNNING"]
            assert list(looped) == [1, 2]
            raise ValueError("commit")
        assert items.job.told == ["RUNNING", "+", "+", "ValueError: commit"]
        with track([1]) as looped:
            list(looped)
            assert "COMPLETED" not in looped.job.told
        assert looped.job.told[-1] == "COMPLETED"

    def test_the_block_sees_the_bodys_exception(self) -> None:
        """FAILED with it, and it goes on."""
        items = track(range(10))
        with pytest.raises(ValueError, match="row 3"), items:
            for item in items:
                if item == 3:
                    raise ValueError("row 3")
        assert items.job.told[-1] == "ValueError: row 3"

    def test_a_block_left_early_is_incomplete(self) -> None:
        """Items are left, and nobody took them."""
        with track(range(10)) as items:
            next(items)
        assert items.job.told == ["RUNNING", "INCOMPLETE: left after 0 of 10 items"]
        with pytest.raises(ClientNotOpen, match="its track is closed"):
            next(items)

    def test_items_that_raise_in_a_block_fail_the_job_once(self) -> None:
        """The block's end reports nothing more."""
        items = track(failing(1, OSError("gone")))
        with pytest.raises(OSError, match="gone"), items:
            list(items)
        assert items.job.told == ["RUNNING", "+", "OSError: gone"]

    @pytest.mark.parametrize("code", [None, 0, False])
    def test_exit_code_0_is_an_end_without_an_exception(self, code: int | None) -> None:
        """With items left it is INCOMPLETE, as after a `break`; after the last one COMPLETED."""
        left = track(range(10))
        with pytest.raises(SystemExit), left:
            next(left)
            sys.exit(code)
        assert left.job.told[-1] == "INCOMPLETE: left after 0 of 10 items"
        done = track(range(2))
        with pytest.raises(SystemExit) as caught, done:
            list(done)
            sys.exit(code)
        assert isinstance(done.job.ended_by, SystemExit)
        assert done.job.ended_by is caught.value  # the reporter judges it
        generated = track(failing(2, SystemExit(code)), total=10)
        with pytest.raises(SystemExit):
            list(generated)
        assert generated.job.told[-1] == "INCOMPLETE: left after 2 of 10 items"

    def test_another_exit_code_is_a_failure(self) -> None:
        """Of the block, and of the items."""
        items = track(range(10))
        with pytest.raises(SystemExit), items:
            sys.exit("no space left")
        assert items.job.told[-1] == "SystemExit: no space left"


class TestClose:
    def test_close_ends_the_job_and_the_loop(self) -> None:
        """As a client does that is closed; the loop must not take its end for the end of the items."""
        items = track(range(10))
        next(items)
        items.close()
        items.close()
        assert items.job.told == ["RUNNING", "INCOMPLETE: left after 0 of 10 items"]
        with pytest.raises(ClientNotOpen, match=r"left after 0 of 10 items: its track is closed"):
            next(items)

    def test_a_track_that_never_began_reports_nothing(self) -> None:
        """Neither closed nor forgotten; and once it is closed, it does not begin."""
        items = track(range(10))
        items.close()
        with pytest.raises(ClientNotOpen):
            next(items)
        job = items.job
        del items
        gc.collect()
        assert job.told == []

    def test_a_track_closed_while_it_begins_ends(self) -> None:
        """By another thread: the job that has just begun is not left RUNNING."""
        items = track(range(10))
        items.job.on_enter = items.close
        with pytest.raises(ClientNotOpen):
            next(items)
        assert items.job.told == ["RUNNING", "INCOMPLETE: left after 0 of 10 items"]

    def test_threads_that_close_at_once_report_one_end(self) -> None:
        """Whoever comes first."""
        for _ in range(50):
            items = track(range(10))
            next(items)
            threads = [threading.Thread(target=items.close) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(items.job.told) == 2

    def test_a_job_that_could_not_be_made_leaves_nothing_to_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The finalizer of a half-made track is silent."""
        unraisable: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
        with pytest.raises(ValueError, match="no job"):
            Track([1], refusing)
        gc.collect()
        assert [
            error for error in unraisable if "Track" in repr(error.object)
        ] == []  # others' garbage is theirs

    def test_the_garbage_collector_does_not_wait_for_the_report(self) -> None:
        """It may run in any thread, such as the one that is to send it: then the report has a thread of its own."""
        made: list[Recorder] = []
        threads: list[threading.Thread] = []
        has_begun = threading.Event()

        def note_thread() -> None:
            threads.append(threading.current_thread())
            has_begun.set()

        held = [Track(range(10), keeping(made))]
        next(held[0])
        made[0].on_exit = note_thread
        collector = threading.Thread(target=held.clear)
        collector.start()
        collector.join()
        assert has_begun.wait(30)
        assert threads[0] not in (collector, threading.current_thread())
        threads[0].join()
        assert made[0].told[-1] == "INCOMPLETE: left after 0 of 10 items"

    def test_a_forked_child_leaves_its_parents_job_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may unwind a copy of the loop, such as by `sys.exit`."""
        items = track(range(10))
        next(items)
        parent = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: parent + 1)
        job = items.job
        items.close()
        del items
        assert job.told == ["RUNNING"]
