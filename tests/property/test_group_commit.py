"""GroupCommit against a model, for any sequence of submissions and failures."""

import asyncio
from collections.abc import Sequence
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.durable.group_commit import GroupCommit

#: For each submission: how many items, what size, how often the loop turns before it, cancelled or not.
_submissions = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 12), st.integers(0, 3), st.booleans()), max_size=30
)


@given(_submissions, st.lists(st.booleans(), max_size=30), st.integers(0, 2))
def test_every_submission_is_committed_once_whole_and_in_order(
    submissions: list[tuple[int, int, int, bool]], failures: list[bool], turns: int
) -> None:
    """Groups are whole submissions in order, within the size; each waiter gets its own results or error."""
    max_size = 10
    groups: list[list[tuple[int, int]]] = []

    async def commit(items: Sequence[tuple[int, int]]) -> Sequence[tuple[str, int, int]]:
        number = len(groups)
        groups.append(list(items))
        for _ in range(turns):
            await asyncio.sleep(0)
        if number < len(failures) and failures[number]:
            raise OSError(str(number))
        return [("done", *item) for item in items]

    async def run() -> list[asyncio.Future[Sequence[tuple[str, int, int]]]]:
        group = GroupCommit(commit, max_size=max_size)
        futures = []
        for number, (count, size, pause, cancelled) in enumerate(submissions):
            for _ in range(pause):
                await asyncio.sleep(0)
            futures.append(group.submit([(number, item) for item in range(count)], size))
            if cancelled:
                futures[-1].cancel()
        await group.drain()
        return futures

    futures = asyncio.run(run())

    items = [[(number, item) for item in range(count)] for number, (count, _, _, _) in enumerate(submissions)]
    assert [item for group in groups for item in group] == [item for part in items for item in part]
    for index, group in enumerate(groups):
        numbers = sorted({number for number, _ in group})
        assert group == [item for number in numbers for item in items[number]]
        assert len(numbers) == 1 or sum(submissions[number][1] for number in numbers) <= max_size
        failed = index < len(failures) and failures[index]
        for number in numbers:
            future = futures[number]
            if submissions[number][3]:
                assert future.cancelled()
            elif failed:
                assert str(future.exception()) == str(index)
            else:
                assert future.result() == [("done", *item) for item in items[number]]


#: Each a submission of one item or a turn, cancelled or not, and how often the loop turns before it.
_mixed = st.lists(
    st.tuples(st.sampled_from(["submit", "run"]), st.booleans(), st.integers(0, 3)), max_size=30
)


@given(_mixed, st.lists(st.booleans(), max_size=30), st.integers(0, 2))
def test_turns_and_submissions_keep_their_order(
    items: list[tuple[str, bool, int]], failures: list[bool], turns: int
) -> None:
    """One at a time and in the order of their coming, whatever fails or is cancelled."""
    done: list[int] = []
    under_way = 0
    count = 0

    async def work(numbers: Sequence[int]) -> Sequence[int]:
        nonlocal under_way, count
        under_way += 1
        assert under_way == 1
        count += 1
        fails = count <= len(failures) and failures[count - 1]
        for _ in range(turns):
            await asyncio.sleep(0)
        under_way -= 1
        done.extend(numbers)
        if fails:
            raise OSError
        return numbers

    async def take_turn(number: int) -> int:
        return (await work([number]))[0]

    async def run() -> list[object]:
        group: GroupCommit[int, int] = GroupCommit(work, max_size=5)
        waiting: list[asyncio.Future[object]] = []
        for number, (kind, cancelled, pause) in enumerate(items):
            for _ in range(pause):
                await asyncio.sleep(0)
            future: asyncio.Future[object]
            if kind == "submit":
                future = asyncio.ensure_future(group.submit([number], 1))
            else:
                future = asyncio.ensure_future(group.run(partial(take_turn, number)))
                await asyncio.sleep(0)  # it asks when its task begins
            if cancelled:
                future.cancel()
            waiting.append(future)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        await group.drain()
        return results

    for number, ((kind, cancelled, _), result) in enumerate(zip(items, asyncio.run(run()), strict=True)):
        if kind == "submit" or not cancelled:
            assert number in done
        if not isinstance(result, asyncio.CancelledError | OSError):
            assert result == ([number] if kind == "submit" else number)
    assert done == sorted(set(done))
