"""The gRPC edge of `emitd.v1.AuditService`; see `rpc` for how requests come in and errors go out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from emitd.v1 import audit_service_pb2 as pb
from emitd_handlers.audit.source import AuditSource
from emitd_handlers.errors import AuditNotFound, HandlerUnavailable
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
from emitd_server.rpc.intake import Intake
from emitd_server.rpc.methods import Rpcs, parse
from emitd_server.rpc.open_streams import OpenStreams, StreamLimit
from emitd_server.settings import ListenEntry

#: Events of a page that become messages in one turn of the event loop, about 2 ms.
SLICE_ENTRIES = 100


class AuditServicer:
    """Serves the RPCs of AuditService from the handlers that keep audit logs."""

    service_name = "emitd.v1.AuditService"

    def __init__(self, dispatcher: Dispatcher, streams: OpenStreams) -> None:
        settings = dispatcher.settings
        self._dispatcher = dispatcher
        self._max_scan_bytes = settings.audit.max_scan_bytes
        self._heartbeat_seconds = settings.watch.heartbeat_seconds
        self._streams = streams
        self._tails = StreamLimit(settings.audit.max_tails, "server.audit.max_tails")

    def handler(self, intake: Intake, entry: ListenEntry) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what a grpc server needs to route calls here."""
        rpcs = Rpcs(self.service_name, intake, self._streams, self._dispatcher.report)
        methods = {
            "GetCheckpoint": rpcs.unary(self.get_checkpoint, pb.GetCheckpointRequest),
            "GetInclusionProof": rpcs.page(self.get_inclusion_proof, pb.GetInclusionProofRequest),
            "GetConsistencyProof": rpcs.unary(self.get_consistency_proof, pb.GetConsistencyProofRequest),
            "ListAuditEvents": rpcs.page(self.list_audit_events, pb.ListAuditEventsRequest),
            "TailAuditEvents": rpcs.stream(self.tail_audit_events, pb.TailAuditEventsRequest),
        }
        return grpc.method_handlers_generic_handler(self.service_name, methods)

    async def get_checkpoint(self, data: bytes) -> bytes:
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

    async def get_inclusion_proof(self, data: bytes) -> bytes:
        """GetInclusionProof: by index or by the event's id."""
        request = parse(pb.GetInclusionProofRequest, data)
        source = self._dispatcher.audit(request.log_id)
        index = await _leaf_index(source, request)
        proof = await source.inclusion_proof(index, request.tree_size or None)
        return inclusion_to_wire(source.log_id, proof).SerializeToString()

    async def get_consistency_proof(self, data: bytes) -> bytes:
        """GetConsistencyProof."""
        request = parse(pb.GetConsistencyProofRequest, data)
        source = self._dispatcher.audit(request.log_id)
        proof = await source.consistency_proof(request.old_size, request.new_size or None)
        return consistency_to_wire(source.log_id, proof).SerializeToString()

    async def list_audit_events(self, data: bytes) -> bytes:
        """ListAuditEvents."""
        request = parse(pb.ListAuditEventsRequest, data)
        source = self._dispatcher.audit(request.log_id)
        page = await source.list(read_query(request, self._max_scan_bytes))
        response = pb.ListAuditEventsResponse(log_id=source.log_id, next_page_token=page.next_page_token)
        for start in range(0, len(page.entries), SLICE_ENTRIES):
            response.entries.extend(map(entry_to_wire, page.entries[start : start + SLICE_ENTRIES]))
            await asyncio.sleep(0)
        return response.SerializeToString()

    async def tail_audit_events(self, data: bytes) -> AsyncGenerator[bytes, None]:
        """TailAuditEvents: to the end of the server, with heartbeats."""
        request = parse(pb.TailAuditEventsRequest, data)
        source = self._dispatcher.audit(request.log_id)
        wanted = read_filter(request)
        with self._tails.counted():
            batches = source.tail(
                wanted,
                from_index=request.from_index if request.HasField("from_index") else None,
                idle_seconds=self._heartbeat_seconds,
            )
            log_id = source.log_id
            async with aclosing(self._streams.iterate(batches)) as waited_for:
                async for batch in waited_for:
                    yield batch_to_wire(log_id, batch).SerializeToString()


async def _leaf_index(source: AuditSource, request: pb.GetInclusionProofRequest) -> int:
    match request.WhichOneof("entry"):
        case "leaf_index":
            return request.leaf_index
        case "event_id" if request.event_id:
            of_source = request.source if request.HasField("source") else None
            entry = await source.find(request.event_id, of_source)
            if entry is None:
                raise AuditNotFound(f"audit log '{source.log_id}' has no event '{request.event_id}'")
            return entry.leaf_index
        case "event_id":
            raise RequestInvalid("event_id", "is empty")
    raise RequestInvalid("entry", "is mandatory: `leaf_index` or `event_id`")
