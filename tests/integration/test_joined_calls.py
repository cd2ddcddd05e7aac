"""Calls that wait together go to their handler as one batch; over grpc each gets what it would get alone."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc
import pytest

from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import record_pb2 as rec
from emitd_handlers.audit.handler import JsonAuditHandler
from emitd_handlers.durable.disk import Disk
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.outcome import Outcome
from emitd_handlers.record import LogRecord
from support.client.in_process import Running, bad_fields, running

EMIT, EMIT_BATCH = (f"/emitd.v1.LogService/{name}" for name in ("Emit", "EmitBatch"))


class GatedDisk(Disk):
    """Keeps syncs waiting until a test opens the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()

    def sync(self, fd: int) -> None:
        self.waits.set()
        assert self.gate.wait(30)
        super().sync(fd)


class Jobs(DatabaseJobHandler):
    """Commits reports while its gate is open."""

    def __init__(self, folder: Path) -> None:
        url = DatabaseUrl.resolve("sqlite:///jobs.db", folder)
        super().__init__(DatabaseJobHandler.Settings(database=url), name="jobs")
        self.gate = asyncio.Event()
        self.batches: list[int] = []

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        self.batches.append(len(records))
        await self.gate.wait()
        return await super().emit_batch(records)


class Joined:
    """A server whose next audit calls wait together, until `release`."""

    def __init__(self, server: Running, audit: JsonAuditHandler, jobs: Jobs, disk: GatedDisk) -> None:
        self.server = server
        self.audit = audit
        self.jobs = jobs
        self.disk = disk
        self._first: asyncio.Future[bytes] | None = None

    def call(
        self, request: pb.EmitRequest | pb.EmitBatchRequest | bytes, method: str = "", timeout: float = 30.0
    ) -> "grpc.aio.UnaryUnaryCall[bytes, bytes]":
        """Send a request, or its bytes, to the method that takes it."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        method = method or (EMIT if isinstance(request, pb.EmitRequest) else EMIT_BATCH)
        return self.server.channel.unary_unary(method)(data, timeout=timeout)

    async def hold(self) -> None:
        """Have a first event under way, so that the calls after it wait."""
        self.disk.waits.clear()
        self.disk.gate.clear()
        self._first = asyncio.ensure_future(self.emit("first"))
        await asyncio.to_thread(self.disk.waits.wait, 10)

    async def release(self, waiting: int, *, batches: int = 1) -> None:
        """Commit the first event, and then those of the calls since, `waiting` records, in at most these batches."""
        await self.have_come(waiting + 1)
        groups = self.audit.stats.groups
        self.disk.gate.set()
        assert self._first is not None
        await self._first
        await self.have_come(0)
        assert self.audit.stats.groups <= groups + 1 + batches

    async def have_come(self, count: int) -> None:
        """Wait until the audit handler owes the outcomes of this number of events."""
        (delivery,) = [each for each in self.server.service._deliveries if each.handler is self.audit]
        await until(lambda: delivery.abandon() == count)

    async def emit(self, user_id: str, **fields: str) -> pb.Receipt:
        return pb.EmitResponse.FromString(await self.call(request(user_id, **fields))).receipt


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


def event(user_id: str, **fields: str) -> rec.LogRecord:
    audit = rec.AuditEvent(event_name="e", user_id=user_id, source_ip="10.0.0.1", details_json="{}")
    return rec.LogRecord(audit=audit, **fields)


def request(user_id: str, **fields: str) -> pb.EmitRequest:
    return pb.EmitRequest(record=event(user_id, **fields))


def report(job_id: str) -> rec.LogRecord:
    return rec.LogRecord(job=rec.JobStatus(job_id=job_id, job_type="t", status=rec.JOB_STATE_RUNNING))


def batch(*records: rec.LogRecord) -> pb.EmitBatchRequest:
    return pb.EmitBatchRequest(records=records)


@pytest.fixture
async def joined(tmp_path: Path) -> AsyncIterator[Joined]:
    disk = GatedDisk()
    settings = JsonAuditHandler.Settings(path=tmp_path / "audit.json.log")
    audit = JsonAuditHandler(settings, name="audit", disk=disk)
    jobs = Jobs(tmp_path)
    async with running([audit, jobs]) as server:
        yield Joined(server, audit, jobs, disk)
        jobs.gate.set()


def users(tmp_path: Path) -> list[str]:
    return [json.loads(line)["user_id"] for line in (tmp_path / "audit.json.log").read_text().splitlines()]


@pytest.mark.parametrize("cut", [1, 3, 20])
async def test_a_truncated_request_takes_nothing_of_the_next(
    joined: Joined, tmp_path: Path, cut: int
) -> None:
    """It is refused by itself, whatever is missing, and the calls next to it are committed as they are."""
    await joined.hold()
    sound = request("sound").SerializeToString()
    calls = [
        joined.call(request("before")),
        joined.call(sound[:-cut], EMIT),
        joined.call(batch(event("x"), event("y")).SerializeToString()[:-cut], EMIT_BATCH),
        joined.call(request("after")),
        joined.call(batch(event("b1"), event("b2"))),
    ]
    for call in calls[1:3]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await joined.release(4)
    receipts = [pb.EmitResponse.FromString(await calls[place]).receipt for place in (0, 3)]
    reply = pb.EmitBatchResponse.FromString(await calls[4])
    assert (reply.accepted_count, len(reply.errors)) == (2, 0)
    committed = users(tmp_path)
    assert sorted(committed) == sorted(["first", "before", "after", "b1", "b2"])
    assert [committed[receipt.audit.leaf_index] for receipt in receipts] == ["before", "after"]


async def test_each_call_gets_its_own_verdicts_and_receipts(joined: Joined, tmp_path: Path) -> None:
    """A bad record, a copy and a conflict next to good ones."""
    await joined.hold()
    good, copy, conflict = (
        joined.call(request(user, record_id="r1", source="s")) for user in ("one", "one", "two")
    )
    mixed = joined.call(batch(event("b1"), event(""), event("b2", record_id="r2", source="s")))
    await joined.release(5, batches=2)  # a copy may have come between two that are new
    answers = await asyncio.gather(good, copy, conflict, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    receipts = [pb.EmitResponse.FromString(answer).receipt for answer in answers if isinstance(answer, bytes)]
    # The calls may come in another order than they were made.
    refused = {error.code() for error in errors}
    assert refused == {grpc.StatusCode.ALREADY_EXISTS}
    assert 1 <= len(receipts) <= 2
    assert len({receipt.audit.leaf_index for receipt in receipts}) == 1
    assert [receipt.duplicate for receipt in receipts].count(False) == 1
    reply = pb.EmitBatchResponse.FromString(await mixed)
    assert reply.accepted_count == 2
    assert [bad_fields(error.status) for error in reply.errors] == [["records[1].audit.user_id"]]
    committed = users(tmp_path)
    assert len(committed) == 4
    assert {"first", "b1", "b2"} < {*committed}


async def test_one_that_goes_away_or_is_late_harms_no_other(joined: Joined, tmp_path: Path) -> None:
    """Its deadline and its cancellation are its own; what had not begun is not committed."""
    await joined.hold()
    late = joined.call(request("late"), timeout=0.2)
    gone = joined.call(batch(*[event("gone")] * 3))
    stays = joined.call(request("stays"))
    await asyncio.sleep(0.05)
    gone.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await late
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await joined.release(1)
    await stays
    assert users(tmp_path) == ["first", "stays"]
    await until(lambda: joined.server.service.memory.held == 0)


async def test_a_large_call_is_a_group_of_its_own(joined: Joined, tmp_path: Path) -> None:
    """Those that came before it are committed without it."""
    await joined.hold()
    small = joined.call(request("small"))
    await joined.have_come(2)
    large = joined.call(batch(*[event(f"l{number}") for number in range(1500)]))
    await joined.have_come(1502)
    groups = joined.audit.stats.groups
    joined.disk.gate.set()
    await asyncio.gather(small, large)
    assert joined.audit.stats.groups == groups + 3
    assert users(tmp_path) == ["first", "small", *(f"l{number}" for number in range(1500))]


async def test_a_handler_that_hangs_delays_no_other_handlers_calls(joined: Joined) -> None:
    """Jobs hang: audit calls are answered, also those that came together with a call of both kinds."""
    hanging = [joined.call(batch(report("j1"))), joined.call(batch(report("j2"), event("mixed")))]
    await until(lambda: bool(joined.jobs.batches))
    for _ in range(3):
        await asyncio.wait_for(asyncio.gather(*(joined.emit(f"u{number}") for number in range(8))), 10)
    assert not any(call.done() for call in hanging)
    joined.jobs.gate.set()
    for call, count in zip(hanging, (1, 2), strict=True):
        assert pb.EmitBatchResponse.FromString(await call).accepted_count == count


async def test_a_callers_records_keep_their_order(joined: Joined, tmp_path: Path) -> None:
    """One call after the other, next to other callers."""

    async def caller(name: str) -> None:
        places = [(await joined.emit(f"{name}{number}")).audit.leaf_index for number in range(20)]
        assert places == sorted(places)

    await asyncio.gather(*(caller(name) for name in "abcd"))
    committed = users(tmp_path)
    for name in "abcd":
        assert [user for user in committed if user[0] == name] == [f"{name}{n}" for n in range(20)]
    assert joined.audit.stats.groups < 80


async def test_a_stop_commits_the_calls_that_wait(joined: Joined, tmp_path: Path) -> None:
    """As all others that were taken."""
    await joined.hold()
    waiting = [joined.call(request(f"u{number}")) for number in range(5)]
    await joined.have_come(6)
    stopping = asyncio.create_task(joined.server.server.stop())
    await asyncio.sleep(0.05)
    joined.disk.gate.set()
    await stopping
    await asyncio.gather(*waiting)
    assert sorted(users(tmp_path)) == ["first", *(f"u{number}" for number in range(5))]
