"""The service watches the live file of its audit log: it says what was done to it, refuses, saves, and goes on."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd.v1 import (
    LEVEL_INFO,
    AuditEvent,
    AuditServiceStub,
    EmitRequest,
    ListAuditEventsRequest,
    LogRecord,
)
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.audit.write import maintenance
from emitd_handlers.base import BaseLogHandler
from support.client.in_process import Running, retry_seconds, running, status_details, three_handlers

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
#: A loaded machine is slow.
WAIT_SECONDS = 20.0


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A server that looks at its file more often than usual."""
    monkeypatch.setattr(maintenance, "CHECK_SECONDS", 0.2)
    async with running(three_handlers(tmp_path)) as server:
        yield server


async def emit(server: Running, number: int) -> int:
    """Emit an event, always the same for a number; return the index of its line."""
    event = AuditEvent(event_name="user.login", user_id=f"u{number}", source_ip="unknown", details_json="{}")
    record = LogRecord(record_id=f"r-{number}", time_unix_nano=number + 1, audit=event)
    reply = await server.stub.Emit(EmitRequest(record=record), timeout=WAIT_SECONDS)
    return int(reply.receipt.audit.leaf_index)


async def health(server: Running, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def until_health(server: Running, status: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await health(server, "handler/audit") != status:
            await asyncio.sleep(0.02)


async def assert_refused(server: Running, number: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await emit(server, number)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_seconds(status_details(caught.value)) == 1.0


def log_of(tmp_path: Path) -> Path:
    return tmp_path / "audit.json.log"


def record_ids(path: Path) -> list[str]:
    return [json.loads(line)["record_id"] for line in path.read_bytes().splitlines()]


def replace(path: Path) -> None:
    path.unlink()
    path.write_text("mine\n")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"foreign\n")


@pytest.mark.parametrize(
    "harm",
    [Path.unlink, lambda path: path.rename(path.with_name("elsewhere")), replace, append],
    ids=["deleted", "renamed", "replaced", "appended to"],
)
@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "busy"])
async def test_what_was_displaced_is_saved_and_comes_back(
    server: Running,
    tmp_path: Path,
    harm: Callable[[Path], object],
    is_idle: bool,
) -> None:
    """It is noticed, said and shown by health; after the operator's command every line is there, once."""
    path = log_of(tmp_path)
    for number in range(3):
        await emit(server, number)
    harm(path)
    if not is_idle:
        await assert_refused(server, 3)
    await until_health(server, NOT_SERVING)
    assert await health(server, "handler/memory") == await health(server, "live") == SERVING
    assert await health(server, "") == NOT_SERVING  # an audit log is required
    await server.stub.Emit(EmitRequest(record=LogRecord(level=LEVEL_INFO, message="others go on")))
    (life,) = [life for life in server.service.lives if life.handler.name == "audit"]
    async with asyncio.timeout(WAIT_SECONDS):
        while "takes no records" not in (said := life.down_problem):
            await asyncio.sleep(0.02)
    command = said.split("run: ")[1].splitlines()[0]
    await asyncio.to_thread(subprocess.run, command, shell=True, check=True)
    await until_health(server, SERVING)
    assert [await emit(server, number) for number in range(5)] == [0, 1, 2, 3, 4]
    assert record_ids(path) == [f"r-{number}" for number in range(5)]
    await server.service.stop()
    assert verify_log(path).verdict is Verdict.GOOD


async def test_a_protected_log_waits(server: Running, tmp_path: Path) -> None:
    """While the file must not be written events are refused; when it may again, all goes on by itself."""
    path = log_of(tmp_path)
    await emit(server, 0)
    path.chmod(0o400)
    await assert_refused(server, 1)
    await until_health(server, NOT_SERVING)
    path.chmod(0o600)
    await until_health(server, SERVING)
    assert await emit(server, 1) == 1
    assert record_ids(path) == ["r-0", "r-1"]


async def cut(server: Running, path: Path) -> bytes:
    """Emit three events and cut the last; return the lines as they were."""
    for number in range(3):
        await emit(server, number)
    await asyncio.sleep(1.2)  # until they are signed
    whole = path.read_bytes()
    os.truncate(path, whole.rindex(b"\n", 0, -1) + 1)
    await until_health(server, NOT_SERVING)
    await assert_refused(server, 3)
    return whole


async def test_a_cut_log_goes_on_when_it_is_whole_again(server: Running, tmp_path: Path) -> None:
    """What is left is left alone, events are refused; with the whole file in its place the same tree goes on."""
    path = log_of(tmp_path)
    whole = await cut(server, path)
    assert whole.startswith(path.read_bytes())
    copy = path.with_name("copy")
    copy.write_bytes(whole)
    copy.rename(path)
    await until_health(server, SERVING)
    assert [await emit(server, number) for number in range(4)] == [0, 1, 2, 3]
    assert record_ids(path) == ["r-0", "r-1", "r-2", "r-3"]
    await server.service.stop()
    assert verify_log(path).verdict is Verdict.GOOD


async def test_a_cut_log_that_is_moved_away_makes_room_for_a_new_one(server: Running, tmp_path: Path) -> None:
    """The new log has another id and begins at 0; what the old one acknowledged is not written again."""
    path = log_of(tmp_path)
    audit = AuditServiceStub(server.channel)
    for number in range(2):
        await emit(server, number)
    old_page = await audit.ListAuditEvents(ListAuditEventsRequest(page_size=1))
    await cut(server, path)
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    old_id = path.with_name("audit.json.log.log_id").read_text()
    for file in path.parent.glob("audit.json.log*"):
        file.rename(evidence / file.name)
    await until_health(server, SERVING)
    assert await emit(server, 3) == 0
    assert await emit(server, 1) == 1  # the first receipt, of the old log
    assert record_ids(path) == ["r-3"]
    with pytest.raises(grpc.aio.AioRpcError, match="page_token"):
        await audit.ListAuditEvents(ListAuditEventsRequest(page_size=1, page_token=old_page.next_page_token))
    assert path.with_name("audit.json.log.log_id").read_text() != old_id
    await server.service.stop()
    assert verify_log(path).verdict is Verdict.GOOD
    assert verify_log(evidence / path.name).verdict is Verdict.BAD


async def test_health_shows_what_a_handler_says_of_itself(tmp_path: Path) -> None:
    """Check and Watch follow `report_health`, for that handler alone."""
    handler: BaseLogHandler = three_handlers(tmp_path)[0]
    async with running([handler]) as server:
        handler.report_health("not yet")
        assert await health(server, "handler/memory") == NOT_SERVING
        stub = health_pb2_grpc.HealthStub(server.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="handler/memory"))
        assert (await watch.read()).status == NOT_SERVING
        handler.report_health("")
        assert (await watch.read()).status == SERVING
        handler.report_health("no more")
        assert (await watch.read()).status == NOT_SERVING
        assert await health(server, "") == SERVING
        watch.cancel()
