"""`submitted_by` on the wire: who may name others, whose names, and what the trail and the jobs make of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from emitd import v1 as pb
from emitd.v1 import AuditServiceStub, LogRecord
from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.principal import MAX_NAME_BYTES
from emitd_server.settings import GrantSettings, Role
from support.access.world import BY_NAME, OWN, Caller, World, caller, made, until_known

DENIED, INVALID = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT
GRANTS = (
    GrantSettings(to=("relay",), role=Role.WRITER, relay=True),
    GrantSettings(to=("shop", "ann", "till", "part"), role=Role.WRITER),
    GrantSettings(to=("part",), role=Role.WRITER, relay=True, event_names=("user.*",)),
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with made(tmp_path, grants=GRANTS) as world:
        yield world


def passed_on(record: LogRecord, name: str) -> LogRecord:
    return LogRecord(submitted_by=name, **{field.name: value for field, value in record.ListFields()})


async def codes(who: Caller, record: LogRecord) -> list[tuple[grpc.StatusCode | None, str]]:
    """How a record ends by Emit and in a batch after a good one: its code, and the field that is named."""
    emit = who.log.Emit(pb.EmitRequest(record=record), **who.options)
    single = await emit.code()
    reply = await who.log.EmitBatch(pb.EmitBatchRequest(records=[OWN.line(), record]), **who.options)
    assert [error.index for error in reply.errors] in ([], [1])
    texts = [] if single is grpc.StatusCode.OK else [str(await emit.details())]
    texts += [error.status.message for error in reply.errors]
    numbers = [single.value[0], *([error.status.code for error in reply.errors] or [0])]
    assert numbers == [single.value[0]] * 2
    return [
        (single, text.partition(":")[0].removeprefix("records[1].").removeprefix("record.")) for text in texts
    ]


async def submitters(world: World) -> list[str]:
    """Who submitted the events, as their lines say."""
    stub = AuditServiceStub(world.open)
    entries = (await stub.ListAuditEvents(pb.ListAuditEventsRequest())).entries
    return [decode_line(entry.line).submitted_by for entry in entries if entry.record.source != "emitd"]


async def test_a_relay_names_who_sent_a_record(world: World) -> None:
    """The audit line has the name; without one it has the relay's."""
    relay = await caller(world, "relay")
    for name in ("till", "Zoë", "spiffe://a/b", "é" * (MAX_NAME_BYTES // 2), ""):
        record = passed_on(OWN.event(text=name), name)
        assert await codes(relay, record) == []
    assert await submitters(world) == [
        name for name in ("till", "Zoë", "spiffe://a/b", "é" * 128, "relay") for _ in range(2)
    ]


@pytest.mark.parametrize("kind", ["shop", "open"])
async def test_others_name_nobody(world: World, kind: str) -> None:
    """Neither a writer without the right nor a caller whom nobody asked for a name; not even itself."""
    who = await caller(world, "shop")
    if kind == "open":
        world.guarded = world.open
        who = Caller(world, "", ())
    for record in (OWN.event(), OWN.line(), OWN.report()):
        for name in ("till", "shop"):
            expected = DENIED if kind == "shop" else INVALID
            assert await codes(who, passed_on(record, name)) == [(expected, "submitted_by")] * 2
    assert await submitters(world) == []
    assert await codes(who, OWN.event()) == []
    assert await submitters(world) == ["shop" if kind == "shop" else ""] * 2


async def test_a_right_to_pass_on_goes_no_further_than_its_grant(world: World) -> None:
    """Another grant of the same principal covers the record, but not the name of another, nor the service's own."""
    who = await caller(world, "part")
    assert await codes(who, passed_on(OWN.event(), "till")) == []
    assert await codes(who, passed_on(BY_NAME.event(), "till")) == [(DENIED, "submitted_by")] * 2
    assert await codes(who, BY_NAME.event()) == []
    own = OWN._replace(event_name="emitd.clock.step").event()
    assert await codes(who, own) == [(DENIED, "audit.event_name")] * 2
    relay = await caller(world, "relay")
    assert await codes(relay, passed_on(own, "till")) == []


@pytest.mark.parametrize("kind", ["relay", "shop"])
@pytest.mark.parametrize("name", ["a" * 257, "é" * 129, " a", "a\n", "\x00", "\u202ea", "group:web"])
async def test_names_that_cannot_stand_on_a_line_are_refused(world: World, kind: str, name: str) -> None:
    """The field is named, and the name is not repeated."""
    who = await caller(world, kind)
    assert await codes(who, passed_on(OWN.event(), name)) == [(INVALID, "submitted_by")] * 2
    assert await submitters(world) == []


async def test_a_job_is_that_of_the_name_that_is_passed_on(world: World) -> None:
    """Not the relay's: a stranger whom the relay names is refused as if it had called itself."""
    relay, till, ann = [await caller(world, name) for name in ("relay", "till", "ann")]
    web = world.token("till", "web")
    await until_known(web)
    job = OWN.report("j-own")
    assert await codes(relay, passed_on(job, "till")) == []
    assert (await world.job(OWN)).owner == "till"
    assert await codes(till, job) == []
    assert await codes(web, job) == []
    for who, record in ((ann, job), (relay, job), (relay, passed_on(job, "ann"))):
        assert await codes(who, record) == [(DENIED, "job.job_id")] * 2
    assert (await world.job(OWN)).owner == "till"
    await relay.log.Emit(pb.EmitRequest(record=OWN.report("j-by-name")), **relay.options)
    assert (await world.job(BY_NAME)).owner == "relay"
