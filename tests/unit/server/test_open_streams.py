"""Open streams: they wait for what they wait for, until the server goes down."""

import asyncio
from typing import Any

import pytest

from emitd_server.errors import MemoryExhausted, ServiceStopping, StreamStalled, Unauthenticated
from emitd_server.memory import MemoryAccount
from emitd_server.rpc import open_streams
from emitd_server.rpc.open_streams import OpenStreams


class Reader:
    """A context of grpc whose other end takes messages when it is allowed to."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.taken: list[bytes] = []

    async def write(self, message: bytes) -> None:
        await self.takes.wait()
        self.taken.append(message)


async def test_closing_ends_every_wait() -> None:
    """A call that waits is ended because the service goes down, and so is one that comes later."""
    streams = OpenStreams()
    begun, cancelling = asyncio.Event(), []

    async def call() -> None:
        task: Any = asyncio.current_task()
        try:
            with streams.ending():
                begun.set()
                await asyncio.Event().wait()
        finally:
            cancelling.append(task.cancelling())

    task = asyncio.create_task(call())
    await begun.wait()
    streams.close()
    with pytest.raises(ServiceStopping):
        await task
    assert cancelling == [0], "the task must be able to wait once more, to say why it ends"
    with pytest.raises(ServiceStopping), streams.ending():
        pytest.fail("it began")
    assert not streams.endless


async def test_a_call_that_sends_is_left_alone_until_it_has_sent() -> None:
    """Closing interrupts no sending; a call with an end of its own is not ended at all."""
    streams = OpenStreams()
    reader: Any = Reader()

    async def watch() -> None:
        with streams.ending():
            while True:
                await streams.send(reader, b"x", 1)

    async def page() -> None:
        await streams.send(reader, b"y", 1)

    watching, paging = asyncio.create_task(watch()), asyncio.create_task(page())
    await asyncio.sleep(0.01)
    streams.close()
    await asyncio.sleep(0.01)
    assert not watching.done()
    reader.takes.set()
    with pytest.raises(ServiceStopping):
        await watching
    await paging
    assert reader.taken == [b"x", b"y"]


async def test_a_call_may_end_by_itself_or_by_its_caller() -> None:
    """Its result and its errors come through; a caller that goes away is no end of the service."""
    streams = OpenStreams()
    with streams.ending():
        assert await asyncio.sleep(0, 7) == 7
    with pytest.raises(KeyError), streams.ending():
        raise KeyError("x")

    async def call() -> None:
        with streams.ending():
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not streams.endless


async def test_a_call_is_ended_when_its_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error of the check, while it waits; one that sends has sent before."""
    monkeypatch.setattr(open_streams, "CHECK_SECONDS", 0.005)
    streams = OpenStreams()
    reader: Any = Reader()
    is_known = True

    def check() -> None:
        if not is_known:
            raise Unauthenticated("gone")

    async def tail(*, sends: bool) -> None:
        with streams.ending(check):
            if sends:
                await streams.send(reader, b"x", 1)
            await asyncio.Event().wait()

    waiting, sending = asyncio.create_task(tail(sends=False)), asyncio.create_task(tail(sends=True))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    is_known = False
    with pytest.raises(Unauthenticated, match="gone"):
        await waiting
    await asyncio.sleep(0.03)
    assert not sending.done()
    reader.takes.set()
    with pytest.raises(Unauthenticated, match="gone"):
        await sending
    assert reader.taken == [b"x"]
    assert not streams.endless


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
