"""JobBroadcaster against a model: whatever happens when, every watcher gets the true state."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emitd_handlers.jobs.source import Job, JobTransition, JobUpdate
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.watch import broadcaster as broadcaster
from emitd_handlers.jobs.watch.broadcaster import JobBroadcaster
from emitd_handlers.record import JobState

#: What happens next: some reports committed together (True: with a change of status), then told; or a watcher begins,
#: reads one update or leaves; or the loop turns.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.booleans(), min_size=1, max_size=4)),
        st.just(("publish", None)),
        st.tuples(st.just("watch"), st.none() | st.integers(0, 12)),
        st.tuples(st.just("read"), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 3)),
        st.tuples(st.just("turn"), st.integers(1, 6)),
    ),
    max_size=60,
)


class World:
    """A job that is committed first and published later, and watchers of it."""

    def __init__(self, load_turns: int) -> None:
        self.broadcaster = JobBroadcaster(self.load)
        self.load_turns = load_turns
        self.job: Job | None = None
        self.transitions: list[JobTransition] = []
        self.unpublished: list[JobHistory] = []
        self.watchers: list[Watcher] = []

    async def load(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        for _ in range(self.load_turns):
            await asyncio.sleep(0)
        job, transitions = self.job, list(self.transitions)
        for _ in range(self.load_turns):
            await asyncio.sleep(0)
        if job is None:
            return None
        after = job.revision if after_revision is None else min(after_revision, job.revision)
        return JobHistory(job, [item for item in transitions if item.revision > after], after)

    def commit(self, reports: list[bool]) -> None:
        before = self.job.revision if self.job else 0
        new: list[JobTransition] = []
        for changes_status in reports:
            revision = self.job.revision + 1 if self.job else 1
            if changes_status or revision == 1:
                new.append(JobTransition(revision, 1, JobState.RUNNING, 0, revision))
            self.job = Job(job_id="j", job_type="t", status=JobState.RUNNING, revision=revision)
        assert self.job is not None
        self.transitions += new
        self.unpublished.append(JobHistory(self.job, new, before))

    def publish(self) -> None:
        for change in self.unpublished:
            self.broadcaster.publish(change.job, change.transitions, after_revision=change.after_revision)
        self.unpublished.clear()


class Watcher:
    """Reads updates one at a time and holds each against what it knows."""

    def __init__(self, world: World, after_revision: int | None) -> None:
        self.world = world
        self.updates: AsyncGenerator[JobUpdate, None] = world.broadcaster.watch(
            "j", after_revision=after_revision
        )
        self.reading: asyncio.Task[None] | None = None
        self.told = after_revision

    def read(self) -> None:
        if self.reading is None or self.reading.done():
            self.check()
            self.reading = asyncio.create_task(self.read_one())

    def check(self) -> None:
        if self.reading is not None and self.reading.done():
            self.reading.result()

    async def read_one(self) -> None:
        update = await anext(self.updates)
        revision, revisions = update.job.revision, [item.revision for item in update.transitions]
        assert self.world.job is not None
        assert self.told_at_most < revision <= self.world.job.revision
        if self.told is None:
            assert (revisions, update.coalesced_count, update.history_truncated) == ([], 0, False)
        elif self.told > revision:
            assert update.history_truncated
            assert self.told > self.told_at_most, "only a resume point can be beyond the job"
            assert (revisions, update.coalesced_count) == ([], 0)
        else:
            assert not update.history_truncated
            expected = [t.revision for t in self.world.transitions if self.told < t.revision <= revision]
            assert revisions == expected
            left = revision - self.told - max(1, len(expected))
            assert update.coalesced_count == max(0, left)
        self.told = self.told_at_most = revision

    #: The last revision of an update: later ones must be higher.
    told_at_most = 0

    async def leave(self) -> None:
        if self.reading is not None:
            self.reading.cancel()
            await asyncio.wait([self.reading])
        await self.updates.aclose()


async def run(happenings: list[tuple[str, object]], load_turns: int) -> None:
    world = World(load_turns)
    for name, argument in happenings:
        if name == "commit":
            world.commit(argument)  # type: ignore[arg-type]
        elif name == "publish":
            world.publish()
        elif name == "watch":
            if len(world.watchers) < 4:
                world.watchers.append(Watcher(world, argument))  # type: ignore[arg-type]
        elif name == "turn":
            for _ in range(argument):  # type: ignore[call-overload]
                await asyncio.sleep(0)
        elif argument < len(world.watchers):  # type: ignore[operator]
            watcher = world.watchers[argument]  # type: ignore[call-overload]
            if name == "read":
                watcher.read()
            else:
                world.watchers.remove(watcher)
                await watcher.leave()
    await finish(world)


async def finish(world: World) -> None:
    """Let every watcher read to the end: all must come to know the last revision."""
    world.commit([True])
    world.publish()
    assert world.job is not None
    for watcher in world.watchers:
        for _ in range(100):
            if watcher.told_at_most == world.job.revision:
                break
            watcher.read()
            await asyncio.sleep(0)
        watcher.check()
        assert watcher.told == world.job.revision
        await watcher.leave()
    assert not world.broadcaster.watched


@given(steps, st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_gap_no_double_and_the_last_state(
    monkeypatch: pytest.MonkeyPatch, happenings: list[tuple[str, object]], load_turns: int
) -> None:
    """Transitions come complete, in order and once; each update brings something new; counts add up; whoever reads on
    gets the last state; and nothing is left when all have gone.
    """
    monkeypatch.setattr(broadcaster, "MAX_KNOWN_TRANSITIONS", 3)
    asyncio.run(run(happenings, load_turns))
