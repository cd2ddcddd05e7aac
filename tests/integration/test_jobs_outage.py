"""A database that goes away under a running service: reports, watchers and health, until it is back and after."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd.v1 import job_pb2
from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import record_pb2 as rec
from support.client.in_process import Running, in_memory, retry_seconds, running, status_details
from support.processes.postgres import PostgresBackend, PostgresServer

RUNNING, COMPLETED = rec.JOB_STATE_RUNNING, rec.JOB_STATE_COMPLETED
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def server(postgres: PostgresBackend) -> AsyncIterator[Running]:
    jobs = postgres.make_handler(lease_check_seconds=0.1, catch_up_seconds=0.2)
    async with running([in_memory(), jobs]) as server:
        yield server


async def report(server: Running, progress: int, status: rec.JobState = RUNNING, **fields: object) -> None:
    job = rec.JobStatus(job_id="j", job_type="t", status=status, progress=progress, **fields)  # type: ignore[arg-type]
    await server.stub.Emit(pb.EmitRequest(record=rec.LogRecord(job=job)))


async def refusal(server: Running, progress: int) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await report(server, progress)
    return caught.value


async def until_health(server: Running, status: int) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    request = health_pb2.HealthCheckRequest(service="handler/jobs")
    async with asyncio.timeout(20):
        while (await stub.Check(request)).status != status:
            await asyncio.sleep(0.02)


async def collect(call: "grpc.aio.UnaryStreamCall", messages: list[job_pb2.WatchJobResponse]) -> None:
    async for message in call:
        messages.append(message)


def revisions(messages: Sequence[job_pb2.WatchJobResponse]) -> list[int]:
    return [item.revision for message in messages for item in message.transitions]


async def test_watchers_stay_and_catch_up_when_the_database_is_back(
    server: Running, postgres_server: PostgresServer
) -> None:
    """Meanwhile reports get UNAVAILABLE with RetryInfo, health says NOT_SERVING, and log lines go on."""
    await report(server, 1)
    messages: list[job_pb2.WatchJobResponse] = []
    request = job_pb2.WatchJobRequest(job_id="j", after_revision=0, min_interval_ms=1)
    watching = asyncio.create_task(collect(server.stub.WatchJob(request), messages))
    async with asyncio.timeout(20):
        while not messages:
            await asyncio.sleep(0.01)
    await until_health(server, SERVING)
    postgres_server.stop()
    try:
        error = await refusal(server, 2)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert retry_seconds(status_details(error))
        await until_health(server, NOT_SERVING)
        line = rec.LogRecord(level=rec.LEVEL_INFO, message="goes on")
        await server.stub.Emit(pb.EmitRequest(record=line))
        assert not watching.done()
    finally:
        postgres_server.start()
    await until_health(server, SERVING)
    await report(server, 3)
    await report(server, 100, COMPLETED)
    await asyncio.wait_for(watching, 20)
    assert revisions(messages) == [1, 3]
    assert messages[-1].job.ended


async def test_a_lease_does_not_run_out_while_the_database_is_away(
    server: Running, postgres_server: PostgresServer, postgres: PostgresBackend
) -> None:
    """Nobody could report: the time is given back, and what is left of the lease runs on."""
    await report(server, 1, lease_seconds=2)
    postgres_server.stop()
    try:
        await asyncio.sleep(2.5)
    finally:
        postgres_server.start()
    await until_health(server, SERVING)
    await report(server, 2)
    reply: job_pb2.GetJobResponse = await server.stub.GetJob(job_pb2.GetJobRequest(job_id="j"))
    assert (reply.job.status, reply.job.progress) == (RUNNING, 2)
