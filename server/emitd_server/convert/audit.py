"""Converts between the audit trail and messages: reads and checks requests, writes lines and proofs."""

from msgspec.structs import asdict

from emitd.v1 import audit_service_pb2 as pb
from emitd.v1 import record_pb2
from emitd_handlers.audit.format.line import AuditLine
from emitd_handlers.audit.source import (
    AuditBatch,
    AuditEntry,
    AuditFilter,
    AuditQuery,
    ConsistencyProof,
    InclusionProof,
)
from emitd_handlers.record import is_source_ip
from emitd_handlers.scope import Scope
from emitd_handlers.text.times import parse_time
from emitd_server.convert import read_page_size
from emitd_server.errors import RequestInvalid


def read_query(request: pb.ListAuditEventsRequest, scope: Scope, max_scan_bytes: int) -> AuditQuery:
    """Return the query that a request of a caller with a scope describes. Raises RequestInvalid."""
    return AuditQuery(
        filter=read_filter(request, scope),
        received_after_unix_nano=request.received_after_unix_nano,
        received_before_unix_nano=request.received_before_unix_nano,
        newest_first=request.newest_first,
        page_size=read_page_size(request.page_size),
        page_token=request.page_token,
        max_scan_bytes=max_scan_bytes,
    )


def read_filter(request: pb.ListAuditEventsRequest | pb.TailAuditEventsRequest, scope: Scope) -> AuditFilter:
    """Return the filter of a request of a caller with a scope. Raises RequestInvalid."""
    if request.source_ip and not is_source_ip(request.source_ip):
        shown = request.source_ip[:64]
        raise RequestInvalid("source_ip", f"'{shown}' is neither an IP address nor 'unknown'")
    by_id = request if isinstance(request, pb.ListAuditEventsRequest) else pb.ListAuditEventsRequest()
    return AuditFilter(
        event_id=by_id.event_id,
        source=by_id.source if by_id.HasField("source") else None,
        event_name_prefix=request.event_name_prefix,
        user_id=request.user_id,
        source_ip=request.source_ip,
        scope=scope,
    )


def entry_to_wire(entry: AuditEntry) -> pb.AuditEntry:
    """Return the line's message."""
    return pb.AuditEntry(
        leaf_index=entry.leaf_index,
        line=entry.line,
        leaf_hash=entry.leaf_hash,
        receive_time_unix_nano=entry.received_unix_nano,
        record=_record(entry.parsed),
    )


def batch_to_wire(log_id: str, batch: AuditBatch) -> pb.TailAuditEventsResponse:
    """Return the message for a tail's batch; a heartbeat if it is empty."""
    return pb.TailAuditEventsResponse(
        log_id=log_id,
        entries=map(entry_to_wire, batch.entries),
        heartbeat=not batch.entries,
        next_index=batch.next_index,
    )


def inclusion_to_wire(log_id: str, proof: InclusionProof) -> pb.GetInclusionProofResponse:
    """Return the proof's message, whose fields have the same names."""
    return pb.GetInclusionProofResponse(log_id=log_id, **asdict(proof))


def consistency_to_wire(log_id: str, proof: ConsistencyProof) -> pb.GetConsistencyProofResponse:
    """Return the proof's message, whose fields have the same names."""
    return pb.GetConsistencyProofResponse(log_id=log_id, **asdict(proof))


def _record(line: AuditLine | None) -> record_pb2.LogRecord | None:
    """Return the record of a line; None if the line is damaged."""
    if line is None:
        return None
    try:
        return record_pb2.LogRecord(
            record_id=line.record_id,
            time_unix_nano=parse_time(line.timestamp),
            level=record_pb2.LEVEL_AUDIT,
            message=line.message,
            source=line.source,
            attributes_json=str(line.attributes, "utf-8"),
            trace_id=bytes.fromhex(line.trace_id),
            span_id=bytes.fromhex(line.span_id),
            audit=record_pb2.AuditEvent(
                event_id=line.event_id,
                event_name=line.event_name,
                user_id=line.user_id,
                source_ip=line.source_ip,
                details_json=str(line.details, "utf-8"),
            ),
        )
    except ValueError:  # a time that is none, or before 1970
        return None
