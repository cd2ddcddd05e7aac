"""From outcomes to receipts on the wire."""

from emitd.v1 import log_service_pb2 as pb
from emitd_handlers.outcome import AuditReceipt, Committed, JobReceipt
from emitd_handlers.record import LogRecord
from emitd_handlers.settings import Delivery
from emitd_server.service import Route

__all__ = ["receipt_to_wire"]

_DELIVERIES = {
    Delivery.COMMITTED: pb.DELIVERY_COMMITTED,
    Delivery.QUEUED: pb.DELIVERY_QUEUED,
}


def receipt_to_wire(record: LogRecord, outcome: Committed, route: Route) -> pb.Receipt:
    """Return the receipt's message for an accepted record."""
    receipt = pb.Receipt(
        record_id=record.record_id,
        duplicate=outcome.duplicate,
        handlers=[
            pb.HandlerReceipt(handler=name, delivery=_DELIVERIES[delivery])
            for name, delivery in route.deliveries
        ],
    )
    match outcome.receipt:
        case AuditReceipt(log_id=log_id, event_id=event_id, leaf_index=leaf_index, leaf_hash=leaf_hash):
            receipt.audit.CopyFrom(
                pb.AuditReceipt(log_id=log_id, event_id=event_id, leaf_index=leaf_index, leaf_hash=leaf_hash)
            )
        case JobReceipt() as job:
            receipt.job.CopyFrom(
                pb.JobReceipt(
                    revision=job.revision,
                    attempt=job.attempt,
                    applied=job.applied,
                    stale_reason=job.stale_reason,
                    cancel_requested=job.cancel_requested,
                )
            )
    return receipt
