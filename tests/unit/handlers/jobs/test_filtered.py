"""FilteredWatch: what those are told who watch many jobs."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from emitd_handlers.errors import HandlerUnavailable, JobQueryInvalid
from emitd_handlers.jobs.paging import job_page, read_job_token
from emitd_handlers.jobs.source import Job, JobChange, JobFilter, JobPage, JobQuery
from emitd_handlers.jobs.watch import filtered as filtered_watch
from emitd_handlers.jobs.watch.filtered import FilteredWatch
from emitd_handlers.record import JobState
from support.processes.virtual_time import VirtualTimeLoop

QUEUED, RUNNING, COMPLETED = JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED

Part = Sequence[JobChange] | None
#: Job, revision, and whether it left.
Told = tuple[str, int, bool]


class Database:
    """Jobs as a database has them, and a filtered_watch over it. What was read from it can be held up on its way."""

    def __init__(self) -> None:
        self.filtered_watch = FilteredWatch(self.list_jobs)
        self.jobs: dict[str, Job] = {}
        self.created = 0
        self.loads: list[Sequence[str]] = []
        self.gate: asyncio.Event | None = None
        self.reading = asyncio.Event()
        self.failure: Exception | None = None

    def commit(self, job_id: str, status: JobState = RUNNING, **fields: Any) -> Job:
        """Change or create a job without telling anybody."""
        known = self.jobs.get(job_id)
        if known is None:
            self.created += 1
        job = Job(
            job_id=job_id,
            job_type="t",
            status=status,
            revision=known.revision + 1 if known else 1,
            create_time_unix_nano=known.create_time_unix_nano if known else self.created,
            **fields,
        )
        self.jobs[job_id] = job
        return job

    def report(self, job_id: str, status: JobState = RUNNING, **fields: Any) -> None:
        """Change or create a job and tell the watchers."""
        self.filtered_watch.publish(self.commit(job_id, status, **fields))

    def remove(self, job_id: str) -> None:
        """Remove a job and tell the watchers."""
        del self.jobs[job_id]
        self.filtered_watch.remove([job_id])

    def hold_up(self) -> asyncio.Event:
        """Let nothing that is read from now on arrive until the event is set."""
        self.gate, self.reading = asyncio.Event(), asyncio.Event()
        return self.gate

    async def list_jobs(self, query: JobQuery) -> JobPage:
        after = read_job_token(query)
        newest_first = sorted(
            self.jobs.values(), key=lambda job: (job.create_time_unix_nano, job.job_id), reverse=True
        )
        jobs = [
            job
            for job in newest_first
            if query.matches(job) and (after is None or (job.create_time_unix_nano, job.job_id) < after)
        ]
        await self._arrive()
        return job_page(query, jobs)

    async def load(self, job_ids: Sequence[str]) -> Sequence[Job]:
        self.loads.append(job_ids)
        jobs = [self.jobs[job_id] for job_id in job_ids if job_id in self.jobs]
        await self._arrive()
        return jobs

    async def _arrive(self) -> None:
        self.reading.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class Reader:
    """One watch, which is asked for one part after the other."""

    def __init__(
        self, database: Database, *, max_jobs: int = 100, seconds: float = 0.0, **wanted: Any
    ) -> None:
        self.parts: AsyncGenerator[Part, None] = database.filtered_watch.watch(
            JobFilter(**wanted), max_jobs=max_jobs, min_interval_seconds=seconds
        )

    def begin(self) -> "asyncio.Task[Part]":
        """Ask for the next part, in a task."""
        return asyncio.create_task(anext(self.parts))  # type: ignore[arg-type]  # a coroutine, it says

    async def next(self) -> list[Told]:
        """The next part, which there must be."""
        async with asyncio.timeout(30):
            return seen(await anext(self.parts))

    async def snapshot(self) -> list[Told]:
        """All parts up to the mark."""
        told: list[Told] = []
        while part := await self.next():
            told += part
        return told

    async def is_told_nothing(self) -> bool:
        """Whether nothing comes, however often the loop turns; the wait goes on in `waiting`."""
        self.waiting = self.begin()
        await turn()
        return not self.waiting.done()

    async def waited(self) -> list[Told]:
        """What ended that wait."""
        async with asyncio.timeout(30):
            return seen(await self.waiting)


def seen(part: Part) -> list[Told]:
    assert part is not None
    return [(change.job_id, change.revision, change.left_filter) for change in part]


async def turn() -> None:
    """Let every task run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def database() -> Database:
    return Database()


async def test_a_snapshot_then_a_mark_then_changes(database: Database) -> None:
    """All jobs come, newest first, then an empty part, then each change by itself with the whole state."""
    database.report("a")
    database.report("b")
    reader = Reader(database)
    assert await reader.next() == [("b", 1, False), ("a", 1, False)]
    assert await reader.next() == []
    database.report("a", progress=7)
    (change,) = await anext(reader.parts) or ()
    assert (change.job, change.left_filter) == (database.jobs["a"], False)
    database.report("c")
    assert await reader.next() == [("c", 1, False)]
    assert await reader.is_told_nothing()


async def test_without_jobs_the_mark_comes_at_once(database: Database) -> None:
    """An empty snapshot is the mark alone."""
    assert await Reader(database).snapshot() == []


async def test_a_large_snapshot_comes_in_parts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages follow each other to the last job, each once."""
    monkeypatch.setattr(filtered_watch, "SNAPSHOT_PAGE_SIZE", 2)
    for number in range(5):
        database.report(f"j{number}")
    reader = Reader(database)
    parts = [await reader.next() for _ in range(4)]
    assert [[job_id for job_id, _, _ in part] for part in parts] == [["j4", "j3"], ["j2", "j1"], ["j0"], []]


async def test_changes_during_the_snapshot_are_told_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a page has already is not told again; what it has not is told after the mark: a change behind the page that
    has the job, a change before it, and a new job.
    """
    monkeypatch.setattr(filtered_watch, "SNAPSHOT_PAGE_SIZE", 2)
    for number in range(4):
        database.report(f"j{number}")
    reader = Reader(database)
    assert await reader.next() == [("j3", 1, False), ("j2", 1, False)]
    database.report("j3")
    database.report("j0")
    database.report("new")
    assert await reader.next() == [("j1", 1, False), ("j0", 2, False)]
    assert await reader.next() == []
    assert await reader.next() == [("j3", 2, False), ("new", 1, False)]
    assert await reader.is_told_nothing()


async def test_what_overtakes_a_page_is_told_after_it(database: Database) -> None:
    """A page that was read before changes arrives after them: the changes and an end of the match are told nonetheless,
    and a job that was removed is not told.
    """
    for job_id in "abc":
        database.report(job_id)
    gate = database.hold_up()
    reader = Reader(database, statuses=(RUNNING,))
    first = reader.begin()
    await database.reading.wait()
    database.report("a", progress=5)
    database.report("b", COMPLETED)
    database.remove("c")
    gate.set()
    assert seen(await first) == [("b", 1, False), ("a", 1, False)]
    assert await reader.next() == []
    assert await reader.next() == [("a", 2, False), ("b", 2, True)]


async def test_a_page_that_is_ahead_of_what_is_published_is_not_taken_back(database: Database) -> None:
    """A page can have a commit that is published only later: nothing older is told after it."""
    database.report("a")
    gate = database.hold_up()
    reader = Reader(database)
    first = reader.begin()
    await database.reading.wait()
    second = database.commit("a")
    gate.set()
    await first
    database.commit("a")
    again = Reader(database)
    assert await again.next() == [("a", 3, False)]
    database.filtered_watch.publish(second)
    database.report("b")
    assert await again.snapshot() == []
    assert await again.next() == [("b", 1, False)]


@pytest.mark.parametrize(
    ("wanted", "matching", "other"),
    [
        ({"statuses": (QUEUED, RUNNING)}, {"status": RUNNING}, {"status": COMPLETED}),
        ({"labels": {"team": "a"}}, {"labels": {"team": "a", "x": "y"}}, {"labels": {"team": "b"}}),
        ({"job_ids": ("j", "k"), "statuses": (RUNNING,)}, {"status": RUNNING}, {"status": QUEUED}),
    ],
)
async def test_a_job_that_matches_no_longer_is_told_once_more(
    database: Database, wanted: dict[str, Any], matching: dict[str, Any], other: dict[str, Any]
) -> None:
    """It comes with its state and `left_filter`, then no more, until it matches again."""
    database.report("j", **matching)
    reader = Reader(database, **wanted)
    assert await reader.snapshot() == [("j", 1, False)]
    database.report("j", **other)
    (change,) = await anext(reader.parts) or ()
    assert change == JobChange("j", 2, database.jobs["j"], left_filter=True)
    database.report("j", **other)
    assert await reader.is_told_nothing()
    database.report("j", **matching)
    assert await reader.waited() == [("j", 4, False)]


async def test_a_late_report_does_not_hide_a_newer_one(database: Database) -> None:
    """Two changes that are published the wrong way round are told as the later, of a known job and of another."""
    database.report("a")
    reader = Reader(database, statuses=(RUNNING,))
    await reader.snapshot()
    late_a, late_b = database.commit("a", COMPLETED), database.commit("b", QUEUED)
    database.report("a")
    database.report("b")
    database.filtered_watch.publish(late_a)
    database.filtered_watch.publish(late_b)
    assert await reader.next() == [("a", 3, False), ("b", 2, False)]


async def test_only_what_matches_in_every_respect_is_told(database: Database) -> None:
    """Type, status, id and labels all count, in the snapshot and after it."""
    wanted = {"job_type": "t", "statuses": (RUNNING,), "job_ids": ("j", "k"), "labels": {"team": "a"}}
    database.report("j", labels={"team": "a"})
    database.report("other", labels={"team": "a"})
    reader = Reader(database, **wanted)
    assert await reader.snapshot() == [("j", 1, False)]
    database.report("k", QUEUED, labels={"team": "a"})
    database.report("k")
    database.report("other", labels={"team": "a"})
    assert await reader.is_told_nothing()
    database.report("k", labels={"team": "a"})
    assert await reader.waited() == [("k", 3, False)]
    foreign = Reader(database, **wanted | {"job_type": "u"})
    assert await foreign.snapshot() == []
    database.report("k", labels={"team": "a"})
    assert await foreign.is_told_nothing()


async def test_ids_may_be_given_before_the_jobs_exist(database: Database) -> None:
    """Such a job is told when it is created."""
    reader = Reader(database, job_ids=("later",))
    assert await reader.snapshot() == []
    database.report("other")
    assert await reader.is_told_nothing()
    database.report("later")
    assert await reader.waited() == [("later", 1, False)]


async def test_a_removed_job_is_told_without_its_state(database: Database) -> None:
    """It comes with the revision it was last told with, and `left_filter`; who was not told of it hears nothing."""
    database.report("a")
    database.report("b", COMPLETED)
    reader = Reader(database, statuses=(RUNNING,))
    await reader.snapshot()
    database.remove("a")
    database.remove("b")
    assert await anext(reader.parts) == [JobChange("a", 1, None, left_filter=True)]
    database.report("c")
    database.remove("c")
    assert await reader.is_told_nothing()


async def test_a_job_that_is_made_anew_under_its_id_replaces_the_old_one(database: Database) -> None:
    """Its revisions begin anew, so it is told as one that left and one that came."""
    database.report("a")
    database.report("a")
    reader = Reader(database)
    assert await reader.snapshot() == [("a", 2, False)]
    database.remove("a")
    database.report("a")
    assert await reader.next() == [("a", 2, True), ("a", 1, False)]
    database.report("a")
    assert await reader.next() == [("a", 2, False)]


async def test_a_job_that_was_removed_and_told_is_told_as_new(database: Database) -> None:
    """Its removal is told once; one made anew that does not match is not told at all."""
    database.report("a")
    database.report("b")
    reader = Reader(database, statuses=(RUNNING,))
    await reader.snapshot()
    database.remove("a")
    assert await reader.next() == [("a", 1, True)]
    database.report("a")
    assert await reader.next() == [("a", 1, False)]
    database.remove("b")
    database.report("b", COMPLETED)
    assert await reader.next() == [("b", 1, True)]


async def test_a_job_that_others_made_anew_is_not_held_back(database: Database) -> None:
    """That is no progress, even with the status of the one before."""
    database.report("a")
    reader = Reader(database, seconds=3600.0)
    await reader.snapshot()
    database.report("a")
    await reader.next()
    del database.jobs["a"]
    database.commit("a")
    await database.filtered_watch.refresh(["a"], database.load)
    assert await reader.next() == [("a", 2, True), ("a", 1, False)]


async def test_a_slow_reader_gets_the_latest_state_alone(database: Database) -> None:
    """However many changes there were, each job is told once, and no more than that is kept."""
    for job_id in "abc":
        database.report(job_id)
    reader = Reader(database, statuses=(RUNNING,))
    await reader.snapshot()
    for progress in range(100):
        database.report("a", progress=progress)
        database.report("b", COMPLETED if progress % 2 else RUNNING)
        database.report("foreign", COMPLETED)
    (one,) = database.filtered_watch._readers
    assert set(one._pending) == {"a", "b"}
    assert await reader.next() == [("a", 101, False), ("b", 101, True)]
    assert await reader.is_told_nothing()


async def test_a_reader_that_stalls_in_its_snapshot_keeps_only_what_concerns_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the jobs that do not match nothing is kept while no page is under way."""
    monkeypatch.setattr(filtered_watch, "SNAPSHOT_PAGE_SIZE", 2)
    for number in range(4):
        database.report(f"j{number}")
    gate = database.hold_up()
    reader = Reader(database, statuses=(RUNNING,))
    first = reader.begin()
    await database.reading.wait()
    database.report("early", COMPLETED)
    gate.set()
    await first
    database.report("foreign", COMPLETED)
    database.report("j3", COMPLETED)
    database.report("new")
    (one,) = database.filtered_watch._readers
    assert set(one._pending) == {"j3", "new"}


async def test_a_reader_that_stalls_keeps_no_more_jobs_than_it_may_be_told(database: Database) -> None:
    """New jobs beyond `max_jobs` are not kept for it: it is refused when it asks."""
    reader = Reader(database, max_jobs=3)
    database.report("a")
    await reader.snapshot()
    for number in range(100):
        database.report(f"j{number}")
    (one,) = database.filtered_watch._readers
    assert len(one._pending) <= 5
    with pytest.raises(JobQueryInvalid, match="more than 3 jobs match"):
        await reader.next()


async def test_as_many_jobs_as_it_may_be_told_can_replace_those_that_left(database: Database) -> None:
    """A stalled reader with `max_jobs` is not refused when all of them left and as many came."""
    for number in range(3):
        database.report(f"old{number}")
    reader = Reader(database, max_jobs=3, statuses=(RUNNING,))
    await reader.snapshot()
    for number in range(3):
        database.report(f"old{number}", COMPLETED)
    for number in range(3):
        database.report(f"new{number}")
    told = await reader.next()
    assert sorted(told) == [(f"new{n}", 1, False) for n in range(3)] + [
        (f"old{n}", 2, True) for n in range(3)
    ]


async def test_more_jobs_than_allowed_are_refused(database: Database) -> None:
    """In the snapshot, and when later changes make them match; a job that left makes room."""
    for number in range(3):
        database.report(f"j{number}")
    with pytest.raises(JobQueryInvalid, match="more than 2 jobs match"):
        await Reader(database, max_jobs=2).snapshot()
    reader = Reader(database, max_jobs=3, statuses=(RUNNING,))
    assert len(await reader.snapshot()) == 3
    database.report("j0", COMPLETED)
    assert await reader.next() == [("j0", 2, True)]
    database.report("j3")
    assert await reader.next() == [("j3", 1, False)]
    database.report("j0")
    with pytest.raises(JobQueryInvalid, match="more than 3 jobs match"):
        await reader.next()
    assert not database.filtered_watch.has_readers


async def test_large_jobs_go_into_several_parts(database: Database) -> None:
    """A part ends before the job that would make it too large; the rest follows at once."""
    reader = Reader(database, seconds=3600.0)
    await reader.snapshot()
    for number in range(50):
        database.report(f"j{number:02}", details_json="x" * 12_000)
    parts = [await reader.next() for _ in range(3)]
    assert [len(part) for part in parts] == [21, 21, 8]
    assert [job_id for part in parts for job_id, _, _ in part] == [f"j{number:02}" for number in range(50)]


async def test_progress_is_paced_and_a_change_of_status_is_not(database: Database) -> None:
    """Progress waits for the interval and is coalesced; a status, an attempt, a new job, one that left or was removed
    comes at once, and takes along what waits.
    """
    for job_id in "abcde":
        database.report(job_id, labels={"team": "x"})
    reader = Reader(database, seconds=3600.0, labels={"team": "x"})
    await reader.snapshot()
    database.report("a", progress=1, labels={"team": "x"})
    assert await reader.next() == [("a", 2, False)]
    database.report("a", progress=2, labels={"team": "x"})
    database.report("a", progress=3, labels={"team": "x"})
    assert await reader.is_told_nothing()
    database.report("b", COMPLETED, labels={"team": "x"})
    assert await reader.waited() == [("a", 4, False), ("b", 2, False)]
    for job_id, change in {
        "new": lambda: database.report("new", labels={"team": "x"}),
        "c": lambda: database.report("c", attempt=2, labels={"team": "x"}),
        "e": lambda: database.report("e", labels={"team": "y"}),
        "d": lambda: database.remove("d"),
    }.items():
        database.report("a", progress=4, labels={"team": "x"})
        assert await reader.is_told_nothing()
        change()
        assert [told[0] for told in await reader.waited()] == ["a", job_id]


async def test_a_job_that_came_and_went_untold_hurries_nobody(database: Database) -> None:
    """Progress of others still waits for the interval."""
    database.report("a", labels={"team": "x"})
    reader = Reader(database, seconds=3600.0, labels={"team": "x"})
    await reader.snapshot()
    database.report("a", progress=1, labels={"team": "x"})
    assert await reader.next() == [("a", 2, False)]
    database.report("new", labels={"team": "x"})
    database.report("new", labels={"team": "y"})
    database.report("a", progress=2, labels={"team": "x"})
    assert await reader.is_told_nothing()
    database.report("a", COMPLETED, labels={"team": "x"})
    assert await reader.waited() == [("a", 4, False)]


async def test_paced_progress_comes_when_the_interval_is_over(database: Database) -> None:
    """The last state comes then, without another change."""
    database.report("a")
    reader = Reader(database, seconds=0.02)
    await reader.snapshot()
    database.report("a", progress=1)
    await reader.next()
    database.report("a", progress=2)
    database.report("a", progress=3)
    assert await reader.next() == [("a", 4, False)]


async def test_an_idle_watch_says_so(database: Database) -> None:
    """None comes after `idle_seconds` without news, again and again, and loses no change."""
    parts = database.filtered_watch.watch(JobFilter(), max_jobs=9, idle_seconds=0.01)
    assert await anext(parts) == ()
    assert await anext(parts) is None
    assert await anext(parts) is None
    database.report("a")
    assert seen(await anext(parts)) == [("a", 1, False)]
    assert await anext(parts) is None
    await parts.aclose()


async def test_a_snapshot_that_takes_long_does_not_stop_the_signs_of_life(database: Database) -> None:
    """An idle watch says so even if it had not told all when it would have been idle for the first time."""
    gate = database.hold_up()
    parts = database.filtered_watch.watch(JobFilter(), max_jobs=9, idle_seconds=0.01)
    first = asyncio.create_task(anext(parts))  # type: ignore[arg-type]  # as above
    await asyncio.sleep(0.05)
    gate.set()
    assert await first == ()
    async with asyncio.timeout(30):
        assert await anext(parts) is None
    await parts.aclose()


def live_timers(loop: Any) -> int:
    return sum(not timer.cancelled() for timer in loop._scheduled)


def test_a_watch_is_idle_from_the_last_that_it_was_told() -> None:
    """Signs of life come `idle_seconds` after the mark, a change or the sign before, whatever came to nothing between;
    a reader that does not read costs nothing; and no timer is left.
    """

    async def scenario() -> None:
        database = Database()
        loop = asyncio.get_running_loop()
        parts = database.filtered_watch.watch(JobFilter(statuses=(RUNNING,)), max_jobs=9, idle_seconds=10.0)
        database.report("a")
        await anext(parts)
        await asyncio.sleep(5)
        await anext(parts)
        await asyncio.sleep(100)
        assert await anext(parts) is None
        assert loop.time() == pytest.approx(115, abs=0.1)
        waiting = asyncio.create_task(anext(parts))  # type: ignore[arg-type]  # as above
        for _ in range(9):
            await asyncio.sleep(1)
            database.filtered_watch.publish(database.jobs["a"])
            for status in (RUNNING, COMPLETED):
                database.report("b", status)
        assert await waiting is None
        assert loop.time() == pytest.approx(125, abs=0.1)
        await asyncio.sleep(6)
        database.report("a")
        assert seen(await anext(parts)) == [("a", 2, False)]
        assert await anext(parts) is None
        assert loop.time() == pytest.approx(141, abs=0.1)
        await parts.aclose()
        assert live_timers(loop) == 0

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())


def test_a_pause_that_is_cut_short_leaves_no_timer() -> None:
    """What was to end the pause does not wake the watch later on."""

    async def scenario() -> None:
        database = Database()
        reader = Reader(database, seconds=3600.0)
        database.report("a")
        await reader.snapshot()
        database.report("a")
        await reader.next()
        database.report("a")
        assert await reader.is_told_nothing()
        database.report("a", COMPLETED)
        await reader.waiting
        assert live_timers(asyncio.get_running_loop()) == 0

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())


async def test_closing_ends_every_watch(database: Database) -> None:
    """One that waits, one in its snapshot and one that is opened later all get the reason."""
    database.report("a")
    waiting, slow = Reader(database), Reader(database)
    await waiting.snapshot()
    assert await waiting.is_told_nothing()
    await slow.next()
    database.filtered_watch.close("it is stopped")
    for end in (waiting.waited(), slow.snapshot(), Reader(database).next()):
        with pytest.raises(HandlerUnavailable, match="it is stopped"):
            await end
    assert not database.filtered_watch.has_readers


async def test_closing_ends_a_watch_while_it_reads(database: Database) -> None:
    """What it was about to be told is not told any more."""
    database.report("a")
    gate = database.hold_up()
    first = Reader(database).begin()
    await database.reading.wait()
    database.filtered_watch.close("it is stopped")
    gate.set()
    with pytest.raises(HandlerUnavailable, match="it is stopped"):
        await first


async def test_closing_ends_a_watch_that_paces_itself(database: Database) -> None:
    """It does not wait for its interval."""
    database.report("a")
    reader = Reader(database, seconds=3600.0)
    await reader.snapshot()
    database.report("a")
    await reader.next()
    database.report("a")
    assert await reader.is_told_nothing()
    database.filtered_watch.close("it is stopped")
    with pytest.raises(HandlerUnavailable, match="it is stopped"):
        await reader.waited()


async def test_resetting_ends_the_watches_that_are_open_alone(database: Database) -> None:
    """Each is told the reason also in its snapshot, and who watches again gets what there is now."""
    database.report("a")
    database.report("a")
    waiting, slow = Reader(database), Reader(database)
    await waiting.snapshot()
    assert await waiting.is_told_nothing()
    await slow.next()
    database.filtered_watch.reset("it was set back")
    for end in (waiting.waited(), slow.next()):
        with pytest.raises(HandlerUnavailable, match="it was set back"):
            await end
    del database.jobs["a"]
    database.commit("a")
    assert await Reader(database).snapshot() == [("a", 1, False)]


async def test_a_watch_that_is_given_up_leaves_nothing(database: Database) -> None:
    """Cancelled while it waits or reads, it is no reader any more."""
    gate = database.hold_up()
    reading = Reader(database).begin()
    await database.reading.wait()
    reading.cancel()
    await asyncio.wait([reading])
    gate.set()
    reader = Reader(database)
    await reader.snapshot()
    assert await reader.is_told_nothing()
    assert database.filtered_watch.has_readers
    reader.waiting.cancel()
    await asyncio.wait([reader.waiting])
    assert not database.filtered_watch.has_readers


async def test_a_refresh_tells_what_others_did(database: Database) -> None:
    """Jobs that were changed, created and removed; what is as it was told is not told again."""
    for job_id in "abc":
        database.report(job_id)
    reader = Reader(database)
    await reader.snapshot()
    database.commit("a")
    del database.jobs["b"]
    database.commit("new")
    await database.filtered_watch.refresh(["a", "b", "c", "new", "never"], database.load)
    assert sorted(await reader.next()) == [("a", 2, False), ("b", 1, True), ("new", 1, False)]
    assert await reader.is_told_nothing()


async def refresh_overtaken(database: Database, job_id: str, overtake: Any) -> None:
    """Load a job, and let something be published after it was read and before it arrives."""
    gate = database.hold_up()
    refreshing = asyncio.create_task(database.filtered_watch.refresh([job_id], database.load))
    await database.reading.wait()
    overtake()
    gate.set()
    async with asyncio.timeout(30):
        await refreshing


async def test_a_refresh_is_overtaken_by_a_change(database: Database) -> None:
    """What was read before a change is told by nobody after it."""
    database.report("a")
    reader = Reader(database)
    await reader.snapshot()
    database.commit("a")
    await refresh_overtaken(database, "a", lambda: database.report("a", COMPLETED))
    assert await reader.next() == [("a", 3, False)]
    assert await reader.is_told_nothing()


async def test_a_refresh_tells_nothing_that_has_passed(database: Database) -> None:
    """A state that matched and was overtaken by one that does not is told to nobody."""
    database.report("a", QUEUED)
    reader = Reader(database, statuses=(RUNNING,))
    await reader.snapshot()
    database.commit("a")
    await refresh_overtaken(database, "a", lambda: database.report("a", COMPLETED))
    assert await reader.is_told_nothing()


async def test_a_refresh_that_knows_more_than_what_overtook_it_counts(database: Database) -> None:
    """What is published late, after a newer state was read, does not hide that."""
    database.report("a")
    reader = Reader(database)
    await reader.snapshot()
    second = database.commit("a")
    database.commit("a")
    await refresh_overtaken(database, "a", lambda: database.filtered_watch.publish(second))
    assert await reader.next() == [("a", 3, False)]


async def test_a_refresh_is_overtaken_by_a_creation(database: Database) -> None:
    """A job that was not there yet when it was looked for is not taken for removed."""
    reader = Reader(database)
    await reader.snapshot()
    await refresh_overtaken(database, "a", lambda: database.report("a"))
    assert await reader.next() == [("a", 1, False)]
    assert await reader.is_told_nothing()


async def test_a_refresh_is_overtaken_by_a_removal(database: Database) -> None:
    """A job that was read before it was removed does not come back."""
    database.report("a")
    reader = Reader(database)
    await reader.snapshot()

    def change_and_remove() -> None:
        database.report("a")
        database.remove("a")

    await refresh_overtaken(database, "a", change_and_remove)
    assert await reader.next() == [("a", 1, True)]
    assert await reader.is_told_nothing()


async def test_a_refresh_is_overtaken_by_a_removal_and_a_creation(database: Database) -> None:
    """The job that was read is not told in place of the one that stands under its id now."""
    for _ in range(3):
        database.report("a")
    reader = Reader(database)
    await reader.snapshot()

    def make_anew() -> None:
        database.remove("a")
        database.report("a")

    database.commit("a")
    await refresh_overtaken(database, "a", make_anew)
    assert await reader.next() == [("a", 3, True), ("a", 1, False)]
    assert await reader.is_told_nothing()


async def test_a_removal_by_others_right_after_a_change_is_told(database: Database) -> None:
    """A change that is published during a load does not hide that the load did not find the job any more."""
    database.report("a")
    reader = Reader(database)
    await reader.snapshot()
    change = database.commit("a")
    del database.jobs["a"]
    await refresh_overtaken(database, "a", lambda: database.filtered_watch.publish(change))
    assert await reader.next() == [("a", 1, True)]
    assert await reader.is_told_nothing()


async def test_a_refresh_that_fails_says_so_and_leaves_everything(database: Database) -> None:
    """The error comes out; the next one works."""
    database.report("a")
    reader = Reader(database)
    await reader.snapshot()
    database.commit("a")
    database.failure = HandlerUnavailable("gone")
    with pytest.raises(HandlerUnavailable, match="gone"):
        await database.filtered_watch.refresh(["a"], database.load)
    database.failure = None
    await database.filtered_watch.refresh(["a"], database.load)
    assert await reader.next() == [("a", 2, False)]


async def test_an_error_of_the_database_ends_the_watch_that_reads(database: Database) -> None:
    """It comes out of the snapshot, and nothing is left."""
    database.failure = HandlerUnavailable("gone")
    with pytest.raises(HandlerUnavailable, match="gone"):
        await Reader(database).snapshot()
    assert not database.filtered_watch.has_readers


async def test_many_readers_are_told_each_what_it_asked_for(database: Database) -> None:
    """Readers of all jobs and readers of some ids stand side by side, and those that have left do not matter."""
    every, some, gone = (
        Reader(database),
        Reader(database, job_ids=("a", "b")),
        Reader(database, job_ids=("a",)),
    )
    for reader in (every, some, gone):
        await reader.snapshot()
    await gone.parts.aclose()
    database.report("a")
    database.report("c")
    assert await every.next() == [("a", 1, False), ("c", 1, False)]
    assert await some.next() == [("a", 1, False)]
    database.remove("a")
    assert await every.next() == [("a", 1, True)]
    assert await some.next() == [("a", 1, True)]
    assert "c" in database.filtered_watch
    await every.parts.aclose()
    assert "a" in database.filtered_watch
    assert "c" not in database.filtered_watch
    await some.parts.aclose()
    assert "a" not in database.filtered_watch
