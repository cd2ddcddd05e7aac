"""Whether an audit receipt holds: its event is in the log that the log's key has signed.

Pure: the client fetches the proof. Needs the `audit` extra.
"""

from typing import TYPE_CHECKING

from emitd.errors import RequestRejected, VerificationFailed
from emitd.receipt import Receipt
from emitd.v1 import audit_service_pb2 as audit

if TYPE_CHECKING:
    from emitd import v1

__all__ = ["check_receipt", "place_of"]


def place_of(receipt: "Receipt | v1.AuditReceipt") -> "v1.AuditReceipt":
    """Return where a receipt says that its event is. Raises RequestRejected if it does not say so."""
    place = receipt.audit if isinstance(receipt, Receipt) else receipt
    if not place.leaf_hash:
        raise RequestRejected("receipt: it is of no audit event that is committed", field="receipt")
    return place


def check_receipt(
    place: "v1.AuditReceipt", vkey: str, proof: audit.GetInclusionProofResponse
) -> audit.GetInclusionProofResponse:
    """Return the proof if it shows that the event of a receipt is in the log that a key has signed.

    `vkey` is the log's public key; several, with spaces, are tried in turn. Raises VerificationFailed, RequestRejected
    for a vkey that is malformed, and ModuleNotFoundError without the `audit` extra.
    """
    try:
        from emitd_handlers.tlog.merkle import leaf_hash
        from emitd_handlers.tlog.note import NoteInvalid, Verifier
        from emitd_handlers.tlog.proof_file import ProofInvalid, TlogProof
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"verify_receipt needs '{error.name}': pip install 'emitd[audit]' brings it", name=error.name
        ) from error
    try:
        verifiers = [Verifier.from_vkey(key) for key in vkey.split()]
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
