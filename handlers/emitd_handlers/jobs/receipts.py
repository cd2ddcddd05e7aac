"""What is kept of reports with a record_id, so that a copy gets the answer of the first also after a restart."""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from emitd_handlers.outcome import JobReceipt, RecentCommit

__all__ = ["StoredReceipt", "decode_receipts", "encode_receipts", "recent_commit"]

#: record_id, fingerprint, job_id, revision, attempt, stale_reason.
StoredReceipt: TypeAlias = tuple[str, int, str, int, int, str]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[StoredReceipt]).decode


def encode_receipts(receipts: Sequence[StoredReceipt]) -> bytes | None:
    """Return the receipts of one transaction as they are stored; None: there are none."""
    return _encode(receipts) if receipts else None


def decode_receipts(data: bytes) -> Sequence[StoredReceipt]:
    """Return what `encode_receipts` was given."""
    return _decode(data)


def recent_commit(receipt: StoredReceipt) -> RecentCommit:
    """Return how a handler tells of it."""
    record_id, fingerprint, job_id, revision, attempt, reason = receipt
    return RecentCommit(record_id, "", fingerprint, JobReceipt(job_id, revision, attempt, not reason, reason))
