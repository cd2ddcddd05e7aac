"""How requests come in: one at a time for each slot, charged until the reply, and refused with a status that fits."""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from emitd.v1 import log_service_pb2 as pb
from emitd_server.errors import MemoryExhausted, RequestInvalid, RequestLate
from emitd_server.memory import MemoryAccount
from emitd_server.rpc import intake, methods
from emitd_server.rpc.intake import Intake
from emitd_server.settings import LimitSettings

LIMITS = LimitSettings(max_request_bytes=1000)
LINE = pb.EmitRequest(record={"level": 20, "message": "x" * 100}).SerializeToString()  # type: ignore[arg-type]


class Call:
    """A call whose request comes when `sent` is set."""

    def __init__(self, requests: Iterable[bytes] = (LINE,), *, sent: bool = True) -> None:
        self._requests = list(requests)
        self.sent = asyncio.Event()
        if sent:
            self.sent.set()
        self.is_read = False

    async def read(self) -> Any:
        self.is_read = True
        await self.sent.wait()
        return self._requests.pop(0) if self._requests else grpc.aio.EOF  # type: ignore[attr-defined]


async def receive(into: Intake, call: Call, principal: str = "") -> Any:
    return await into.receiver(pb.EmitRequest)(call, principal)


async def test_a_request_is_charged_from_arrival_to_release() -> None:
    """First for the largest that may come, then for what came."""
    memory = MemoryAccount(100_000)
    call = Call(sent=False)
    task = asyncio.create_task(receive(Intake(LIMITS, memory), call))
    await asyncio.sleep(0.01)
    assert memory.held == 1000
    call.sent.set()
    data, charge, _ = await task
    assert data == LINE
    assert memory.held == charge.size > len(LINE)
    charge.release()
    assert memory.held == 0


async def test_without_room_nothing_is_read() -> None:
    """The request stays with its sender."""
    memory = MemoryAccount(100_000)
    memory.add(99_500)
    call = Call()
    with pytest.raises(MemoryExhausted):
        await receive(Intake(LIMITS, memory), call)
    assert not call.is_read
    assert memory.held == 99_500


async def test_few_requests_are_read_at_once_and_the_others_wait() -> None:
    """Together they take a quarter of the account at most."""
    into = Intake(LIMITS, MemoryAccount(16_000))
    calls = [Call(sent=False) for _ in range(3)]
    tasks = [asyncio.create_task(receive(into, call)) for call in calls]
    await asyncio.sleep(0.01)
    assert [call.is_read for call in calls] == [True, True, False]
    calls[1].sent.set()
    (await tasks[1])[1].release()
    await asyncio.sleep(0.01)
    assert calls[2].is_read
    for call in calls:
        call.sent.set()
    await asyncio.gather(*tasks)


async def test_principals_take_turns() -> None:
    """One call does not wait behind all those of another principal, nor for calls that are gone."""
    into = Intake(LIMITS, MemoryAccount(15_000))
    calls = [Call(sent=False) for _ in range(5)]
    tasks = [
        asyncio.create_task(receive(into, call, name))
        for call, name in zip(calls, ["loud", "loud", "loud", "loud", "quiet"], strict=True)
    ]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    order = []
    for _ in range(4):
        await asyncio.sleep(0.01)
        (being_read,) = [each for each in calls if each.is_read and not each.sent.is_set()]
        order.append(calls.index(being_read))
        being_read.sent.set()
    assert order == [0, 4, 2, 3]  # the call that is gone had its turn
    for task in tasks[:1] + tasks[2:]:
        (await task)[1].release()


async def test_few_calls_of_one_principal_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are refused at once; another principal's calls still wait."""
    monkeypatch.setattr(intake, "MAX_WAITING", 2)
    into = Intake(LIMITS, MemoryAccount(15_000))
    tasks = [asyncio.create_task(receive(into, Call(sent=False), "loud")) for _ in range(3)]
    await asyncio.sleep(0.01)
    with pytest.raises(MemoryExhausted, match="2 calls of this principal"):
        await receive(into, Call(), "loud")
    tasks.append(asyncio.create_task(receive(into, Call(), "quiet")))
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()


async def test_a_call_that_sends_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sooner if others wait for its place."""
    monkeypatch.setattr(intake, "READ_SECONDS", 0.3)
    monkeypatch.setattr(intake, "CONTENDED_READ_SECONDS", 0.02)
    memory = MemoryAccount(4000)
    into = Intake(LIMITS, memory)
    with pytest.raises(RequestLate):
        await receive(into, Call(sent=False))
    monkeypatch.setattr(intake, "READ_SECONDS", 30)
    stalled = asyncio.create_task(receive(into, Call(sent=False)))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        _, charge, _ = await receive(into, Call())
    with pytest.raises(RequestLate):
        await stalled
    charge.release()
    assert memory.held == 0


@pytest.mark.parametrize("requests", [(), (LINE, LINE)])
async def test_a_call_has_exactly_one_request(requests: tuple[bytes, ...]) -> None:
    """What a unary call has, however it was sent."""
    memory = MemoryAccount(100_000)
    with pytest.raises(RequestInvalid, match="exactly one request"):
        await receive(Intake(LIMITS, memory), Call(requests))
    assert memory.held == 0


def test_without_memory_a_request_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protobuf says DecodeError for that too."""

    class NoMemory:
        DESCRIPTOR = pb.EmitRequest.DESCRIPTOR

        @staticmethod
        def FromString(data: bytes) -> None:  # noqa: N802
            raise methods.DecodeError("Error parsing message with type 'x': Arena alloc failed")

    with pytest.raises(MemoryExhausted) as caught:
        methods.parse(NoMemory, b"")  # type: ignore[type-var]
    assert caught.value.retry_after_seconds
