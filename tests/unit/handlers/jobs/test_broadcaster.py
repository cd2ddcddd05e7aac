"""JobBroadcaster: what watchers of a job are told."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from msgspec.structs import replace

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.source import Job, JobFilter, JobPage, JobQuery, JobTransition, JobUpdate
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.watch import broadcaster as broadcaster
from emitd_handlers.jobs.watch.broadcaster import JobBroadcaster
from emitd_handlers.jobs.watch.publisher import ChangePublisher
from emitd_handlers.record import JobState

RUNNING, COMPLETED = JobState.RUNNING, JobState.COMPLETED


class Database:
    """One job as a database has it, and a broadcaster over it. A load can be held up."""

    def __init__(self) -> None:
        self.broadcaster = JobBroadcaster(self.load)
        self.job: Job | None = None
        self.transitions: list[JobTransition] = []
        self.oldest = 0
        self.loads: list[int | None] = []
        self.gate: asyncio.Event | None = None
        self.loading = asyncio.Event()
        self.failure: Exception | None = None

    def commit(
        self, status: JobState = RUNNING, *, transition: bool = False, create_time: int = 1
    ) -> JobHistory:
        """Change the job without telling anybody."""
        revision = self.job.revision + 1 if self.job else 1
        new: list[JobTransition] = []
        if transition or revision == 1 or (self.job and self.job.status is not status):
            new.append(JobTransition(revision, 1, status, 0, revision))
        self.transitions += new
        self.job = Job(
            job_id="j", job_type="t", status=status, revision=revision, create_time_unix_nano=create_time
        )
        return JobHistory(self.job, new, revision - 1)

    def report(self, status: JobState = RUNNING, *, transition: bool = False) -> None:
        """Change the job and tell the watchers."""
        change = self.commit(status, transition=transition)
        self.broadcaster.publish(change.job, change.transitions)

    async def load(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        self.loads.append(after_revision)
        job, transitions = self.job, list(self.transitions)
        self.loading.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if job is None:
            return None
        after = (
            job.revision if after_revision is None else min(max(after_revision, self.oldest), job.revision)
        )
        return JobHistory(job, [item for item in transitions if item.revision > after], after)


def seen(update: JobUpdate) -> tuple[int, list[int], int]:
    """The revision, those of the transitions, and how many reports were coalesced."""
    return update.job.revision, [item.revision for item in update.transitions], update.coalesced_count


def begin(watch: AsyncGenerator[JobUpdate, None]) -> asyncio.Task[JobUpdate]:
    """Ask for the next update, in a task."""
    return asyncio.create_task(anext(watch))  # type: ignore[arg-type]  # a coroutine, says the documentation


async def turn() -> None:
    """Let every task run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def database() -> Database:
    return Database()


async def test_the_state_comes_first_then_every_change(database: Database) -> None:
    """Without a revision the first update has no history; each change is told, in order."""
    database.report()
    database.report(COMPLETED)
    watch = database.broadcaster.watch("j")
    assert seen(await anext(watch)) == (2, [], 0)
    database.report(RUNNING)
    assert seen(await anext(watch)) == (3, [3], 0)
    database.report(RUNNING)
    assert seen(await anext(watch)) == (4, [], 0)
    waiting = begin(watch)
    await turn()
    assert not waiting.done()
    database.report(COMPLETED)
    assert seen(await waiting) == (5, [5], 0)
    await watch.aclose()


@pytest.mark.parametrize(
    ("after", "expected"),
    [(0, (5, [1, 4], 3)), (1, (5, [4], 3)), (3, (5, [4], 1)), (4, (5, [], 0)), (5, (5, [], 0))],
)
async def test_a_watch_resumes(database: Database, after: int, expected: tuple[int, list[int], int]) -> None:
    """Transitions after the revision come with the first update; the rest is counted: an update stands for its
    transitions, or without any for its last report.
    """
    for status in (RUNNING, RUNNING, RUNNING, COMPLETED):
        database.report(status)
    database.report(COMPLETED)
    update = await anext(database.broadcaster.watch("j", after_revision=after))
    assert seen(update) == expected
    assert not update.history_truncated


async def test_a_revision_beyond_the_job_says_so(database: Database) -> None:
    """The state comes with `history_truncated`, once."""
    database.report()
    watch = database.broadcaster.watch("j", after_revision=7)
    assert await anext(watch) == JobUpdate(database.job, history_truncated=True)  # type: ignore[arg-type]
    database.report()
    update = await anext(watch)
    assert seen(update) == (2, [], 0)
    assert not update.history_truncated


async def test_a_revision_that_is_committed_and_not_yet_published_is_not_beyond(database: Database) -> None:
    """Who has read a revision from the database may watch from it before the broadcaster knows it."""
    database.report()
    first = database.broadcaster.watch("j")
    await anext(first)
    change = database.commit()
    second = begin(database.broadcaster.watch("j", after_revision=2))
    update = await second
    assert (seen(update), update.history_truncated) == ((2, [], 0), False)
    assert seen(await anext(first)) == (2, [], 0)
    waiting = begin(first)
    database.broadcaster.publish(change.job, change.transitions)
    await turn()
    assert not waiting.done(), "a revision was told twice"
    waiting.cancel()


async def test_lost_history_is_told_as_lost(database: Database) -> None:
    """What the database no longer has is `history_truncated`, and nothing is counted."""
    for status in (RUNNING, COMPLETED, RUNNING, RUNNING):
        database.report(status)
    database.oldest = 2
    watch = database.broadcaster.watch("j", after_revision=0)
    update = await anext(watch)
    assert (seen(update), update.history_truncated) == ((4, [3], 0), True)
    database.report()
    assert not (await anext(watch)).history_truncated


async def test_a_job_can_be_awaited(database: Database) -> None:
    """The first update of an unknown job comes with its first report."""
    waiting = [begin(database.broadcaster.watch("j", after_revision=after)) for after in (None, 0)]
    await turn()
    assert not any([task.done() for task in waiting])
    database.report()
    assert [seen(await task) for task in waiting] == [(1, [], 0), (1, [1], 0)]


@pytest.mark.parametrize("after", [None, 0, 1])
async def test_a_change_during_the_load_is_neither_lost_nor_doubled(
    database: Database, after: int | None
) -> None:
    """What is published between subscribing and the end of the load joins what was loaded."""
    database.report()
    database.gate = asyncio.Event()
    watch = database.broadcaster.watch("j", after_revision=after)
    waiting = begin(watch)
    await database.loading.wait()
    database.report(COMPLETED)
    database.gate.set()
    update = await waiting
    transitions = [item.revision for item in update.transitions]
    if update.job.revision == 1:
        update = await anext(watch)
        transitions += [item.revision for item in update.transitions]
    assert update.job.revision == 2
    assert transitions == {None: [], 0: [1, 2], 1: [2]}[after]


async def test_a_job_that_is_made_during_the_load_is_seen(database: Database) -> None:
    """The load finds nothing, but the report has come meanwhile."""
    database.gate = asyncio.Event()
    waiting = begin(database.broadcaster.watch("j", after_revision=0))
    await database.loading.wait()
    database.report()
    database.gate.set()
    assert seen(await waiting) == (1, [1], 0)


async def test_progress_is_paced_and_a_transition_is_not(database: Database) -> None:
    """Progress waits for the interval; a change of status goes out at once, also in the middle of the wait."""
    database.report()
    watch = database.broadcaster.watch("j", min_interval_seconds=3600)
    await anext(watch)
    database.report()
    waiting = begin(watch)
    database.report()
    await turn()
    assert not waiting.done()
    database.report(COMPLETED)
    assert seen(await waiting) == (4, [4], 2)


async def test_progress_comes_after_the_interval(database: Database) -> None:
    """No sooner, and then in one update."""
    loop = asyncio.get_running_loop()
    database.report()
    watch = database.broadcaster.watch("j", min_interval_seconds=0.05)
    await anext(watch)
    begun = loop.time()
    database.report()
    waiting = begin(watch)
    await turn()
    database.report()
    assert seen(await waiting) == (3, [], 1)
    assert loop.time() - begun > 0.04
    assert not database.broadcaster._topics["j"]._pausing


async def test_progress_is_held_back_also_where_it_has_to_be_loaded(database: Database) -> None:
    """A publication that leaves a gap may hide a transition; where it hides none, the interval counts."""
    database.report()
    watch = database.broadcaster.watch("j", min_interval_seconds=3600)
    await anext(watch)
    database.commit()
    database.report()
    waiting = begin(watch)
    await turn()
    assert not waiting.done()
    assert database.loads == [None, 1]
    database.report(COMPLETED)
    assert seen(await waiting) == (4, [4], 2)
    assert database.loads == [None, 1]


async def test_a_slow_watcher_is_told_at_once(database: Database) -> None:
    """The interval counts from the update before, not from when the next is asked for."""
    database.report()
    watch = database.broadcaster.watch("j", min_interval_seconds=0.02)
    await anext(watch)
    await asyncio.sleep(0.03)
    database.report()
    waiting = begin(watch)
    await turn()
    assert waiting.done()


async def test_a_watcher_far_behind_gets_every_transition(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the topic has dropped is loaded again, and the memory of a topic is bounded."""
    monkeypatch.setattr(broadcaster, "MAX_KNOWN_TRANSITIONS", 4)
    database.report()
    watch = database.broadcaster.watch("j")
    await anext(watch)
    database.loads.clear()
    for number in range(20):
        database.report(COMPLETED if number % 2 == 0 else RUNNING)
    update = await anext(watch)
    assert seen(update) == (21, list(range(2, 22)), 0)
    assert database.loads == [1]
    history = database.broadcaster._topics["j"].history
    assert history is not None
    assert len(history.transitions) == 4
    database.report(COMPLETED)
    assert seen(await anext(watch)) == (22, [22], 0)
    assert database.loads == [1]


async def test_watchers_share_the_load_and_the_update(database: Database) -> None:
    """Any number of watchers from one revision costs one load, and gets the very same object."""
    database.report()
    database.report()
    database.gate = asyncio.Event()
    watches = [database.broadcaster.watch("j", after_revision=after) for after in (0, 0, 1, None, None)]
    reading = [begin(watch) for watch in watches]
    await turn()
    database.gate.set()
    updates = await asyncio.gather(*reading)
    assert database.loads == [0]
    assert updates[0] is updates[1]
    assert updates[3] is updates[4]
    assert [seen(update)[1] for update in updates] == [[1], [1], [], [], []]
    database.report(COMPLETED)
    updates = await asyncio.gather(*(anext(watch) for watch in watches))
    assert all([update is updates[0] for update in updates])
    assert database.loads == [0]


async def test_a_load_serves_those_who_come_later(database: Database) -> None:
    """What one watcher has loaded of the past, the topic knows for all, next to what was published since."""
    database.report()
    database.report(COMPLETED)
    await anext(first := database.broadcaster.watch("j"))
    database.report(RUNNING)
    for _ in range(3):
        assert seen(await anext(database.broadcaster.watch("j", after_revision=0))) == (3, [1, 2, 3], 0)
    assert database.loads == [None, 0]
    assert seen(await anext(first)) == (3, [3], 0)


async def test_a_new_watcher_gets_the_newest_state(database: Database) -> None:
    """Also where an older one was given to another."""
    database.report()
    await anext(first := database.broadcaster.watch("j"))
    database.report()
    assert (await anext(database.broadcaster.watch("j"))).job.revision == 2
    await first.aclose()


async def test_a_load_that_is_overtaken_leaves_no_gap(database: Database) -> None:
    """It is from before a publication that starts later than what is known."""
    database.report()
    await anext(first := database.broadcaster.watch("j"))
    database.gate = asyncio.Event()
    database.loading.clear()
    watch = database.broadcaster.watch("j", after_revision=0)
    waiting = begin(watch)
    await database.loading.wait()
    database.commit(COMPLETED)
    change = database.commit(RUNNING)
    database.broadcaster.publish(change.job, change.transitions)
    database.gate.set()
    update = await waiting
    transitions = [item.revision for item in update.transitions]
    while update.job.revision < 3:
        update = await anext(watch)
        transitions += [item.revision for item in update.transitions]
    assert transitions == [1, 2, 3]
    await first.aclose()


async def test_a_topic_goes_with_its_last_watcher(database: Database) -> None:
    """Closing an iterator, or cancelling who waits for it, frees what it holds; others go on."""
    database.report()
    first, second = database.broadcaster.watch("j"), database.broadcaster.watch("j")
    await anext(first)
    await anext(second)
    waiting, cancelled = begin(first), begin(second)
    await turn()
    assert set(database.broadcaster.watched) == {"j"}
    cancelled.cancel()
    await turn()
    assert len(database.broadcaster._topics["j"].waiting) == 1
    database.report()
    assert seen(await waiting) == (2, [], 0)
    await first.aclose()
    assert not database.broadcaster.watched
    database.report()


async def test_a_cancelled_load_harms_no_other_watcher(database: Database) -> None:
    """The next in line loads for itself."""
    database.report()
    database.gate = asyncio.Event()
    first, second = begin(database.broadcaster.watch("j")), begin(database.broadcaster.watch("j"))
    await database.loading.wait()
    first.cancel()
    await turn()
    database.gate.set()
    assert seen(await second) == (1, [], 0)


async def test_a_failed_load_is_the_watchers_error(database: Database) -> None:
    """It is raised, and leaves no topic behind."""
    database.failure = HandlerUnavailable("no database")
    with pytest.raises(HandlerUnavailable, match="no database"):
        await anext(database.broadcaster.watch("j"))
    assert not database.broadcaster.watched


async def test_closing_ends_every_watch(database: Database) -> None:
    """Those that wait for a change, for the interval or for a load, and those that come later."""
    database.report()
    idle, paced = database.broadcaster.watch("j"), database.broadcaster.watch("j", min_interval_seconds=3600)
    await anext(idle)
    await anext(paced)
    database.report()
    await anext(idle)
    waiting = [begin(idle), begin(paced)]
    await turn()
    database.gate = asyncio.Event()
    database.loading.clear()
    waiting.append(begin(database.broadcaster.watch("j", after_revision=9)))
    await database.loading.wait()
    database.broadcaster.close("handler 'jobs' is stopped")
    database.gate.set()
    waiting.append(begin(database.broadcaster.watch("j")))
    for task in waiting:
        with pytest.raises(HandlerUnavailable, match="handler 'jobs' is stopped"):
            await asyncio.wait_for(task, 30)
    assert not database.broadcaster.watched


async def test_closing_ends_the_wait_for_a_job(database: Database) -> None:
    """Of one that is known not to exist, and of one that is still being looked for."""
    waiting = begin(database.broadcaster.watch("other"))
    await turn()
    database.broadcaster.close("closed")
    with pytest.raises(HandlerUnavailable, match="closed"):
        await asyncio.wait_for(waiting, 30)
    database = Database()
    database.gate = asyncio.Event()
    waiting = begin(database.broadcaster.watch("j"))
    await database.loading.wait()
    database.broadcaster.close("closed")
    database.gate.set()
    with pytest.raises(HandlerUnavailable, match="closed"):
        await asyncio.wait_for(waiting, 30)


async def test_several_revisions_can_be_published_at_once(database: Database) -> None:
    """A whole transaction's worth, with where it starts; a publication that leaves a gap makes watchers load."""
    database.report()
    watch = database.broadcaster.watch("j")
    await anext(watch)
    database.commit(COMPLETED)
    database.commit(RUNNING)
    change = database.commit(RUNNING)
    database.broadcaster.publish(change.job, database.transitions[1:], after_revision=1)
    assert seen(await anext(watch)) == (4, [2, 3], 1)
    assert database.loads == [None]
    database.commit(COMPLETED)
    change = database.commit(COMPLETED)
    database.broadcaster.publish(change.job)
    assert seen(await anext(watch)) == (6, [5], 1)
    assert database.loads == [None, 4]


async def test_a_job_that_is_deleted_and_made_again_is_told_as_new(database: Database) -> None:
    """Its revisions start again, so the watcher is told to forget what it knew."""
    for _ in range(5):
        database.report()
    watch = database.broadcaster.watch("j")
    await anext(watch)
    database.job, database.transitions = None, []
    change = database.commit(create_time=2)
    database.broadcaster.publish(change.job, change.transitions)
    update = await anext(watch)
    assert (seen(update), update.history_truncated) == ((1, [], 0), True)


def remake(database: Database, *statuses: JobState, create_time: int = 2) -> None:
    """Remove the job and make another under its id, without telling anybody."""
    database.job, database.transitions = None, []
    for status in statuses:
        database.commit(status, create_time=create_time)


async def test_a_removed_job_is_told_to_nobody_who_comes_later(database: Database) -> None:
    """Although others still watch it: who comes waits for the next job under its id."""
    database.report(COMPLETED)
    earlier = database.broadcaster.watch("j")
    await anext(earlier)
    database.job = None
    database.broadcaster.remove(["j", "unknown"])
    waiting = [begin(database.broadcaster.watch("j", after_revision=after)) for after in (None, 0, 9)]
    await turn()
    assert not any([task.done() for task in waiting])
    database.transitions = []
    change = database.commit(create_time=2)
    database.broadcaster.publish(change.job, change.transitions)
    assert [seen(await task) for task in waiting] == [(1, [], 0), (1, [1], 0), (1, [], 0)]


async def no_jobs(query: JobQuery) -> JobPage:
    return JobPage([], "")


async def test_closing_the_news_ends_the_watches_of_one_job_and_of_many(database: Database) -> None:
    """With the reason given, also those that come later."""
    publisher = ChangePublisher(database.load, no_jobs)
    many = publisher.filtered_watch.watch(JobFilter(), max_jobs=1)
    assert await anext(many) == ()
    waiting = [asyncio.create_task(anext(watch)) for watch in (many, publisher.broadcaster.watch("j"))]  # type: ignore[arg-type]
    await turn()
    publisher.close("closed")
    waiting += [asyncio.create_task(anext(publisher.filtered_watch.watch(JobFilter(), max_jobs=1)))]  # type: ignore[arg-type]
    for task in waiting:
        with pytest.raises(HandlerUnavailable, match="closed"):
            await asyncio.wait_for(task, 30)


async def test_a_removal_is_news_for_who_watches_one_job(database: Database) -> None:
    """Its watchers wait for the next job, together with those who come later."""
    publisher = ChangePublisher(database.load, no_jobs)
    database.report(COMPLETED)
    watches = [publisher.broadcaster.watch("j"), publisher.broadcaster.watch("j")]
    assert seen(await anext(watches[0])) == (1, [], 0)
    database.job = None
    publisher.remove(["j"])
    waiting = [begin(watch) for watch in watches]
    await turn()
    assert not any([task.done() for task in waiting])
    database.transitions = []
    change = database.commit(create_time=2)
    publisher.publish([change])
    assert [(await task).history_truncated for task in waiting] == [True, False]


@pytest.mark.parametrize("statuses", [[RUNNING], [RUNNING, COMPLETED, RUNNING, RUNNING, RUNNING]])
@pytest.mark.parametrize("is_waiting", [True, False])
async def test_the_job_after_a_removed_one_is_told_as_another(
    database: Database, statuses: list[JobState], is_waiting: bool
) -> None:
    """However far it has come before its watcher looks: the revisions of the two have nothing to do with each other."""
    for status in (RUNNING, RUNNING, COMPLETED):
        database.report(status)
    watch = database.broadcaster.watch("j", min_interval_seconds=3600)
    await anext(watch)
    waiting = begin(watch) if is_waiting else None
    await turn()
    remake(database)
    database.broadcaster.remove(["j"])
    if waiting is not None:
        await turn()
        assert not waiting.done()
    for status in statuses:
        change = database.commit(status, create_time=2)
        database.broadcaster.publish(change.job, change.transitions)
    update = await (waiting or anext(watch))
    assert (seen(update), update.history_truncated) == ((len(statuses), [], 0), True)
    change = database.commit(COMPLETED, create_time=2)
    database.broadcaster.publish(change.job, change.transitions)
    assert seen(await anext(watch)) == (len(statuses) + 1, [len(statuses) + 1], 0)


async def test_who_is_behind_a_removed_job_is_told_its_end_first(database: Database) -> None:
    """And at once, although it would have had to wait; then it waits for the next."""
    database.report()
    watch = database.broadcaster.watch("j", min_interval_seconds=3600, idle_seconds=0.01)
    await anext(watch)
    database.report()
    database.broadcaster.remove(["j"])
    database.job = None
    assert seen(await anext(watch)) == (2, [], 0)
    assert await anext(watch) is None
    assert set(database.broadcaster.watched) == {"j"}
    await watch.aclose()
    assert not database.broadcaster.watched


async def test_a_job_that_was_replaced_unnoticed_is_told_as_another(database: Database) -> None:
    """Also when all that is known of it is a later state, or what a watcher has loaded."""
    for status in (RUNNING, COMPLETED):
        database.report(status)
    first, second = database.broadcaster.watch("j"), database.broadcaster.watch("j")
    await anext(first)
    await anext(second)
    remake(database, RUNNING, COMPLETED, RUNNING)
    change = database.commit(RUNNING, create_time=2)
    database.broadcaster.publish(change.job, change.transitions)
    update = await anext(first)
    assert (seen(update), update.history_truncated) == ((4, [], 0), True)
    remake(database, RUNNING, create_time=3)
    assert seen(await anext(database.broadcaster.watch("j", after_revision=0))) == (1, [1], 0)
    update = await anext(second)
    assert (seen(update), update.history_truncated) == ((1, [], 0), True)


@pytest.mark.parametrize("first", [None, 0])
async def test_a_job_that_is_removed_during_the_load_is_awaited(
    database: Database, first: int | None
) -> None:
    """Whether the load still finds it or not, the watch goes on with what comes after it."""
    database.report(COMPLETED)
    database.gate = asyncio.Event()
    watch = database.broadcaster.watch("j", after_revision=first)
    waiting = begin(watch)
    await database.loading.wait()
    database.job = None
    database.broadcaster.remove(["j"])
    database.gate.set()
    await turn()
    assert not waiting.done()
    database.transitions = []
    change = database.commit(create_time=2)
    database.broadcaster.publish(change.job, change.transitions)
    assert seen(await waiting) == (1, [] if first is None else [1], 0)
    await watch.aclose()
    assert not database.broadcaster.watched


async def test_who_waits_for_a_load_while_its_job_is_replaced_is_told_the_new_one_once(
    database: Database,
) -> None:
    """The load may find it already; it is told nonetheless as what comes first, and not again."""
    database.commit(create_time=2)
    database.gate = asyncio.Event()
    watches = [database.broadcaster.watch("j", after_revision=after) for after in (4, None)]
    waiting = [begin(watch) for watch in watches]
    await database.loading.wait()
    database.broadcaster.remove(["j"])
    database.gate.set()
    assert [(await task).job.revision for task in waiting] == [1, 1]
    again = [begin(watch) for watch in watches]
    await turn()
    assert not any([task.done() for task in again])
    change = database.commit(COMPLETED, create_time=2)
    database.broadcaster.publish(change.job, change.transitions)
    assert [seen(await task) for task in again] == [(2, [2], 0)] * 2


async def test_a_database_that_was_set_back_is_believed(database: Database) -> None:
    """However far it has come again before a watcher looks, its history is not what the watcher was told."""
    for _ in range(4):
        database.report()
    watch = database.broadcaster.watch("j")
    await anext(watch)
    database.job = None
    for _ in range(2):
        database.commit()
    await database.broadcaster.refresh("j")
    for _ in range(4):
        database.report()
    update = await anext(watch)
    assert (seen(update), update.history_truncated) == ((6, [], 0), True)


async def test_a_refresh_finds_what_was_changed_and_what_was_removed(database: Database) -> None:
    """Of a job that exists no more, as when it is told so; of one that nobody watches, nothing."""
    database.report()
    watch = database.broadcaster.watch("j")
    await anext(watch)
    database.commit(COMPLETED)
    await database.broadcaster.refresh("j")
    assert seen(await anext(watch)) == (2, [2], 0)
    remake(database)
    await database.broadcaster.refresh("j")
    waiting = begin(database.broadcaster.watch("j"))
    await turn()
    assert not waiting.done()
    waiting.cancel()
    await turn()
    await database.broadcaster.refresh("unknown")
    assert database.broadcaster.known() == {}


async def test_closing_ends_the_watch_of_a_removed_job(database: Database) -> None:
    """Whether it has been told all of it or not."""
    database.report()
    watches = [database.broadcaster.watch("j") for _ in range(2)]
    for watch in watches:
        await anext(watch)
    waiting = begin(watches[0])
    await turn()
    database.job = None
    database.broadcaster.remove(["j"])
    await turn()
    database.broadcaster.close("closed")
    for task in (waiting, begin(watches[1])):
        with pytest.raises(HandlerUnavailable, match="closed"):
            await asyncio.wait_for(task, 30)
    assert not database.broadcaster.watched


async def test_a_deleted_job_does_not_make_its_watchers_spin(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher far behind a job whose rows have gone is told what is known, as truncated."""
    monkeypatch.setattr(broadcaster, "MAX_KNOWN_TRANSITIONS", 1)
    database.report()
    watch = database.broadcaster.watch("j")
    await anext(watch)
    for status in (COMPLETED, RUNNING, COMPLETED):
        database.report(status)
    database.job = None
    update = await anext(watch)
    assert (seen(update), update.history_truncated) == ((4, [4], 0), True)


async def test_an_idle_watch_says_so_again_and_again(database: Database) -> None:
    """None comes while there is no job, and after it while nothing happens; what happens then is told in full."""
    watch = database.broadcaster.watch("j", idle_seconds=0.01)
    assert [await anext(watch), await anext(watch)] == [None, None]
    database.report()
    first = await anext(watch)
    assert first is not None
    assert seen(first) == (1, [], 0)
    assert [await anext(watch), await anext(watch)] == [None, None]
    database.report()
    database.report(COMPLETED)
    second = await anext(watch)
    assert second is not None
    assert seen(second) == (3, [3], 1)
    await watch.aclose()


async def test_a_watch_that_holds_progress_back_is_idle_too(database: Database) -> None:
    """While progress is held back for longer than `idle_seconds`, None comes, and a transition still at once."""
    database.report()
    watch = database.broadcaster.watch("j", min_interval_seconds=3600, idle_seconds=0.01)
    assert await anext(watch) is not None
    database.report()
    assert [await anext(watch), await anext(watch)] == [None, None]
    database.report(COMPLETED)
    last = await anext(watch)
    assert last is not None
    assert seen(last) == (3, [3], 1)
    await watch.aclose()


async def test_where_others_write_a_newcomer_is_told_what_there_is_now(database: Database) -> None:
    """Also before anything was heard of it; and so is who watches already."""
    database.broadcaster = JobBroadcaster(database.load, is_shared=True)
    database.report()
    first = database.broadcaster.watch("j")
    await anext(first)
    database.commit(COMPLETED)
    second = database.broadcaster.watch("j", after_revision=0)
    assert seen(await anext(second)) == (2, [1, 2], 0)
    assert seen(await anext(first)) == (2, [2], 0)
    await first.aclose()
    await second.aclose()


async def test_newcomers_that_come_together_share_what_they_load(database: Database) -> None:
    """Each needs a load that began after it came: two serve any number."""
    database.broadcaster = JobBroadcaster(database.load, is_shared=True)
    database.report()
    watches = [database.broadcaster.watch("j") for _ in range(50)]
    await anext(watches[0])
    database.loads.clear()
    database.gate = asyncio.Event()
    waiting = [begin(watch) for watch in watches[1:]]
    await turn()
    database.gate.set()
    for task in waiting:
        assert seen(await task) == (1, [], 0)
    assert len(database.loads) <= 2
    for watch in watches:
        await watch.aclose()


async def test_a_newcomer_finds_a_job_that_others_have_removed(database: Database) -> None:
    """It waits for the next one under its id."""
    database.broadcaster = JobBroadcaster(database.load, is_shared=True)
    database.report()
    first = database.broadcaster.watch("j")
    await anext(first)
    database.job = None
    database.transitions.clear()
    waiting = begin(database.broadcaster.watch("j"))
    await turn()
    assert not waiting.done()
    change = database.commit(create_time=2)
    database.broadcaster.publish(change.job, change.transitions)
    assert seen(await waiting) == (1, [], 0)
    await first.aclose()


async def test_a_long_history_comes_in_parts_and_then_goes_on() -> None:
    """Each part ends at its own revision, at once, without pauses; then changes follow as ever."""
    database = Database()
    for _ in range(5):
        database.report(transition=True)
    load = database.load

    async def load_two(job_id: str, after_revision: int | None) -> JobHistory | None:
        history = await load(job_id, after_revision)
        if history is None or len(history.transitions) <= 2:
            return history
        part = history.transitions[:2]
        job = replace(history.job, revision=part[-1].revision)
        return JobHistory(job, part, history.after_revision, has_more=True)

    database.broadcaster._load = load_two
    watch = database.broadcaster.watch("j", after_revision=0, min_interval_seconds=3600.0)
    updates = [await anext(watch) for _ in range(3)]
    assert [update and (update.job.revision, update.has_more) for update in updates] == [
        (2, True),
        (4, True),
        (5, False),
    ]
    assert [item.revision for update in updates if update for item in update.transitions] == [1, 2, 3, 4, 5]
    database.report(transition=True)
    last = await anext(watch)
    assert last is not None
    assert [item.revision for item in last.transitions] == [6]
    await watch.aclose()
