"""The gRPC edge of `emitd.v1.AuditService`; see `rpc` for how requests come in and errors go out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from emitd.v1 import audit_service_pb2 as pb
from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.audit.source import AuditFilter, AuditSource
from emitd_handlers.errors import AuditNotFound, HandlerUnavailable
from emitd_handlers.scope import EVERYTHING, Caller, Scope
from emitd_server.access.trail import AccessTrail
from emitd_server.convert.audit import (
    batch_to_wire,
    consistency_to_wire,
    entry_to_wire,
    inclusion_to_wire,
    read_filter,
    read_query,
)
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.errors import RequestInvalid
from emitd_server.rpc.edge import Edge
from emitd_server.rpc.methods import Rpcs, parse
from emitd_server.rpc.open_streams import OpenStreams, StreamLimit

#: Events of a page that become messages in one turn of the event loop, about 2 ms.
SLICE_ENTRIES = 100


class AuditServicer:
    """Serves the RPCs of AuditService from the handlers that keep audit logs."""

    service_name = "emitd.v1.AuditService"

    def __init__(self, dispatcher: Dispatcher, trail: AccessTrail) -> None:
        settings = dispatcher.settings
        self._dispatcher = dispatcher
        self._trail = trail
        self._max_scan_bytes = settings.audit.max_scan_bytes
        self._heartbeat_seconds = settings.watch.heartbeat_seconds
        self._tails = StreamLimit(settings.audit.max_tails, "server.audit.max_tails")

    def handler(self, edge: Edge, streams: OpenStreams) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what a grpc server needs to route calls here."""
        rpcs = Rpcs(self.service_name, edge, streams, self._dispatcher.report)
        rpcs.unary("GetCheckpoint", self.get_checkpoint, pb.GetCheckpointRequest)
        rpcs.page("GetInclusionProof", self.get_inclusion_proof, pb.GetInclusionProofRequest)
        rpcs.unary("GetConsistencyProof", self.get_consistency_proof, pb.GetConsistencyProofRequest)
        rpcs.page("ListAuditEvents", self.list_audit_events, pb.ListAuditEventsRequest)
        rpcs.stream("TailAuditEvents", self.tail_audit_events, pb.TailAuditEventsRequest)
        return rpcs.handler()

    async def get_checkpoint(self, data: bytes, caller: Caller) -> bytes:
        """GetCheckpoint."""
        source = self._dispatcher.audit(parse(pb.GetCheckpointRequest, data).log_id)
        checkpoint = await source.checkpoint()
        if checkpoint is None:
            raise HandlerUnavailable(f"audit log '{source.log_id}' is not signed yet")
        response = pb.GetCheckpointResponse(
            log_id=source.log_id,
            checkpoint=checkpoint.note,
            tree_size=checkpoint.size,
            root_hash=checkpoint.root,
            vkeys=checkpoint.vkeys,
        )
        return response.SerializeToString()

    async def get_inclusion_proof(self, data: bytes, caller: Caller) -> bytes:
        """GetInclusionProof: by index or by the event's id."""
        request = parse(pb.GetInclusionProofRequest, data)
        source = self._dispatcher.audit(request.log_id)
        self._trail.read(caller.principal, f"{self.service_name}/GetInclusionProof")
        index = await _leaf_index(source, request, caller.scope)
        proof = await source.inclusion_proof(index, request.tree_size or None)
        if caller.scope is not EVERYTHING and not _may_read(caller, proof.line):
            what = f"event '{request.event_id}'" if request.event_id else f"line {index} for you to read"
            raise AuditNotFound(f"audit log '{source.log_id}' has no {what}")
        return inclusion_to_wire(source.log_id, proof).SerializeToString()

    async def get_consistency_proof(self, data: bytes, caller: Caller) -> bytes:
        """GetConsistencyProof."""
        request = parse(pb.GetConsistencyProofRequest, data)
        source = self._dispatcher.audit(request.log_id)
        proof = await source.consistency_proof(request.old_size, request.new_size or None)
        return consistency_to_wire(source.log_id, proof).SerializeToString()

    async def list_audit_events(self, data: bytes, caller: Caller) -> bytes:
        """ListAuditEvents."""
        request = parse(pb.ListAuditEventsRequest, data)
        source = self._dispatcher.audit(request.log_id)
        self._trail.read(caller.principal, f"{self.service_name}/ListAuditEvents")
        page = await source.list(read_query(request, caller.scope, self._max_scan_bytes))
        response = pb.ListAuditEventsResponse(log_id=source.log_id, next_page_token=page.next_page_token)
        for start in range(0, len(page.entries), SLICE_ENTRIES):
            response.entries.extend(map(entry_to_wire, page.entries[start : start + SLICE_ENTRIES]))
            await asyncio.sleep(0)
        return response.SerializeToString()

    async def tail_audit_events(self, data: bytes, caller: Caller) -> AsyncGenerator[bytes, None]:
        """TailAuditEvents: to the end of the server, with heartbeats."""
        request = parse(pb.TailAuditEventsRequest, data)
        source = self._dispatcher.audit(request.log_id)
        wanted = read_filter(request, caller.scope)
        self._trail.read(caller.principal, f"{self.service_name}/TailAuditEvents")
        with self._tails.counted():
            batches = source.tail(
                wanted,
                from_index=request.from_index if request.HasField("from_index") else None,
                idle_seconds=self._heartbeat_seconds,
            )
            log_id = source.log_id
            async with aclosing(batches):
                async for batch in batches:
                    yield batch_to_wire(log_id, batch).SerializeToString()


def _may_read(caller: Caller, line: bytes) -> bool:
    try:
        return AuditFilter(scope=caller.scope).matches(decode_line(line))
    except ValueError:
        return False


async def _leaf_index(source: AuditSource, request: pb.GetInclusionProofRequest, scope: Scope) -> int:
    match request.WhichOneof("entry"):
        case "leaf_index":
            return request.leaf_index
        case "event_id" if request.event_id:
            of_source = request.source if request.HasField("source") else None
            if of_source is None and scope is not EVERYTHING:  # an error would name the others
                raise RequestInvalid(
                    "source", "is mandatory with `event_id` for one who may not read everything"
                )
            entry = await source.find(request.event_id, of_source)
            if entry is None:
                raise AuditNotFound(f"audit log '{source.log_id}' has no event '{request.event_id}'")
            return entry.leaf_index
        case "event_id":
            raise RequestInvalid("event_id", "is empty")
    raise RequestInvalid("entry", "is mandatory: `leaf_index` or `event_id`")
