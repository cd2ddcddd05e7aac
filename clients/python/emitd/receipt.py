"""`Receipt`: what a client knows of an awaited record when its call returns; and how an audit receipt is verified."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from emitd.errors import RequestRejected, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emitd import v1


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

    def __str__(self) -> str:
        """Return it in one line, for people."""
        line = f"{self.state} {self.record_id}" + (" (duplicate)" if self.duplicate else "")
        if self.audit.event_id:
            line += f": event {self.audit.event_id}, line {self.audit.leaf_index} of {self.audit.log_id}"
        if self.job.revision:
            line += f": job revision {self.job.revision}, attempt {self.job.attempt}"
        return line if not self.job.stale_reason else f"{line}, not applied: {self.job.stale_reason}"

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


def place_of(receipt: "Receipt | v1.AuditReceipt") -> "v1.AuditReceipt":
    """Return where a receipt says that its event is. Raises RequestRejected if it does not say so."""
    place = receipt.audit if isinstance(receipt, Receipt) else receipt
    if not place.leaf_hash:
        raise RequestRejected("receipt: it is of no audit event that is committed", field="receipt")
    return place


def check_receipt(
    place: "v1.AuditReceipt", vkey: str, proof: "v1.GetInclusionProofResponse"
) -> "v1.GetInclusionProofResponse":
    """Return the proof if it shows that the event of a receipt is in the log that a key has signed.

    `vkey` is the log's public key; several, with spaces, are tried in turn. Raises VerificationFailed, RequestRejected
    for a vkey that is malformed, and ModuleNotFoundError without the `audit` extra.
    """
    try:
        from emitd_handlers.tlog.key_list import read_key_list
        from emitd_handlers.tlog.merkle import leaf_hash
        from emitd_handlers.tlog.note import NoteInvalid
        from emitd_handlers.tlog.proof_file import ProofInvalid, TlogProof
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"verify_receipt needs '{error.name}': pip install 'emitd[audit]' brings it", name=error.name
        ) from error
    try:
        verifiers = [key.verifier for key in read_key_list(vkey)]
    except NoteInvalid as error:
        raise RequestRejected(f"vkey: {error}", field="vkey") from error
    if not verifiers:
        raise RequestRejected("vkey: is empty", field="vkey")
    if leaf_hash(proof.line) != place.leaf_hash:
        raise VerificationFailed(f"line {place.leaf_index} of the log is not the event of the receipt")
    try:
        # The index is the receipt's, not the one of the answer.
        tlog_proof = TlogProof(place.leaf_index, list(proof.hashes), proof.checkpoint)
        checkpoint, _ = tlog_proof.verify(place.leaf_hash, verifiers)
    except (NoteInvalid, ProofInvalid) as error:
        raise VerificationFailed(f"the proof of the receipt does not hold: {error}") from error
    if checkpoint.origin != place.log_id:
        raise VerificationFailed(f"the proof is of the log '{checkpoint.origin}', not of '{place.log_id}'")
    return proof
