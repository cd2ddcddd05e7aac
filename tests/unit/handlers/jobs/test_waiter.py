"""Waiter and Turns: many watches tell their news in turn, and a slow one holds up nobody for long."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

from emitd_handlers.jobs.source import Job, JobFilter, JobPage, JobQuery
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.watch import waiter
from emitd_handlers.jobs.watch.broadcaster import JobBroadcaster
from emitd_handlers.jobs.watch.filtered import FilteredWatch
from emitd_handlers.jobs.watch.waiter import (
    FEW_TURNS,
    MAX_OVERTAKEN,
    MAX_STANDSTILL_SECONDS,
    MAX_TURNS,
    Turns,
    Waiter,
    wake_all,
)
from emitd_handlers.record import JobState
from support.processes.virtual_time import VirtualTimeLoop


class Crowd:
    """Watches that wait for the same news, and hold their turns until they are told to give them back."""

    def __init__(self, count: int) -> None:
        self.turns = Turns()
        self.waiting: set[Waiter] = set()
        self.waiters = [Waiter(self.turns, None) for _ in range(count)]
        #: The numbers of those that have got a turn, in order.
        self.told: list[int] = []
        self.tasks = [asyncio.create_task(self.wait(number)) for number in range(count)]

    async def wait(self, number: int) -> None:
        assert await self.waiters[number].wait_in(self.waiting)
        self.told.append(number)

    async def call(self, numbers: Iterable[int]) -> None:
        """Let these have news, one after the other."""
        for number in numbers:
            self.waiters[number].wake_in_turn()
        await turn()

    async def give_back(self, numbers: Iterable[int]) -> None:
        """Let these have told their news."""
        for number in numbers:
            self.waiters[number].restart()
        await turn()

    async def ask_again(self, number: int) -> "asyncio.Task[bool]":
        """Let one have more news at once."""
        task = asyncio.create_task(self.waiters[number].take_turn())
        self.tasks.append(task)  # type: ignore[arg-type]
        await turn()
        return task

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def turn() -> None:
    """Let every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def with_crowd(count: int) -> Callable[[Callable[[Crowd], Awaitable[None]]], Callable[[], None]]:
    """Run a scenario with so many watches, where waiting takes no time."""

    def decorate(scenario: Callable[[Crowd], Awaitable[None]]) -> Callable[[], None]:
        async def run() -> None:
            crowd = Crowd(count)
            await turn()
            try:
                await scenario(crowd)
            finally:
                await crowd.close()

        def test() -> None:
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                runner.run(run())

        test.__doc__ = scenario.__doc__
        return test

    return decorate


@with_crowd(10)
async def test_few_are_woken_at_once(crowd: Crowd) -> None:
    """In the order in which they have news, each once, however often it has."""
    await crowd.call([3, 1, 3, 2])
    assert crowd.told == [3, 1, 2]
    wake_all(crowd.waiting)
    await turn()
    assert sorted(crowd.told) == list(range(10))
    assert not crowd.waiting


@with_crowd(3 * MAX_TURNS)
async def test_only_so_many_have_a_turn(crowd: Crowd) -> None:
    """The others get theirs in order, many at once, when few are left."""
    await crowd.call(range(3 * MAX_TURNS))
    await crowd.call(range(3 * MAX_TURNS))
    first = len(crowd.told)
    assert crowd.told == list(range(first))
    assert first <= MAX_TURNS
    assert len(crowd.turns._queue) == 3 * MAX_TURNS - first
    await crowd.give_back(range(first))
    assert crowd.told == list(range(len(crowd.told)))
    assert len(crowd.told) - first <= MAX_TURNS
    while len(crowd.told) < 3 * MAX_TURNS:
        before = len(crowd.told)
        await crowd.give_back([number for number in range(before) if crowd.waiters[number].has_turn])
        assert len(crowd.told) > before
    assert crowd.told == list(range(3 * MAX_TURNS))


@with_crowd(3 * MAX_TURNS)
async def test_turns_are_given_many_at_once(crowd: Crowd) -> None:
    """Not one for one that ends, but up to the full number when few are left."""
    await crowd.call(range(3 * MAX_TURNS))
    first = len(crowd.told)
    await crowd.give_back(range(first - FEW_TURNS))
    assert len(crowd.told) == first + MAX_TURNS - FEW_TURNS
    before = len(crowd.told)
    holders = [number for number in range(before) if crowd.waiters[number].has_turn]
    await crowd.give_back(holders[: MAX_TURNS - FEW_TURNS - 1])
    assert len(crowd.told) == before
    await crowd.give_back(holders[MAX_TURNS - FEW_TURNS - 1 :][:1])
    assert len(crowd.told) == before + MAX_TURNS - FEW_TURNS


@with_crowd(4 * MAX_TURNS)
async def test_who_has_more_news_comes_behind_those_who_wait(crowd: Crowd) -> None:
    """A fast reader does not get two turns before others get one."""
    await crowd.call(range(2 * MAX_TURNS))
    await crowd.give_back([0])
    again = await crowd.ask_again(0)
    while not again.done():
        await crowd.give_back([n for n in range(1, 2 * MAX_TURNS) if crowd.waiters[n].has_turn])
    assert len(crowd.told) == 2 * MAX_TURNS


@with_crowd(3)
async def test_without_others_the_next_turn_is_there_at_once(crowd: Crowd) -> None:
    """Who has a turn keeps it until its news are told; who waits for news gives it back."""
    await crowd.call([0])
    watch = crowd.waiters[0]
    assert await watch.take_turn()
    await crowd.call([0])
    assert not watch.is_queued
    watch.restart()
    assert not watch.has_turn
    assert await watch.take_turn()
    task = asyncio.create_task(watch.wait_in(crowd.waiting))
    await turn()
    assert not watch.has_turn
    wake_all(crowd.waiting)
    assert await task


@with_crowd(MAX_OVERTAKEN + 3 * MAX_TURNS)
async def test_slow_readers_hold_up_others_once(crowd: Crowd) -> None:
    """Turns that are overtaken by many do not count any more, nor do the next ones of those watches."""
    count = len(crowd.waiters)
    slow = range(20)
    await crowd.call(range(count))
    while len(crowd.told) < count:
        await crowd.give_back([n for n in range(20, count) if crowd.waiters[n].has_turn])
    assert len(crowd.turns._taken) <= MAX_TURNS
    assert not any(crowd.waiters[number] in crowd.turns._taken for number in slow)
    await crowd.give_back(slow)
    for number in slow:
        assert await (await crowd.ask_again(number))
    assert not any(crowd.waiters[number] in crowd.turns._taken for number in slow)
    await crowd.give_back(slow)
    assert await (await crowd.ask_again(0))
    assert crowd.waiters[0] in crowd.turns._taken, "its last turn was short"


@with_crowd(3 * MAX_TURNS)
async def test_when_all_readers_are_slow_the_next_get_their_turns(crowd: Crowd) -> None:
    """A standstill of all turns ends after a moment, again and again."""
    await crowd.call(range(3 * MAX_TURNS))
    assert len(crowd.told) < 3 * MAX_TURNS
    for _ in range(8):
        await asyncio.sleep(MAX_STANDSTILL_SECONDS)
    assert crowd.told == list(range(3 * MAX_TURNS))


@with_crowd(3 * MAX_TURNS)
async def test_much_to_do_is_no_standstill(crowd: Crowd) -> None:
    """While turns end, however seldom, no more than so many are given."""
    await crowd.call(range(3 * MAX_TURNS))
    for _ in range(20):
        await asyncio.sleep(0.6 * MAX_STANDSTILL_SECONDS)
        holder = next(number for number in crowd.told if crowd.waiters[number].has_turn)
        await crowd.give_back([holder])
        assert sum(watch.has_turn for watch in crowd.waiters) <= MAX_TURNS


@with_crowd(3 * MAX_TURNS)
async def test_watches_that_leave_make_room(crowd: Crowd) -> None:
    """One that has a turn gives it back, and one that waits for one does not get it."""
    await crowd.call(range(3 * MAX_TURNS))
    waiting = next(n for n in range(3 * MAX_TURNS) if crowd.waiters[n].is_queued)
    crowd.waiters[waiting].close()
    for number in list(crowd.told):
        crowd.waiters[number].close()
    await turn()
    assert waiting not in crowd.told
    assert waiting + 1 in crowd.told


@with_crowd(2 * MAX_TURNS)
async def test_the_end_of_a_pause_waits_for_its_turn(crowd: Crowd) -> None:
    """A timer wakes no watch past those that were there before."""
    await crowd.call(range(2 * MAX_TURNS - 1))
    late = crowd.waiters[-1]
    pausing: set[Waiter] = set()
    task = asyncio.create_task(late.wait_in(pausing, asyncio.get_running_loop().time() + 0.01))
    await asyncio.sleep(0.02)
    assert (task.done(), late.is_queued) == (False, True)
    while not task.done():
        await crowd.give_back([n for n in range(2 * MAX_TURNS - 1) if crowd.waiters[n].has_turn])
    assert set(range(2 * MAX_TURNS - 1)) <= set(crowd.told)


def one_turn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "MAX_TURNS", 1)
    monkeypatch.setattr(waiter, "FEW_TURNS", 0)


def job(revision: int) -> Job:
    return Job(job_id="j", job_type="t", status=JobState.RUNNING, revision=revision)


async def test_a_watcher_that_has_news_at_once_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes back from a message and finds another waits behind those who send, and is told the newest then."""
    one_turn_at_a_time(monkeypatch)

    async def load(job_id: str, after_revision: int | None) -> JobHistory | None:
        return JobHistory(job(1), (), 1)

    broadcaster = JobBroadcaster(load)
    first, second = broadcaster.watch("j"), broadcaster.watch("j")
    await anext(first)
    await anext(second)
    broadcaster.publish(job(2))
    await anext(first)
    waiting = asyncio.create_task(anext(second))  # type: ignore[arg-type]  # a coroutine, says the documentation
    await turn()
    assert not waiting.done()
    broadcaster.publish(job(3))
    await first.aclose()
    update = await waiting
    assert update is not None
    assert (update.job.revision, update.coalesced_count) == (3, 1)
    await second.aclose()


async def test_a_reader_that_has_news_at_once_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does one of many jobs."""
    one_turn_at_a_time(monkeypatch)

    async def list_jobs(query: JobQuery) -> JobPage:
        return JobPage((), "")

    filtered_watch = FilteredWatch(list_jobs)
    first, second = (filtered_watch.watch(JobFilter(), max_jobs=9) for _ in range(2))
    await anext(first)
    await anext(second)
    filtered_watch.publish(job(1))
    await anext(first)
    waiting = asyncio.create_task(anext(second))  # type: ignore[arg-type]  # as above
    await turn()
    assert not waiting.done()
    filtered_watch.publish(job(2))
    await first.aclose()
    assert [change.revision for change in await waiting or ()] == [2]
    await second.aclose()


@pytest.mark.parametrize("idle_seconds", [None, 5.0])
def test_no_timer_is_left_of_a_watch_that_is_closed(idle_seconds: float | None) -> None:
    """Neither of its wait nor of its clock."""

    async def scenario() -> None:
        watch = Waiter(Turns(), idle_seconds)
        task = asyncio.create_task(watch.wait_in(set(), 100.0))
        await turn()
        task.cancel()
        await asyncio.wait([task])
        watch.close()
        loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        assert all(timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())
