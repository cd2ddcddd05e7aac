"""Open streams: they wait for what they wait for, until the server goes down."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from emitd_server.errors import MemoryExhausted, ServiceStopping, StreamStalled
from emitd_server.memory import MemoryAccount
from emitd_server.rpc.open_streams import OpenStreams


async def numbers() -> AsyncGenerator[int, None]:
    yield 1
    yield 2
    await asyncio.Event().wait()


async def test_a_wait_gives_its_result() -> None:
    """What is waited for comes through, an exception too."""
    streams = OpenStreams()
    with streams:
        assert await asyncio.sleep(0, 7) == 7
    with pytest.raises(KeyError), streams:
        raise KeyError("x")


async def test_closing_ends_every_wait() -> None:
    """A stream that idles is told that the service is going down, and so is one that comes later."""
    streams = OpenStreams()
    got: list[int] = []
    cancelling: list[int] = []

    async def stream() -> None:
        try:
            async for number in streams.iterate(numbers()):
                got.append(number)
        finally:
            task = asyncio.current_task()
            assert task is not None
            cancelling.append(task.cancelling())

    task = asyncio.create_task(stream())
    while len(got) < 2:
        await asyncio.sleep(0)
    streams.close()
    with pytest.raises(ServiceStopping):
        await task
    assert got == [1, 2]
    assert cancelling == [0], "the task must be able to wait once more, to say why it ends"
    with pytest.raises(ServiceStopping), streams:
        pass


async def test_a_stream_that_sends_is_left_alone_until_it_waits() -> None:
    """Closing interrupts no sending: the stream is told when it asks for the next item."""
    streams = OpenStreams()
    sending, sent = asyncio.Event(), asyncio.Event()

    async def stream() -> None:
        async for _ in streams.iterate(numbers()):
            sending.set()
            await sent.wait()

    task = asyncio.create_task(stream())
    await sending.wait()
    streams.close()
    await asyncio.sleep(0.01)
    assert not task.done()
    sent.set()
    with pytest.raises(ServiceStopping):
        await task


async def test_a_stream_ends_with_its_items() -> None:
    """An iterator that ends, ends the stream without an error."""

    async def few() -> AsyncGenerator[int, None]:
        yield 1

    assert [number async for number in OpenStreams().iterate(few())] == [1]


async def test_a_caller_that_goes_away_ends_the_wait() -> None:
    """Cancelling the stream ends what it waits for, and stays a cancellation."""
    streams = OpenStreams()
    waits, ended = asyncio.Event(), asyncio.Event()

    async def forever() -> AsyncGenerator[int, None]:
        try:
            waits.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            ended.set()

    async def stream() -> None:
        async for _ in streams.iterate(forever()):
            pass

    task = asyncio.create_task(stream())
    await waits.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert ended.is_set()


async def test_a_stream_may_move_to_another_task() -> None:
    """Closing cancels the task that waits now, and not the one that waited before."""
    streams = OpenStreams()
    stream = streams.iterate(numbers())

    async def take() -> int:
        return await anext(stream)

    assert await take() == 1
    assert await asyncio.create_task(take()) == 2
    waiting = asyncio.create_task(take())
    await asyncio.sleep(0.01)
    streams.close()
    with pytest.raises(ServiceStopping):
        await waiting


class Reader:
    """A context of grpc whose other end takes messages when it is allowed to."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.taken: list[bytes] = []

    async def write(self, message: bytes) -> None:
        await self.takes.wait()
        self.taken.append(message)


async def test_what_is_not_taken_is_charged() -> None:
    """Also after the stream has stalled, until grpc lets go of it."""
    memory = MemoryAccount(1_000_000)
    streams = OpenStreams(memory, stall_seconds=0.02)
    reader: Any = Reader()
    with pytest.raises(StreamStalled, match=r"server\.watch\.stall_seconds"):
        await streams.send(reader, b"x", 100_000)
    assert memory.held == 200_000
    reader.takes.set()
    await asyncio.sleep(0.01)
    assert (reader.taken, memory.held) == ([b"x"], 0)


async def test_streams_hold_half_of_the_account() -> None:
    """More is refused, but the reply to what was carried out is sent whatever is held."""
    memory = MemoryAccount(1_000_000)
    streams = OpenStreams(memory, stall_seconds=0.02)
    silent: Any = Reader()
    for size in (100_000, 100_000, 1):
        with pytest.raises(StreamStalled):
            await streams.send(silent, b"x", size)
    quick: Any = Reader()
    quick.takes.set()
    with pytest.raises(MemoryExhausted, match="memory_bytes"):
        await streams.send(quick, b"y", 100_000)
    await streams.send(quick, b"z", 100_000, is_owed=True)
    assert (quick.taken, memory.held) == ([b"z"], 400_000)
    memory.add(2_000_000)
    with pytest.raises(MemoryExhausted):
        await streams.send(quick, b"y", 5000)
    silent.takes.set()
    await asyncio.sleep(0.01)


async def test_a_message_larger_than_the_share_is_sent_if_it_is_alone() -> None:
    """Otherwise a small account would never send it."""
    streams = OpenStreams(MemoryAccount(10))
    quick: Any = Reader()
    quick.takes.set()
    await streams.send(quick, b"x", 100_000)
    assert quick.taken == [b"x"]


async def test_one_timer_ends_each_call_that_stalls_and_no_other() -> None:
    """One that began to send later has its own time, and a caller that goes away is no stall."""
    streams = OpenStreams(stall_seconds=0.1)
    silent: Any = Reader()

    async def send_after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(StreamStalled):
            await streams.send(silent, b"x", 1)
        return asyncio.get_running_loop().time() - begun

    leaves = asyncio.create_task(streams.send(silent, b"y", 1))
    first, second = asyncio.create_task(send_after(0.0)), asyncio.create_task(send_after(0.07))
    await asyncio.sleep(0.01)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    assert await first >= 0.1
    assert await second >= 0.1
    assert not streams._sending


async def test_a_call_that_has_sent_may_wait_for_as_long_as_it_likes() -> None:
    """Only sending can stall."""
    streams = OpenStreams(stall_seconds=0.02)
    quick: Any = Reader()
    quick.takes.set()
    await streams.send(quick, b"x", 1)
    await asyncio.sleep(0.1)
    assert quick.taken == [b"x"]
