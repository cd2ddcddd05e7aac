"""A stream is its caller's only for as long as the caller is known, and takes what it is sent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from emitd import v1 as pb
from emitd.v1 import audit_service_pb2, log_service_pb2
from emitd_server.access.tokens import read_tokens, revoke_tokens
from emitd_server.settings import GrantSettings, Role, WatchSettings
from support.access.probes import health_check, verdict
from support.access.world import (
    EVERYTHING,
    OWN,
    WAIT_SECONDS,
    Caller,
    World,
    caller,
    made,
    records_of,
    until_known,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with made(tmp_path) as world:
        yield world


STREAMS: Mapping[str, Callable[[Caller], Any]] = {
    "WatchJob": lambda who: who.log.WatchJob(pb.WatchJobRequest(job_id="j-own"), **who.options),
    "WatchJobs": lambda who: who.log.WatchJobs(pb.WatchJobsRequest(), **who.options),
    "TailLogs": lambda who: who.log.TailLogs(pb.TailLogsRequest(), **who.options),
    "TailAuditEvents": lambda who: who.audit.TailAuditEvents(
        pb.TailAuditEventsRequest(from_index=0), **who.options
    ),
    "Health.Watch": lambda who: who.health.Watch(health_pb2.HealthCheckRequest(), **who.options),
    "ServerReflectionInfo": lambda who: who.reflection.ServerReflectionInfo(open_questions(), **who.options),
}


async def open_questions() -> AsyncIterator[Any]:
    """One question, and no end."""
    yield reflection_pb2.ServerReflectionRequest(list_services="*")
    await asyncio.Event().wait()


def test_every_stream_of_the_contract_is_among_these() -> None:
    """Those whose method sends more than one message for a question."""
    services = [module.DESCRIPTOR for module in (log_service_pb2, audit_service_pb2)]
    streams = {
        method.name
        for file in services
        for service in file.services_by_name.values()
        for method in service.methods
        if method.server_streaming
    }
    assert streams <= STREAMS.keys()


@pytest.mark.parametrize("is_idle", [True, False])
@pytest.mark.parametrize("why", ["revoked", "expired"])
async def test_a_stream_ends_with_its_token(world: World, why: str, is_idle: bool) -> None:
    """Soon after, with UNAUTHENTICATED; those of others, and of the same name with another token, go on."""
    await world.seed()
    end = datetime.now(UTC) + timedelta(seconds=2) if why == "expired" else None
    ending, lasting = world.token(EVERYTHING, expires=end), world.token(EVERYTHING)
    for who in (ending, lasting):
        await until_known(who)
    streams = {name: (begin(ending), begin(lasting)) for name, begin in STREAMS.items()}
    for pair in streams.values():
        for stream in pair:
            assert await stream.read() is not grpc.aio.EOF
    reading = [asyncio.ensure_future(read_all(stream)) for pair in streams.values() for stream in pair]
    sending = None if is_idle else asyncio.create_task(send_for_ever(world))
    if why == "revoked":
        digest = read_tokens(world.tokens_file)[0].short_digest
        assert revoke_tokens(world.tokens_file, digest)
    for name, (stream, other) in streams.items():
        async with asyncio.timeout(WAIT_SECONDS):
            assert (name, await stream.code()) == (name, grpc.StatusCode.UNAUTHENTICATED)
        assert not other.done(), name
    assert await verdict(health_check, ending, OWN) == "UNAUTHENTICATED"
    for task in (*reading, *([] if sending is None else [sending])):
        task.cancel()
    for _, other in streams.values():
        other.cancel()
    await asyncio.wait(reading)


async def test_a_stream_ends_when_its_caller_may_read_other_things(tmp_path: Path) -> None:
    """So that it is opened again, with UNAVAILABLE; one whose rights are the same goes on."""
    rights = (
        GrantSettings(to=("group:all",), role=Role.WATCHER),
        GrantSettings(to=("reader",), role=Role.WATCHER, sources=("shop*",)),
    )
    async with made(tmp_path, grants=rights) as world:
        who, same = world.token("reader", "all"), world.token("reader", "others")
        for each in (who, same):
            await until_known(each)
        stream, other = STREAMS["TailLogs"](who), STREAMS["TailLogs"](same)
        for each in (stream, other):
            await each.read()
        text = world.tokens_file.read_text()
        assert text.count("all") == 1
        world.tokens_file.write_text(text.replace("all", "few"))
        async with asyncio.timeout(WAIT_SECONDS):
            await read_all(stream)
            assert await stream.code() == grpc.StatusCode.UNAVAILABLE
        assert not other.done()
        other.cancel()


async def read_all(stream: Any) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        while await stream.read() is not grpc.aio.EOF:
            pass


async def send_for_ever(world: World) -> None:
    while True:
        await world.send(*records_of(OWN, job_id="j-own"))


@pytest.mark.parametrize("is_revoked", [True, False])
async def test_a_reader_that_takes_nothing_ends_with_and_without_its_token(
    tmp_path: Path, is_revoked: bool
) -> None:
    """The check of tokens never waits for it, nor ends it while it sends: the stall does."""
    async with made(tmp_path, watch=WatchSettings(stall_seconds=1.0)) as world:
        who = await caller(world, EVERYTHING)
        stream = who.log.TailLogs(pb.TailLogsRequest(), **who.options)
        await stream.read()
        line = OWN.line("x" * 100_000)
        open_now = world.server._streams.endless
        assert len(open_now) == 1
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(200):
                await world.send(line)
            if is_revoked:
                revoke_tokens(world.tokens_file, EVERYTHING)
            while open_now:
                await asyncio.sleep(0.02)
        stream.cancel()
