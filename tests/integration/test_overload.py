"""Calls that the service does not come to: they end early, and cost it nothing."""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc

from emitd.v1 import log_service_pb2
from support.client.in_process import CHANNEL_OPTIONS, in_memory, running

DATA = log_service_pb2.EmitRequest(record={"level": 20, "message": "x"}).SerializeToString()  # type: ignore[arg-type]


async def outcomes(calls: int, seconds: float) -> Counter[str]:
    """Make calls at a time at which the service is busy with something else."""
    async with running([in_memory()]) as server:

        def send() -> Counter[str]:
            with grpc.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel:
                emit = channel.unary_unary("/emitd.v1.LogService/Emit")
                futures = [emit.future(DATA, timeout=30) for _ in range(calls)]
                return Counter(future.code().name for future in futures)

        with ThreadPoolExecutor() as pool:
            sending = asyncio.get_running_loop().run_in_executor(pool, send)
            time.sleep(seconds)  # noqa: ASYNC251  # nothing is begun in this time
            return await sending


async def test_calls_that_have_waited_for_long_are_not_begun() -> None:
    """They would be late; all but the one that grpc has handed over already end with CANCELLED."""
    found = await outcomes(20, 2.5)
    assert found["CANCELLED"] >= 18
    assert found.total() == 20


async def test_calls_that_have_waited_for_a_moment_are_answered() -> None:
    assert await outcomes(500, 0.3) == {"OK": 500}


async def test_no_more_than_a_thousand_wait() -> None:
    """The others end at once."""
    found = await outcomes(1500, 0.9)
    assert found["CANCELLED"] >= 400
    assert found["OK"] >= 1
