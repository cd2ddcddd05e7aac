"""GroupCommit: what waits goes together, in order, and everyone gets their own results."""

import asyncio
from collections.abc import Sequence

import pytest

from emitd_handlers.durable.group_commit import GroupCommit


class Disk:
    """Commits when told to, and keeps the groups."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.error: BaseException | None = None
        self.drop = 0

    async def commit(self, items: Sequence[str]) -> Sequence[str]:
        self.groups.append(list(items))
        self.began.set()
        await self.gate.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return [item.upper() for item in items[self.drop :]]


async def test_what_arrives_during_a_commit_forms_the_next_group() -> None:
    """A lone submission is committed at once; those that come meanwhile share the next commit."""
    disk = Disk()
    group = GroupCommit(disk.commit, max_size=100)
    first = group.submit(["a"], 1)
    await disk.began.wait()
    second, third = group.submit(["b", "c"], 2), group.submit(["d"], 1)
    disk.gate.set()
    assert [await future for future in (first, second, third)] == [["A"], ["B", "C"], ["D"]]
    assert disk.groups == [["a"], ["b", "c", "d"]]


async def test_submissions_of_one_moment_share_a_commit() -> None:
    """Senders that submit before the loop turns need one commit between them."""
    disk = Disk()
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=100)
    await asyncio.gather(*(group.submit([letter], 1) for letter in "abcd"))
    assert disk.groups == [list("abcd")]


async def test_submissions_of_the_next_turns_share_a_commit() -> None:
    """While each turn of the loop brings a sender, the group waits for it."""
    disk = Disk()
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=100)
    futures = []
    for letter in "abcd":
        futures.append(group.submit([letter], 1))
        await asyncio.sleep(0)
    await asyncio.gather(*futures)
    assert disk.groups == [list("abcd")]


async def test_a_steady_stream_holds_no_group_back() -> None:
    """With a sender in each turn, the first group goes after some turns."""
    disk = Disk()
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=1000)
    futures = []
    for number in range(100):
        futures.append(group.submit([f"s{number}"], 1))
        await asyncio.sleep(0)
    assert futures[0].done()
    await asyncio.gather(*futures)
    assert [item for items in disk.groups for item in items] == [f"s{number}" for number in range(100)]


async def test_a_group_keeps_to_its_size_and_never_splits_a_submission() -> None:
    """A submission that would make the group too large waits whole; one too large by itself goes alone."""
    disk = Disk()
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=4)
    sizes = [("a", 2), ("b", 2), ("c", 3), ("d", 9), ("e", 1)]
    await asyncio.gather(*(group.submit([letter], size) for letter, size in sizes))
    assert disk.groups == [["a", "b"], ["c"], ["d"], ["e"]]


async def test_a_failed_commit_reaches_its_group_only() -> None:
    """Everyone of the failed group gets the error; the next group is committed."""
    disk = Disk()
    disk.error = OSError("disk full")
    group = GroupCommit(disk.commit, max_size=2)
    futures = [group.submit([letter], 1) for letter in "abc"]
    disk.gate.set()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError, list]
    assert results[2] == ["C"]


async def test_a_wrong_number_of_results_fails_the_group() -> None:
    """Results that do not match the items are given to nobody."""
    disk = Disk()
    disk.drop = 1
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=10)
    futures = [group.submit(["a", "b"], 2), group.submit(["c"], 1)]
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(result, RuntimeError)
        assert "3 items gave 2 results" in str(result)


async def test_a_waiter_that_goes_away_changes_nothing_for_the_others() -> None:
    """The items of a cancelled future are committed all the same."""
    disk = Disk()
    group = GroupCommit(disk.commit, max_size=10)
    gone, stays = group.submit(["a"], 1), group.submit(["b"], 1)
    gone.cancel()
    disk.gate.set()
    assert await stays == ["B"]
    assert disk.groups == [["a", "b"]]


async def test_a_waiter_that_goes_away_survives_a_failed_commit() -> None:
    """An error for a future that is cancelled already is not a second error."""
    disk = Disk()
    disk.error = OSError("disk full")
    group = GroupCommit(disk.commit, max_size=10)
    gone, stays = group.submit(["a"], 1), group.submit(["b"], 1)
    gone.cancel()
    disk.gate.set()
    with pytest.raises(OSError, match="disk full"):
        await stays


async def test_a_cancelled_commit_leaves_no_waiter_behind() -> None:
    """When the commit itself is cancelled its waiters get an error, and do not wait for ever."""
    disk = Disk()
    disk.error = asyncio.CancelledError()
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=10)
    with pytest.raises(RuntimeError, match="cut off"):
        await asyncio.wait_for(group.submit(["a"], 1), 30)
    assert await asyncio.wait_for(group.submit(["b"], 1), 30) == ["B"]


async def test_the_task_that_commits_can_be_cancelled() -> None:
    """Whoever ends the event loop ends the task, in the middle of a commit too, and its waiters with it."""
    disk = Disk()
    future = GroupCommit(disk.commit, max_size=10).submit(["a"], 1)
    await disk.began.wait()
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "group-commit"]
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert isinstance(future.exception(), RuntimeError)


async def test_drain_waits_for_everything() -> None:
    """`drain` returns when nothing waits any more, also if the last commit failed; then no task is left."""
    disk = Disk()
    group = GroupCommit(disk.commit, max_size=1)
    futures = [group.submit([letter], 1) for letter in "ab"]
    tasks = asyncio.all_tasks()
    draining = asyncio.ensure_future(group.drain())
    await disk.began.wait()
    assert not draining.done()
    disk.error = OSError("disk full")
    disk.gate.set()
    await draining
    assert all(future.done() for future in futures)
    assert asyncio.all_tasks() < tasks
    assert isinstance(futures[0].exception(), OSError)


async def test_drain_of_an_idle_group_returns_at_once() -> None:
    """Nothing submitted, nothing to wait for."""
    await GroupCommit(Disk().commit, max_size=1).drain()


class Turns:
    """Calls for `run`: each notes its beginning in the disk's groups, and waits for the disk's gate."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    async def call(self, name: str = "turn") -> str:
        return (await self.disk.commit([f"<{name}>"]))[0]


async def test_other_work_takes_its_turn_among_the_groups() -> None:
    """After all that was submitted before it, by itself, before what came later; its result is its caller's."""
    disk = Disk()
    turns = Turns(disk)
    group = GroupCommit(disk.commit, max_size=100)
    first, second = group.submit(["a"], 1), group.submit(["b"], 1)
    turn = asyncio.create_task(group.run(turns.call))
    await asyncio.sleep(0)
    third, fourth = group.submit(["c"], 1), group.submit(["d"], 1)
    disk.gate.set()
    assert await turn == "<TURN>"
    assert [await future for future in (first, second, third, fourth)] == [["A"], ["B"], ["C"], ["D"]]
    assert disk.groups == [["a", "b"], ["<turn>"], ["c", "d"]]


async def test_turns_come_one_after_the_other() -> None:
    """In the order in which they were asked for."""
    disk = Disk()
    turns = Turns(disk)
    group = GroupCommit(disk.commit, max_size=100)
    tasks = [asyncio.create_task(group.run(lambda name=name: turns.call(name))) for name in "abc"]  # type: ignore[misc]
    await disk.began.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert disk.groups == [["<a>"]]
    disk.gate.set()
    assert await asyncio.gather(*tasks) == ["<A>", "<B>", "<C>"]
    assert disk.groups == [["<a>"], ["<b>"], ["<c>"]]


async def test_a_turn_that_fails_reaches_its_caller_only() -> None:
    """The groups and turns after it go on."""
    disk = Disk()
    turns = Turns(disk)
    disk.error = OSError("disk full")
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=100)
    turn = asyncio.create_task(group.run(turns.call))
    await asyncio.sleep(0)
    after, next_turn = group.submit(["a"], 1), asyncio.create_task(group.run(turns.call))
    with pytest.raises(OSError, match="disk full"):
        await turn
    assert (await after, await next_turn) == (["A"], "<TURN>")


async def test_a_turn_that_has_begun_goes_on_without_its_caller() -> None:
    """Its end is awaited before anything else begins, whether it succeeds or fails."""
    for error in (None, OSError("disk full")):
        disk = Disk()
        turns = Turns(disk)
        disk.error = error
        group = GroupCommit(disk.commit, max_size=100)
        turn = asyncio.create_task(group.run(turns.call))
        await disk.began.wait()
        turn.cancel()
        await asyncio.wait([turn])
        assert turn.cancelled()
        after = group.submit(["a"], 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert disk.groups == [["<turn>"]]
        disk.gate.set()
        assert await after == ["A"]


async def test_a_turn_that_has_not_begun_goes_with_its_caller() -> None:
    """It is never called."""
    disk = Disk()
    turns = Turns(disk)
    group = GroupCommit(disk.commit, max_size=100)
    before = group.submit(["a"], 1)
    turn = asyncio.create_task(group.run(turns.call))
    await disk.began.wait()
    turn.cancel()
    await asyncio.wait([turn])
    disk.gate.set()
    assert await before == ["A"]
    await group.drain()
    assert disk.groups == [["a"]]


async def test_a_turn_that_is_cut_off_leaves_nobody_waiting() -> None:
    """When what it calls is cancelled its caller gets an error, and later submissions are committed."""
    disk = Disk()
    turns = Turns(disk)
    disk.error = asyncio.CancelledError()
    disk.gate.set()
    group = GroupCommit(disk.commit, max_size=10)
    with pytest.raises(RuntimeError, match="cut off"):
        await asyncio.wait_for(group.run(turns.call), 5)
    assert await asyncio.wait_for(group.submit(["b"], 1), 30) == ["B"]


async def test_drain_waits_for_turns_too() -> None:
    """Also for one whose caller has gone."""
    disk = Disk()
    turns = Turns(disk)
    group = GroupCommit(disk.commit, max_size=1)
    turn = asyncio.create_task(group.run(turns.call))
    await disk.began.wait()
    turn.cancel()
    draining = asyncio.ensure_future(group.drain())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not draining.done()
    disk.gate.set()
    await draining
