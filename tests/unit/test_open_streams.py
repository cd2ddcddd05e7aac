"""Open streams: they wait for what they wait for, until the server goes down."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from emitd_server.errors import ServiceStopping
from emitd_server.open_streams import OpenStreams


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2
    await asyncio.Event().wait()


async def test_a_wait_gives_its_result() -> None:
    """What is waited for comes through, an exception too."""

    async def seven() -> int:
        return 7

    async def broken() -> int:
        raise KeyError("x")

    streams = OpenStreams()
    assert await streams.wait(seven()) == 7
    with pytest.raises(KeyError):
        await streams.wait(broken())


async def test_closing_ends_every_wait() -> None:
    """A stream that idles is told that the service is going down, and so is one that comes later."""
    streams = OpenStreams()
    got: list[int] = []

    async def stream() -> None:
        async for number in streams.iterate(numbers()):
            got.append(number)

    task = asyncio.create_task(stream())
    while len(got) < 2:
        await asyncio.sleep(0)
    streams.close()
    with pytest.raises(ServiceStopping):
        await task
    assert got == [1, 2]
    with pytest.raises(ServiceStopping):
        await streams.wait(asyncio.sleep(0))


async def test_a_stream_ends_with_its_items() -> None:
    """An iterator that ends, ends the stream without an error."""

    async def few() -> AsyncIterator[int]:
        yield 1

    assert [number async for number in OpenStreams().iterate(few())] == [1]


async def test_a_caller_that_goes_away_ends_the_wait() -> None:
    """Cancelling the stream cancels what it waits for."""
    streams = OpenStreams()
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(streams.wait(forever()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.wait_for(ended.wait(), 5)
