"""Every method of every service, as reflection names them, by each kind of caller, for own and for foreign things."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from emitd import v1 as pb
from emitd_server.access.grants import ROLES
from support.access import probes
from support.access.probes import Probe, names, verdict
from support.access.world import (
    BY_NAME,
    BY_SOURCE,
    CALLERS,
    EVERYTHING,
    NAMED,
    OWN,
    THINGS,
    WAIT_SECONDS,
    Caller,
    Thing,
    World,
    caller,
    made,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with made(tmp_path) as world:
        yield world


class Row(NamedTuple):
    """What is asserted of a method."""

    probe: Probe
    roles: frozenset[str]
    #: The verdict for what is foreign.
    foreign: str
    #: That for own things, and for foreign ones by one who may do everything.
    own: str = "shown"


WRITER, AUDITOR, OPERATOR = (frozenset({EVERYTHING, role}) for role in ("writer", "auditor", "operator"))
WATCHERS = frozenset({EVERYTHING, "watcher", "operator"})
ALL = frozenset(NAMED)
TABLE: Mapping[str, Row] = {
    "emitd.v1.LogService/Emit": Row(probes.emit, WRITER, "PERMISSION_DENIED"),
    "emitd.v1.LogService/EmitBatch": Row(probes.emit_batch, WRITER, "hidden"),
    "emitd.v1.LogService/GetJob": Row(probes.get_job, WATCHERS, "NOT_FOUND"),
    "emitd.v1.LogService/ListJobs": Row(probes.list_jobs, WATCHERS, "hidden"),
    "emitd.v1.LogService/ListJobTransitions": Row(probes.list_transitions, WATCHERS, "NOT_FOUND"),
    "emitd.v1.LogService/RequestCancel": Row(probes.request_cancel, OPERATOR, "NOT_FOUND"),
    "emitd.v1.LogService/WatchJob": Row(probes.watch_job, WATCHERS, "NOT_FOUND"),
    "emitd.v1.LogService/WatchJobs": Row(probes.watch_jobs, WATCHERS, "hidden"),
    "emitd.v1.LogService/ListLogs": Row(probes.list_logs, WATCHERS, "hidden"),
    "emitd.v1.LogService/TailLogs": Row(probes.tail_logs, WATCHERS, "hidden"),
    "emitd.v1.AuditService/GetCheckpoint": Row(probes.get_checkpoint, AUDITOR, "shown"),
    "emitd.v1.AuditService/GetConsistencyProof": Row(probes.get_consistency_proof, AUDITOR, "shown"),
    "emitd.v1.AuditService/GetInclusionProof": Row(probes.get_inclusion_proof, AUDITOR, "NOT_FOUND"),
    "emitd.v1.AuditService/ListAuditEvents": Row(probes.list_audit_events, AUDITOR, "hidden"),
    "emitd.v1.AuditService/TailAuditEvents": Row(probes.tail_audit_events, AUDITOR, "hidden"),
    "grpc.health.v1.Health/Check": Row(probes.health_check, ALL, "shown"),
    "grpc.health.v1.Health/List": Row(probes.health_list, ALL, "UNIMPLEMENTED", "UNIMPLEMENTED"),
    "grpc.health.v1.Health/Watch": Row(probes.health_watch, ALL, "shown"),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Row(probes.reflect, ALL, "shown"),
}
#: Of lines there are none that only their name makes foreign.
ABOUT_LINES = ("emitd.v1.LogService/ListLogs", "emitd.v1.LogService/TailLogs")


def expected(row: Row, kind: str, thing: Thing) -> str:
    if kind not in NAMED:
        return "UNAUTHENTICATED"
    if kind not in row.roles:
        return "PERMISSION_DENIED"
    return row.own if thing is OWN or kind == EVERYTHING else row.foreign


async def test_the_table_has_every_method_that_is_served(world: World) -> None:
    """As reflection names them; and those of the contract are the ones that grants know."""
    stub = reflection_pb2_grpc.ServerReflectionStub(world.open)

    async def ask(**question: str) -> Any:
        request = reflection_pb2.ServerReflectionRequest(**question)
        return await anext(aiter(stub.ServerReflectionInfo(iter([request]))))

    served = set()
    for service in (await ask(list_services="*")).list_services_response.service:
        reply = await ask(file_containing_symbol=service.name)
        for data in reply.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(data)
            served |= {
                f"{service.name}/{method.name}"
                for found in file.service
                if f"{file.package}.{found.name}" == service.name
                for method in found.method
            }
    assert served == TABLE.keys()
    assert {method for method in served if method.startswith("emitd.")} == ROLES.keys()


@pytest.mark.parametrize("kind", CALLERS)
async def test_each_caller_gets_what_its_grants_give_it(world: World, kind: str) -> None:
    """And of what is foreign nothing, whether it asks for one thing, for a list or for what is to come."""
    await world.seed()
    who = await caller(world, kind)
    for method, row in TABLE.items():
        for thing in THINGS:
            if thing is BY_NAME and method in ABOUT_LINES:
                continue
            async with asyncio.timeout(WAIT_SECONDS):
                found = await verdict(row.probe, who, thing)
            assert (method, thing.name, found) == (method, thing.name, expected(row, kind, thing))


@pytest.mark.parametrize("kind", ["watcher", "auditor", "operator"])
async def test_what_is_foreign_looks_as_what_there_is_not(world: World, kind: str) -> None:
    """Also in words: the error does not say that there is such a thing, or where."""
    await world.seed()
    who = await caller(world, kind)
    none = Thing("none", *BY_SOURCE[1:])
    world.leaf_indexes[none] = 1000

    async def error(probe: Probe, thing: Thing) -> tuple[object, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe(who, thing)
        return caught.value.code(), str(caught.value.details()).replace(thing.name, "x")

    for method, row in TABLE.items():
        if kind in row.roles and row.foreign == "NOT_FOUND":
            assert (method, await error(row.probe, BY_SOURCE)) == (method, await error(row.probe, none))


async def test_a_job_that_was_waited_for_is_shown_only_to_those_who_may_see_it(world: World) -> None:
    """The stream of the others ends when it comes."""
    who = await caller(world, "watcher")
    for thing in THINGS:
        request = pb.WatchJobRequest(job_id=f"j-{thing.name}", wait_for_creation=True)
        stream = who.log.WatchJob(request, **who.options)
        reading = asyncio.ensure_future(stream.read())
        await asyncio.sleep(0.05)
        await world.send(thing.report(f"j-{thing.name}"))
        if thing is OWN:
            assert names((await reading).job) == {"own"}
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await reading
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        stream.cancel()


async def test_an_event_id_needs_its_source_where_not_everything_may_be_read(world: World) -> None:
    """An error about several sources would name those of others."""
    await world.seed()
    for kind, code in (("auditor", grpc.StatusCode.INVALID_ARGUMENT), (EVERYTHING, None)):
        who = await caller(world, kind)
        call = who.audit.GetInclusionProof(pb.GetInclusionProofRequest(event_id="e-own"), **who.options)
        assert await call.code() is (code or grpc.StatusCode.OK)


async def test_the_open_listener_asks_nobody(world: World) -> None:
    """Both serve at once, each by its own rule: there a token means nothing, be it good or bad."""
    await world.seed()
    world.guarded = world.open
    for kind in CALLERS:
        who = Caller(world, EVERYTHING, (("authorization", f"Bearer {kind}"),))
        for method, row in TABLE.items():
            assert (method, await verdict(row.probe, who, BY_SOURCE)) == (method, row.own)
