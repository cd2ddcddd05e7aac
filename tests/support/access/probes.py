"""Calls of each method for a thing; each returns the names of the things that the method shows."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from emitd import v1 as pb
from emitd.v1 import LogRecord
from emitd_handlers.audit.format.line import decode_line
from support.access.world import (
    BY_NAME,
    EVERYTHING,
    FOREIGN,
    OWN,
    THINGS,
    WAIT_SECONDS,
    Caller,
    Thing,
    records_of,
)

Probe = Callable[[Caller, Thing], Awaitable[set[str]]]


async def verdict(probe: Probe, who: Caller, thing: Thing) -> str:
    """Whether a call shows a thing; or the code with which it ends. It never shows what it should not."""
    try:
        seen = await probe(who, thing)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    assert who.name == EVERYTHING or seen <= {"own", "end", thing.name}
    return "shown" if thing.name in seen else "hidden"


def names(*messages: Any) -> set[str]:
    return {message.message.partition(":")[0] for message in messages}


def lines_of(reply: Any) -> set[str]:
    return names(*(line.record for line in reply.lines))


def entries_of(reply: Any) -> set[str]:
    return names(*(entry.record for entry in reply.entries))


async def emit(who: Caller, thing: Thing) -> set[str]:
    outcomes = []
    for record in records_of(thing):
        try:
            await who.log.Emit(pb.EmitRequest(record=record), **who.options)
            outcomes.append(None)
        except grpc.aio.AioRpcError as error:
            outcomes.append(error)
    assert len({outcome and outcome.code() for outcome in outcomes}) == 1
    if outcomes[0] is not None:
        raise outcomes[0]
    return {thing.name}


async def emit_batch(who: Caller, thing: Thing) -> set[str]:
    """Own records of the same batch are taken."""
    records = records_of(thing)
    request = pb.EmitBatchRequest(records=[*records, *records_of(OWN)])
    reply = await who.log.EmitBatch(request, **who.options)
    if not reply.errors:
        return {thing.name}
    assert reply.accepted_count == len(records_of(OWN))
    assert [error.index for error in reply.errors] == list(range(len(records)))
    assert all(error.status.code == grpc.StatusCode.PERMISSION_DENIED.value[0] for error in reply.errors)
    assert all(error.retryable for error in reply.errors)
    return set()


async def get_job(who: Caller, thing: Thing) -> set[str]:
    return names((await who.log.GetJob(pb.GetJobRequest(job_id=f"j-{thing.name}"), **who.options)).job)


async def list_jobs(who: Caller, thing: Thing) -> set[str]:
    reply = await who.log.ListJobs(pb.ListJobsRequest(), **who.options)
    request = pb.ListJobsRequest(job_ids=[f"j-{thing.name}"])
    one = await who.log.ListJobs(request, **who.options)
    assert names(*one.jobs) == names(*reply.jobs) & {thing.name}
    return names(*reply.jobs)


async def list_transitions(who: Caller, thing: Thing) -> set[str]:
    request = pb.ListJobTransitionsRequest(job_id=f"j-{thing.name}")
    assert (await who.log.ListJobTransitions(request, **who.options)).transitions
    return {thing.name}


async def request_cancel(who: Caller, thing: Thing) -> set[str]:
    request = pb.RequestCancelRequest(job_id=f"j-{thing.name}")
    try:
        return names((await who.log.RequestCancel(request, **who.options)).job)
    except grpc.aio.AioRpcError:
        assert not (await who.world.job(thing)).cancel_requested
        raise


async def followed(who: Caller, stream: Any, seen_in: Callable[[Any], set[str]], marks: Any) -> set[str]:
    """What a stream shows before and after more has come of everything, the last of it own."""
    seen: set[str] = set()
    reply = await stream.read()
    about = [thing for thing in (*FOREIGN, OWN) if thing is not BY_NAME or marks != [Thing.line]]
    records = [mark(thing) for thing in about for mark in marks]
    await who.world.send(*records, marks[0](Thing("end", *OWN[1:])))
    while "end" not in (seen := seen | seen_in(reply)):
        reply = await stream.read()
    stream.cancel()
    return seen


async def watch_job(who: Caller, thing: Thing) -> set[str]:
    def report(of: Thing) -> LogRecord:
        return of._replace(job_type=thing.job_type, source=thing.source).report(f"j-{thing.name}")

    request = pb.WatchJobRequest(job_id=f"j-{thing.name}")
    stream = who.log.WatchJob(request, **who.options)
    first = await stream.read()
    await who.world.send(report(thing._replace(name="end")), report(thing))
    async with asyncio.timeout(WAIT_SECONDS):
        while names((reply := await stream.read()).job) != {thing.name}:
            assert names(reply.job) == {"end"}
    stream.cancel()
    return names(first.job)


async def watch_jobs(who: Caller, thing: Thing) -> set[str]:
    return await followed(
        who,
        who.log.WatchJobs(pb.WatchJobsRequest(), **who.options),
        lambda reply: names(*(change.job for change in reply.changes)),
        [Thing.report, lambda thing: thing.report(f"j-{thing.name}", "later")],
    )


async def list_logs(who: Caller, thing: Thing) -> set[str]:
    seen = lines_of(await who.log.ListLogs(pb.ListLogsRequest(), **who.options))
    request = pb.ListLogsRequest(filter=pb.LogFilter(sources=[thing.source]))
    assert lines_of(await who.log.ListLogs(request, **who.options)) == seen & {thing.name}
    return seen


async def tail_logs(who: Caller, thing: Thing) -> set[str]:
    stream = who.log.TailLogs(pb.TailLogsRequest(last=1000), **who.options)
    return await followed(who, stream, lines_of, [Thing.line])


async def get_checkpoint(who: Caller, thing: Thing) -> set[str]:
    reply = await who.audit.GetCheckpoint(pb.GetCheckpointRequest(), **who.options)
    return {thing.name} if reply.tree_size >= len(THINGS) else set()


async def get_consistency_proof(who: Caller, thing: Thing) -> set[str]:
    request = pb.GetConsistencyProofRequest(old_size=1, new_size=3)
    reply = await who.audit.GetConsistencyProof(request, **who.options)
    return {thing.name} if reply.hashes else set()


async def get_inclusion_proof(who: Caller, thing: Thing) -> set[str]:
    """By index and by id, to the same end."""
    by_id = pb.GetInclusionProofRequest(event_id=f"e-{thing.name}", source=thing.source)
    by_index = pb.GetInclusionProofRequest(leaf_index=who.world.leaf_indexes[thing])
    calls = [who.audit.GetInclusionProof(request, **who.options) for request in (by_id, by_index)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, grpc.aio.AioRpcError):
            codes = [other.code() for other in results if isinstance(other, grpc.aio.AioRpcError)]
            assert codes == [result.code()] * 2
            raise result
    return names(*(decode_line(reply.line) for reply in results))  # type: ignore[union-attr]


async def list_audit_events(who: Caller, thing: Thing) -> set[str]:
    seen = entries_of(await who.audit.ListAuditEvents(pb.ListAuditEventsRequest(), **who.options))
    request = pb.ListAuditEventsRequest(event_id=f"e-{thing.name}")
    assert entries_of(await who.audit.ListAuditEvents(request, **who.options)) == seen & {thing.name}
    return seen


async def tail_audit_events(who: Caller, thing: Thing) -> set[str]:
    stream = who.audit.TailAuditEvents(pb.TailAuditEventsRequest(from_index=0), **who.options)
    return await followed(who, stream, entries_of, [Thing.event])


async def health_check(who: Caller, thing: Thing) -> set[str]:
    reply = await who.health.Check(health_pb2.HealthCheckRequest(), **who.options)
    return {thing.name} if reply.status == health_pb2.HealthCheckResponse.SERVING else set()


async def health_watch(who: Caller, thing: Thing) -> set[str]:
    stream = who.health.Watch(health_pb2.HealthCheckRequest(), **who.options)
    reply = await stream.read()
    stream.cancel()
    return {thing.name} if reply.status == health_pb2.HealthCheckResponse.SERVING else set()


async def health_list(who: Caller, _: Thing) -> set[str]:
    """The library does not serve it yet."""
    await who.health.List(health_pb2.HealthListRequest(), **who.options)
    raise AssertionError("it is served now")


async def reflect(who: Caller, thing: Thing) -> set[str]:
    request = reflection_pb2.ServerReflectionRequest(list_services="*")
    replies = [reply async for reply in who.reflection.ServerReflectionInfo(iter([request]), **who.options)]
    return {thing.name} if replies[0].list_services_response.service else set()
