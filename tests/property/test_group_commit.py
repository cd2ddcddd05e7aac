"""GroupCommit against a model, for any sequence of submissions and failures."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.group_commit import GroupCommit

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
