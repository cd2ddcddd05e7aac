"""ChangePoller passes on what others do to jobs in a shared database, also when their notification is lost."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, cast

import pytest
from msgspec.structs import replace

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.source import Job, JobChange, JobFilter, JobPage, JobQuery, JobTransition, JobUpdate
from emitd_handlers.jobs.store import JobHistory, SharedJobStore
from emitd_handlers.jobs.watch import publisher as change_poller
from emitd_handlers.jobs.watch.publisher import ChangePoller, ChangePublisher
from emitd_handlers.record import JobState
from support.processes.virtual_time import VirtualTimeLoop

RUNNING, COMPLETED = JobState.RUNNING, JobState.COMPLETED
INTERVAL = 2.0


class World:
    """A database that others write to, and who looks for that. What a call has read can be held up on its way."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.transitions: dict[str, list[JobTransition]] = {}
        #: The job of each change, in order.
        self.log: list[str] = []
        self.calls: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.created = 0
        self.lines: list[str] = []
        self.publisher = ChangePublisher(self.load_history, self.list)
        self.change_poller = ChangePoller(
            cast(SharedJobStore, self), self.publisher, interval_seconds=INTERVAL, report=self.lines.append
        )

    def commit(self, job_id: str, status: JobState = RUNNING, **fields: Any) -> Job:
        """Change or create a job as another process does, whose notification is lost."""
        known = self.jobs.get(job_id)
        self.created += known is None
        job = Job(
            job_id=job_id,
            job_type="t",
            status=status,
            revision=known.revision + 1 if known else 1,
            create_time_unix_nano=known.create_time_unix_nano if known else self.created,
            **fields,
        )
        if known is None or known.status is not status:
            new = JobTransition(job.revision, 1, status, 0, job.revision)
            self.transitions.setdefault(job_id, []).append(new)
        self.jobs[job_id] = job
        self.log.append(job_id)
        return job

    def remove(self, job_id: str) -> None:
        """Remove a job as another process does, whose notification is lost."""
        del self.jobs[job_id], self.transitions[job_id]
        self.log.append(job_id)

    def notify(self, *job_ids: str) -> None:
        """Let a notification of others' changes come."""
        self.change_poller.notice(job_ids)

    def watch(self, job_id: str) -> AsyncGenerator[JobUpdate | None, None]:
        return self.publisher.broadcaster.watch(job_id)

    def watch_many(self, **wanted: Any) -> AsyncGenerator[Sequence[JobChange] | None, None]:
        return self.publisher.filtered_watch.watch(JobFilter(**wanted), max_jobs=10_000)

    async def load_history(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        job = self.jobs.get(job_id)
        await self._arrive("load_history")
        if job is None:
            return None
        after = job.revision if after_revision is None else min(after_revision, job.revision)
        transitions = [item for item in self.transitions[job_id] if item.revision > after]
        return JobHistory(job, transitions, after)

    async def list(self, query: JobQuery) -> JobPage:
        jobs = [job for job in self.jobs.values() if query.matches(job)]
        await self._arrive("list")
        return JobPage(jobs, "")

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        found = {job_id: self.jobs[job_id].revision for job_id in job_ids if job_id in self.jobs}
        await self._arrive("revisions")
        return found

    async def changes_since(self, mark: int | None) -> tuple[int, Sequence[str]]:
        changes = len(self.log), [] if mark is None else list(dict.fromkeys(self.log[mark:]))
        await self._arrive("changes_since")
        return changes

    async def load_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        found = [self.jobs[job_id] for job_id in job_ids if job_id in self.jobs]
        await self._arrive("load_many")
        return found

    async def _arrive(self, name: str) -> None:
        self.calls.append(name)
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.failures:
            raise self.failures[name]


def in_virtual_time(scenario: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run a scenario with a world that is looked after, where waiting takes no time."""

    async def run() -> None:
        world = World()
        task = asyncio.create_task(world.change_poller.run())
        try:
            async with asyncio.timeout(10_000):
                await scenario(world)
        finally:
            assert not task.done(), "it has ended"
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @wraps(scenario)
    def test() -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(run())

    del test.__wrapped__  # type: ignore[attr-defined]  # or pytest would look for a fixture `world`
    return test


def seen(part: Sequence[JobChange] | None) -> list[tuple[str, int, bool]]:
    assert part is not None
    return [(change.job_id, change.revision, change.left_filter) for change in part]


async def snapshot(parts: AsyncGenerator[Sequence[JobChange] | None, None]) -> list[tuple[str, int, bool]]:
    """All parts up to the mark."""
    told: list[tuple[str, int, bool]] = []
    while part := await anext(parts):
        told += seen(part)
    return told


async def told_at_once(updates: AsyncGenerator[Any, None]) -> Any:
    """What comes next, before any interval has passed."""
    begin = asyncio.get_running_loop().time()
    item = await anext(updates)
    assert asyncio.get_running_loop().time() - begin < INTERVAL / 2
    return item


async def told_after_a_while(updates: AsyncGenerator[Any, None]) -> Any:
    """What comes next, within an interval and no sooner than the next look."""
    begin = asyncio.get_running_loop().time()
    item = await anext(updates)
    assert 0 < asyncio.get_running_loop().time() - begin < INTERVAL + 0.1
    return item


async def looked() -> None:
    """Wait until a look at everything was made, and half an interval more."""
    await asyncio.sleep(INTERVAL * 1.5)


def keep_quiet(world: World) -> Callable[[], bool]:
    """Return a function that says whether the database was asked nothing since."""
    count = len(world.calls)
    return lambda: len(world.calls) == count


@in_virtual_time
async def test_what_others_did_is_told_upon_their_notification(world: World) -> None:
    """Who watches one job and who watches many both hear at once."""
    await looked()
    world.commit("j")
    one, many = world.watch("j"), world.watch_many()
    await anext(one)
    await snapshot(many)
    world.commit("j", COMPLETED)
    world.notify("j")
    update = await told_at_once(one)
    assert [item.status for item in update.transitions] == [COMPLETED]
    assert seen(await told_at_once(many)) == [("j", 2, False)]


@in_virtual_time
async def test_a_lost_notification_of_one_watched_job_costs_an_interval(world: World) -> None:
    """Its revision is compared, and the transitions are told complete."""
    world.commit("j")
    one = world.watch("j")
    await anext(one)
    await looked()
    for status in (COMPLETED, RUNNING, COMPLETED):
        world.commit("j", status)
    update = await told_after_a_while(one)
    assert [item.revision for item in update.transitions] == [2, 3, 4]


@in_virtual_time
async def test_a_lost_notification_of_a_job_that_is_waited_for_costs_an_interval(world: World) -> None:
    """A watch that began before the job was created is told of it."""
    one = world.watch("j")
    first = asyncio.create_task(anext(one))  # type: ignore[arg-type]  # a coroutine, says the documentation
    await looked()
    assert not first.done()
    world.commit("j")
    await asyncio.sleep(INTERVAL)
    update = await first
    assert update is not None
    assert update.job.revision == 1


@in_virtual_time
async def test_lost_notifications_of_many_watched_jobs_cost_an_interval(world: World) -> None:
    """Changed, created and removed jobs are found by what was changed since the last look."""
    for job_id in "abc":
        world.commit(job_id)
    await looked()
    many = world.watch_many()
    await snapshot(many)
    world.commit("a")
    world.remove("b")
    world.commit("new")
    assert sorted(seen(await told_after_a_while(many))) == [
        ("a", 2, False),
        ("b", 1, True),
        ("new", 1, False),
    ]


@in_virtual_time
async def test_a_removal_whose_notification_is_lost_reaches_who_watches_the_job(world: World) -> None:
    """A job that was removed and made anew under its id is told as another one."""
    world.commit("j")
    one = world.watch("j")
    await anext(one)
    await looked()
    following = asyncio.create_task(anext(one))  # type: ignore[arg-type]  # as above
    world.remove("j")
    await looked()
    world.commit("j")
    await asyncio.sleep(INTERVAL)
    update = await following
    assert update is not None
    assert (update.job.revision, update.history_truncated) == (1, True)


@in_virtual_time
async def test_a_notification_of_many_changes_makes_it_look_at_all(world: World) -> None:
    """One that names no jobs is as good as one that names all."""
    await looked()
    world.commit("j")
    one, many = world.watch("j"), world.watch_many()
    await anext(one)
    await snapshot(many)
    world.commit("j")
    world.change_poller.notice(None)
    assert (await told_at_once(one)).job.revision == 2
    assert seen(await told_at_once(many)) == [("j", 2, False)]
    world.calls.clear()
    world.commit("j")
    world.notify("j")
    await told_at_once(many)
    assert world.calls == ["load_history", "load_many"]


@in_virtual_time
async def test_the_progress_of_many_jobs_is_loaded_together(world: World) -> None:
    """Only those whose status, attempt or very self has changed are loaded one by one, with what led to it."""
    await looked()
    watches = {job_id: world.watch(job_id) for job_id in "abcdef"}
    for job_id in "abcde":
        world.commit(job_id)
        await anext(watches[job_id])
    created = asyncio.create_task(anext(watches["f"]))  # type: ignore[arg-type]  # as above
    await asyncio.sleep(0)
    world.calls.clear()
    world.commit("a", progress=5)
    world.commit("b", COMPLETED)
    world.commit("c", attempt=2)
    world.remove("d")
    world.commit("d")
    world.commit("f")
    world.notify(*"abcdef", "other")
    first = await told_at_once(watches["a"])
    assert (first.job.revision, first.transitions, first.coalesced_count) == (2, (), 0)
    assert [item.revision for item in (await told_at_once(watches["b"])).transitions] == [2]
    assert (await told_at_once(watches["c"])).job.attempt == 2
    assert (await told_at_once(watches["d"])).history_truncated
    update = await created
    assert update is not None
    assert update.job.revision == 1
    assert world.calls.count("load_many") == 1
    assert world.calls.count("load_history") == 5  # of `d` once more, in its new channel


@in_virtual_time
async def test_what_is_watched_among_many_alone_is_loaded_once(world: World) -> None:
    """Who watches one job has nothing to do with it."""
    await looked()
    many = world.watch_many()
    await snapshot(many)
    world.calls.clear()
    for job_id in "ab":
        world.commit(job_id)
    world.notify("a", "b")
    assert sorted(seen(await told_at_once(many))) == [("a", 1, False), ("b", 1, False)]
    assert world.calls == ["load_many"]


@in_virtual_time
async def test_a_database_that_was_set_back_is_the_truth_of_many_jobs(world: World) -> None:
    """An older state with the same status is no mere progress."""
    watches = [world.watch(job_id) for job_id in "ab"]
    for job_id, watch in zip("ab", watches, strict=True):
        for _ in range(3):
            world.commit(job_id)
        await anext(watch)
    await looked()
    for job_id in "ab":
        world.jobs[job_id] = replace(world.jobs[job_id], revision=2)
    for watch in watches:
        update = await anext(watch)
        assert (update.job.revision, update.history_truncated) == (2, True)  # type: ignore[union-attr]


@in_virtual_time
async def test_what_nobody_watches_is_not_loaded(world: World) -> None:
    """Neither upon a notification nor at a look: only jobs that somebody asked for cost anything."""
    await looked()
    one, many = world.watch("a"), world.watch_many(job_ids=("b",))
    waiting = asyncio.create_task(anext(one))  # type: ignore[arg-type]  # as above
    await snapshot(many)
    await asyncio.sleep(0.1)
    was_quiet = keep_quiet(world)
    world.commit("other")
    world.notify("other")
    await asyncio.sleep(0.1)
    assert was_quiet()
    await looked()
    assert "load_many" not in world.calls
    world.commit("b")
    assert seen(await told_after_a_while(many)) == [("b", 1, False)]
    waiting.cancel()


@in_virtual_time
async def test_without_watchers_a_look_is_one_question(world: World) -> None:
    """Once an interval the database is asked where it stands, and nothing else."""
    world.commit("j")
    await asyncio.sleep(0.5 + 100 * INTERVAL)
    assert world.calls == ["changes_since"] * 101


@in_virtual_time
async def test_what_was_told_already_is_not_told_again(world: World) -> None:
    """Own changes, which the database reports as well, and repeats come to nothing."""
    await looked()
    one, many = world.watch("j"), world.watch_many()
    await snapshot(many)
    world.publisher.publish([JobHistory(world.commit("j"), world.transitions["j"], 0)])
    assert seen(await told_at_once(many)) == [("j", 1, False)]
    await anext(one)
    world.notify("j", "j")
    world.notify("j")
    await looked()
    world.publisher.publish([JobHistory(world.commit("j"), (), 1)])
    assert seen(await told_at_once(many)) == [("j", 2, False)]
    assert (await told_at_once(one)).job.revision == 2


@in_virtual_time
async def test_more_jobs_than_go_into_one_question_are_asked_for_in_parts(world: World) -> None:
    """However many jobs are watched and were changed, each is looked at."""
    await looked()
    ids = [f"j{number}" for number in range(2 * change_poller.MAX_JOBS + 1)]
    for job_id in ids:
        world.commit(job_id)
    watches = [world.watch(job_id) for job_id in ids]
    for watch in watches:
        await anext(watch)
    many = world.watch_many()
    await snapshot(many)
    world.calls.clear()
    for job_id in ids:
        world.commit(job_id)
    await asyncio.sleep(INTERVAL)
    assert (world.calls.count("revisions"), world.calls.count("load_many")) == (3, 6)
    assert [(await told_at_once(watch)).job.revision for watch in watches] == [2] * len(ids)
    told: list[Any] = []
    while len(told) < len(ids):
        told += seen(await told_at_once(many))
    assert sorted(told) == sorted((job_id, 2, False) for job_id in ids)


@in_virtual_time
async def test_a_database_that_was_set_back_is_the_truth(world: World) -> None:
    """Who watches one job is told its state with `history_truncated`; who watches many must watch again."""
    for _ in range(3):
        world.commit("j")
    await looked()
    one, many = world.watch("j"), world.watch_many()
    await anext(one)
    await snapshot(many)
    world.jobs.clear()
    world.transitions.clear()
    world.log.clear()
    world.created = 0
    world.commit("j")
    update = await told_after_a_while(one)
    assert (update.job.revision, update.history_truncated) == (1, True)
    with pytest.raises(HandlerUnavailable, match="set back"):
        await anext(many)
    again = world.watch_many()
    assert await snapshot(again) == [("j", 1, False)]
    world.commit("j")
    assert seen(await told_after_a_while(again)) == [("j", 2, False)]


@pytest.mark.parametrize("failing", ["load_history", "load_many", "revisions", "changes_since"])
@pytest.mark.parametrize("is_notified", [True, False])
def test_an_outage_of_the_database_loses_nothing(failing: str, is_notified: bool) -> None:
    """Whatever fails, what was changed before and meanwhile is told when it works again, and the task goes on."""

    @in_virtual_time
    async def scenario(world: World) -> None:
        world.commit("j")
        await looked()
        one, many = world.watch("j"), world.watch_many()
        await anext(one)
        await snapshot(many)
        world.failures[failing] = HandlerUnavailable("the database is away")
        world.commit("j")
        world.commit("new")
        if is_notified:
            world.notify("j", "new")
        await asyncio.sleep(10 * INTERVAL)
        world.commit("j", COMPLETED)
        if is_notified:
            world.notify("j")
        del world.failures[failing]
        await asyncio.sleep(2 * INTERVAL)
        told = dict[str, int]()
        while not {("j", 3), ("new", 1)} <= told.items():
            told |= {job_id: revision for job_id, revision, _ in seen(await told_at_once(many))}
        transitions: list[int] = []
        while transitions != [3]:
            transitions += [item.revision for item in (await told_at_once(one)).transitions]
        assert world.lines == []

    scenario()


@in_virtual_time
async def test_a_notification_whose_look_failed_is_looked_at_again(world: World) -> None:
    """What was noticed is kept until it was looked at, also when the next look at everything fails before that."""
    await looked()
    many = world.watch_many()
    await snapshot(many)
    world.commit("j")
    world.failures |= dict.fromkeys(["load_many", "changes_since"], HandlerUnavailable("away"))
    world.notify("j")
    await asyncio.sleep(3 * INTERVAL)
    del world.failures["load_many"], world.failures["changes_since"]
    await asyncio.sleep(2 * INTERVAL)
    assert seen(await told_at_once(many)) == [("j", 1, False)]


@in_virtual_time
async def test_a_job_made_anew_in_an_outage_is_not_taken_for_the_old_one(world: World) -> None:
    """Its revision may be the same: what was noticed is loaded, and not only compared."""
    world.commit("j")
    one = world.watch("j")
    await anext(one)
    await looked()
    following = asyncio.create_task(anext(one))  # type: ignore[arg-type]  # as above
    world.failures |= dict.fromkeys(["load_history", "revisions"], HandlerUnavailable("away"))
    world.remove("j")
    world.commit("j", COMPLETED)
    world.notify("j")
    await asyncio.sleep(3 * INTERVAL)
    world.failures.clear()
    await asyncio.sleep(2 * INTERVAL)
    update = await following
    assert update is not None
    assert (update.job.status, update.history_truncated) == (COMPLETED, True)


@in_virtual_time
async def test_what_nobody_watches_is_not_kept_in_an_outage(world: World) -> None:
    """However many jobs others change meanwhile."""
    await looked()
    many = world.watch_many(job_ids=("a",))
    await snapshot(many)
    world.failures |= dict.fromkeys(["load_many", "changes_since"], HandlerUnavailable("away"))
    for number in range(100):
        world.notify("a", f"j{number}")
        await asyncio.sleep(0.1)
    assert world.change_poller._noticed <= {"a"}


@in_virtual_time
async def test_an_error_that_nobody_expects_is_reported(world: World) -> None:
    """The operator is told, and the task goes on; a database that is away is told by the health service alone."""
    await looked()
    world.failures["changes_since"] = ValueError("a bug")
    await asyncio.sleep(INTERVAL)
    assert world.lines == ["could not look for changes of jobs by others: ValueError('a bug')"]
    del world.failures["changes_since"]
    world.commit("j")
    one = world.watch("j")
    await anext(one)
    world.commit("j")
    assert (await told_after_a_while(one)).job.revision == 2


@in_virtual_time
async def test_a_database_that_is_away_is_asked_once_an_interval(world: World) -> None:
    """Notifications that come meanwhile do not make it ask more often."""
    await looked()
    many = world.watch_many()
    await snapshot(many)
    world.failures |= dict.fromkeys(["load_many", "changes_since"], HandlerUnavailable("away"))
    world.calls.clear()
    for _ in range(50):
        world.notify("j")
        await asyncio.sleep(INTERVAL / 5)
    assert len(world.calls) <= 11


@in_virtual_time
async def test_a_watch_that_begins_during_a_look_misses_nothing(world: World) -> None:
    """What is changed between the snapshot and the new mark is found from the mark before."""
    world.commit("j")
    await looked()
    world.gates["changes_since"] = asyncio.Event()
    await asyncio.sleep(INTERVAL)
    many = world.watch_many()
    await snapshot(many)
    world.commit("j")
    world.gates.pop("changes_since").set()
    # The look that was under way had read its mark before: this one is what the next finds.
    assert seen(await told_after_a_while(many)) == [("j", 2, False)]


@in_virtual_time
async def test_a_watch_that_begins_before_the_mark_is_made_misses_nothing(world: World) -> None:
    """The mark can be of a later moment than the snapshot that is read while it is asked for."""
    world.commit("j")
    await looked()
    made = asyncio.Event()

    async def make_mark_late(mark: int | None) -> tuple[int, Sequence[str]]:
        await made.wait()
        return await World.changes_since(world, mark)

    world.changes_since = make_mark_late  # type: ignore[method-assign]
    await asyncio.sleep(INTERVAL)
    many = world.watch_many()
    await snapshot(many)
    world.commit("j")
    made.set()
    assert seen(await told_after_a_while(many)) == [("j", 2, False)]


@in_virtual_time
async def test_a_watch_that_begins_before_the_first_mark_must_begin_again(world: World) -> None:
    """Nobody knows what was changed between its snapshot and the mark."""
    world.commit("j")
    world.gates["changes_since"] = asyncio.Event()
    await asyncio.sleep(0)
    many = world.watch_many()
    await snapshot(many)
    world.gates.pop("changes_since").set()
    with pytest.raises(HandlerUnavailable, match="watch again"):
        await anext(many)
    again = world.watch_many()
    assert await snapshot(again) == [("j", 1, False)]
    world.commit("j")
    assert seen(await told_after_a_while(again)) == [("j", 2, False)]
