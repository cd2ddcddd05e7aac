"""`Receipt`: what a client knows of an awaited record when its call returns."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emitd import v1

__all__ = ["Receipt", "ReceiptState"]


class ReceiptState(StrEnum):
    """Where a record is. Compares equal with its name."""

    #: Every handler of the service that must commit it has committed it.
    COMMITTED = "COMMITTED"
    #: The service was not to be reached in time: the record is on this machine's disk, synced, and is sent later.
    SPOOLED = "SPOOLED"


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a record is safe, and where.

    `handlers`, `audit` and `job` are the service's own words, and empty for a spooled record: see `emitd.v1.Receipt`.
    """

    state: ReceiptState
    #: The service's receipt; for a spooled record only its `record_id`.
    message: "v1.Receipt"

    @property
    def record_id(self) -> str:
        """The record's id: the caller's, or the one it was given."""
        return self.message.record_id

    @property
    def duplicate(self) -> bool:
        """Whether the record had been accepted before; the rest is then the first receipt."""
        return self.message.duplicate

    @property
    def handlers(self) -> "Sequence[v1.HandlerReceipt]":
        """Which handlers have it, and how."""
        return self.message.handlers

    @property
    def audit(self) -> "v1.AuditReceipt":
        """Where an audit event stands in the audit trail: `log_id`, `event_id`, `leaf_index`, `leaf_hash`."""
        return self.message.audit

    @property
    def job(self) -> "v1.JobReceipt":
        """What a report did to its job."""
        return self.message.job
