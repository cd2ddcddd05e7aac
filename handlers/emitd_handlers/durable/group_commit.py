"""Group commit: items that arrive while one commit is under way go into the next, together.

One commit costs a sync of the disk whatever its size, so the cost for each record falls as load rises. A lone record
waits for company one turn of the event loop, and no longer.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

#: How many turns of the loop a group waits for company at most.
MAX_TURNS = 8

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")


class _Turn(NamedTuple):
    """Work that runs between two groups."""

    call: Callable[[], Awaitable[object]]
    future: asyncio.Future[object]


class GroupCommit(Generic[T, R]):
    """Gathers submissions and hands them to `commit`, one group at a time, in order.

    `commit(items)` returns a result for each item, in order. An exception of it reaches every submission of
    that group; so does a result of another length, as a RuntimeError. A submission is never split over two
    groups; a group holds whole submissions up to `max_size` in all (by the sizes given), and at least one.

    Other work on the same store takes its turn between groups, by `run`.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, max_size: int) -> None:
        self._commit = commit
        self._max_size = max_size
        self._waiting: deque[_Submission[T, R] | _Turn] = deque()
        self._task: asyncio.Task[None] | None = None

    def submit(self, items: Sequence[T], size: int) -> asyncio.Future[Sequence[R]]:
        """Commit `items` with the next group; the future gets their results, in order.

        Cancelling the future does not take the items out of their group.
        """
        future: asyncio.Future[Sequence[R]] = asyncio.get_running_loop().create_future()
        self._enqueue((items, size, future))
        return future

    async def run(self, call: Callable[[], Awaitable[V]]) -> V:
        """Return what `call()` does, run by itself: after all that is submitted by now, before what comes later.

        Cancelling the wait does not stop a call that has begun, and takes out one that has not.
        """
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._enqueue(_Turn(call, future))  # type: ignore[arg-type]  # only ever given what its own call returns
        return await future

    async def drain(self) -> None:
        """Return when all submissions have been committed, or have failed."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _enqueue(self, item: "_Submission[T, R] | _Turn") -> None:
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="group-commit")

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._let_more_come()
                first = self._waiting.popleft()
                if isinstance(first, _Turn):
                    await _take(first)
                else:
                    await self._commit_group(first)
        finally:
            self._task = None

    async def _let_more_come(self) -> None:
        """Turn the loop while each turn brings submissions: calls that came together go together."""
        count = 0
        for _ in range(MAX_TURNS):
            if count == len(self._waiting):
                return
            count = len(self._waiting)
            await asyncio.sleep(0)

    async def _commit_group(self, first: "_Submission[T, R]") -> None:
        group = [first]
        size = first[1]
        while self._waiting:
            following = self._waiting[0]
            if isinstance(following, _Turn) or size + following[1] > self._max_size:
                break
            self._waiting.popleft()
            group.append(following)
            size += following[1]
        items = group[0][0] if len(group) == 1 else [item for part, _, _ in group for item in part]
        try:
            results = await self._commit(items)
            if len(results) != len(items):
                raise RuntimeError(f"the commit of {len(items)} items gave {len(results)} results")
        except BaseException as error:
            _fail([future for _, _, future in group], error)
            return
        start = 0
        for part, _, future in group:
            end = start + len(part)
            if not future.done():
                future.set_result(results[start:end])
            start = end


_Submission: TypeAlias = tuple[Sequence[T], int, asyncio.Future[Sequence[R]]]


async def _take(turn: _Turn) -> None:
    if turn.future.done():  # its caller was cancelled
        return
    try:
        result = await turn.call()
    except BaseException as error:
        _fail([turn.future], error)
        return
    if not turn.future.done():
        turn.future.set_result(result)


def _fail(
    futures: "Sequence[asyncio.Future[Sequence[R]] | asyncio.Future[object]]", error: BaseException
) -> None:
    """Fail the futures; raise an error again that must end the task."""
    failure = error if isinstance(error, Exception) else RuntimeError(f"cut off by {error!r}")
    for future in futures:
        if not future.done():
            future.set_exception(failure)
    if failure is not error:
        raise error
