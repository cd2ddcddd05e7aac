"""The gRPC edge of `emitd.v1.AuditService`; see `rpc` for how requests come in and errors go out."""

import asyncio
from collections.abc import AsyncIterator

import grpc

from emitd.v1 import audit_service_pb2 as pb
from emitd_handlers.audit.source import AuditSource
from emitd_handlers.errors import AuditNotFound, HandlerUnavailable
from emitd_server.convert.audit import (
    checkpoint_to_wire,
    consistency_to_wire,
    entry_to_wire,
    inclusion_to_wire,
    read_query,
)
from emitd_server.diagnostics import Report
from emitd_server.errors import RequestInvalid
from emitd_server.rpc.audit_streams import AuditTails
from emitd_server.rpc.methods import Rpcs
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.service import LoggingService

__all__ = ["SERVICE_NAME", "AuditServicer"]

SERVICE_NAME = "emitd.v1.AuditService"
#: So many events of a page are made messages, about 2 ms, before others get their turn in the event loop.
SLICE_ENTRIES = 100


class AuditServicer:
    """Serves the RPCs of AuditService from the handlers that keep audit logs."""

    def __init__(self, service: LoggingService, streams: OpenStreams, report: Report) -> None:
        settings = service.settings
        self._service = service
        self._max_scan_bytes = settings.audit.max_scan_bytes
        self._tails = AuditTails(settings.audit.max_tails, settings.watch.heartbeat_seconds, streams)
        self._rpcs = Rpcs(SERVICE_NAME, settings.limits.max_request_bytes, report)
        self._parse = self._rpcs.parse

    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what a grpc server needs to route calls here."""
        methods = {
            "GetCheckpoint": self._rpcs.unary(self.get_checkpoint),
            "GetInclusionProof": self._rpcs.unary(self.get_inclusion_proof),
            "GetConsistencyProof": self._rpcs.unary(self.get_consistency_proof),
            "ListAuditEvents": self._rpcs.unary(self.list_audit_events),
            "TailAuditEvents": self._rpcs.stream(self.tail_audit_events),
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)

    async def get_checkpoint(self, data: bytes) -> bytes:
        """GetCheckpoint."""
        source = self._service.audit(self._parse(pb.GetCheckpointRequest, data).log_id)
        checkpoint = await source.checkpoint()
        if checkpoint is None:
            raise HandlerUnavailable(f"audit log '{source.log_id}' is not signed yet")
        return checkpoint_to_wire(source.log_id, checkpoint).SerializeToString()

    async def get_inclusion_proof(self, data: bytes) -> bytes:
        """GetInclusionProof: by index, or by the event's id, which is looked for first."""
        request = self._parse(pb.GetInclusionProofRequest, data)
        source = self._service.audit(request.log_id)
        index = await _leaf_index(source, request)
        proof = await source.inclusion_proof(index, request.tree_size or None)
        return inclusion_to_wire(source.log_id, proof).SerializeToString()

    async def get_consistency_proof(self, data: bytes) -> bytes:
        """GetConsistencyProof."""
        request = self._parse(pb.GetConsistencyProofRequest, data)
        source = self._service.audit(request.log_id)
        proof = await source.consistency_proof(request.old_size, request.new_size or None)
        return consistency_to_wire(source.log_id, proof).SerializeToString()

    async def list_audit_events(self, data: bytes) -> bytes:
        """ListAuditEvents."""
        request = self._parse(pb.ListAuditEventsRequest, data)
        source = self._service.audit(request.log_id)
        page = await source.list(read_query(request, self._max_scan_bytes))
        response = pb.ListAuditEventsResponse(log_id=source.log_id, next_page_token=page.next_page_token)
        for start in range(0, len(page.entries), SLICE_ENTRIES):
            response.entries.extend(map(entry_to_wire, page.entries[start : start + SLICE_ENTRIES]))
            await asyncio.sleep(0)
        return response.SerializeToString()

    def tail_audit_events(self, data: bytes) -> AsyncIterator[bytes]:
        """TailAuditEvents."""
        request = self._parse(pb.TailAuditEventsRequest, data)
        return self._tails.tail(self._service.audit(request.log_id), request)


async def _leaf_index(source: AuditSource, request: pb.GetInclusionProofRequest) -> int:
    match request.WhichOneof("entry"):
        case "leaf_index":
            return request.leaf_index
        case "event_id" if request.event_id:
            entry = await source.find(request.event_id)
            if entry is None:
                raise AuditNotFound(f"audit log '{source.log_id}' has no event '{request.event_id}'")
            return entry.leaf_index
        case "event_id":
            raise RequestInvalid("event_id", "is empty")
    raise RequestInvalid("entry", "is mandatory: `leaf_index` or `event_id`")
