"""Turns: one call at a time, in order, and nobody's cancellation harms another."""

import asyncio
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.jobs.handler import Turns


class Work:
    """Calls that note their beginning and wait for a gate."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gate = asyncio.Event()
        self.error: BaseException | None = None

    async def call(self, name: str) -> str:
        self.begun.append(name)
        await self.gate.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return name.upper()


def start(turns: Turns, work: Work, name: str) -> asyncio.Task[str]:
    return asyncio.create_task(turns.run(partial(work.call, name)))


async def turn_loop() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_calls_come_one_after_the_other() -> None:
    """In the order in which they were asked for; each caller gets its own result."""
    turns, work = Turns(), Work()
    tasks = [start(turns, work, name) for name in "abc"]
    await turn_loop()
    assert work.begun == ["a"]
    work.gate.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]
    assert work.begun == ["a", "b", "c"]


@pytest.mark.parametrize("error", [OSError("disk full"), asyncio.CancelledError()])
async def test_a_call_that_fails_or_is_cut_off_reaches_its_caller_only(error: BaseException) -> None:
    """The calls after it go on."""
    turns, work = Turns(), Work()
    work.error = error
    work.gate.set()
    first, second = start(turns, work, "a"), start(turns, work, "b")
    with pytest.raises((OSError, RuntimeError), match=r"disk full|cut off"):
        await first
    assert await second == "B"


@pytest.mark.parametrize("error", [None, OSError("disk full")])
async def test_a_call_that_has_begun_goes_on_without_its_caller(error: Exception | None) -> None:
    """Its end is awaited before anything else begins, whether it succeeds or fails."""
    turns, work = Turns(), Work()
    work.error = error
    gone = start(turns, work, "a")
    await turn_loop()
    gone.cancel()
    await asyncio.wait([gone])
    assert gone.cancelled()
    after = start(turns, work, "b")
    await turn_loop()
    assert work.begun == ["a"]
    work.gate.set()
    assert await after == "B"


async def test_a_call_that_has_not_begun_goes_with_its_caller() -> None:
    """It is never made."""
    turns, work = Turns(), Work()
    before, gone, after = (start(turns, work, name) for name in "abc")
    await turn_loop()
    gone.cancel()
    work.gate.set()
    assert await asyncio.gather(before, after) == ["A", "C"]
    assert work.begun == ["a", "c"]


async def test_a_caller_that_is_cancelled_with_its_call_is_cancelled() -> None:
    """As at the end of the event loop, which cancels all tasks."""
    turns, work = Turns(), Work()
    caller = start(turns, work, "a")
    await turn_loop()
    assert turns._task is not None
    caller.cancel()
    turns._task.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()


async def test_drain_waits_for_all_that_has_come() -> None:
    """Also for a call whose caller has gone; without any it returns at once."""
    turns, work = Turns(), Work()
    await turns.drain()
    tasks = [start(turns, work, name) for name in "ab"]
    await turn_loop()
    tasks[0].cancel()
    draining = asyncio.create_task(turns.drain())
    await turn_loop()
    assert not draining.done()
    work.gate.set()
    await draining
    assert work.begun == ["a", "b"]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), max_size=30), st.integers(0, 2))
def test_any_calls_keep_their_order(calls: list[tuple[bool, bool, int]], pauses: int) -> None:
    """One at a time and in the order of their coming, whatever fails or is cancelled."""
    done: list[int] = []
    under_way: list[int] = []

    async def work(number: int, fails: bool) -> int:
        under_way.append(number)
        assert under_way == [number]
        for _ in range(pauses):
            await asyncio.sleep(0)
        under_way.remove(number)
        done.append(number)
        if fails:
            raise OSError
        return number

    async def run() -> list[object]:
        turns = Turns()
        waiting: list[asyncio.Task[int]] = []
        for number, (fails, cancelled, pause) in enumerate(calls):
            for _ in range(pause):
                await asyncio.sleep(0)
            waiting.append(asyncio.create_task(turns.run(partial(work, number, fails))))
            await asyncio.sleep(0)  # it asks when its task begins
            if cancelled:
                waiting[-1].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        await turns.drain()
        return results

    for number, ((fails, cancelled, _), result) in enumerate(zip(calls, asyncio.run(run()), strict=True)):
        if not cancelled:
            assert number in done
            assert isinstance(result, OSError) if fails else result == number
    assert done == sorted(set(done))
