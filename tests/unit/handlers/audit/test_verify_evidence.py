"""What somebody else holds of a log: which files are understood, and what they confirm."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emitd_handlers.audit.verify.evidence import (
    EvidenceInvalid,
    HeldElsewhere,
    HeldReceipt,
    read_evidence,
)
from emitd_handlers.audit.verify.findings import Verdict, VerifyReport
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_handlers.tlog.note import Signer
from support.audit.sealed_log import LOG_ID, SealedLog


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "audit.json.log", 10, 40)


def audit_receipt(log: SealedLog, index: int, **changes: object) -> dict[str, Any]:
    members = {
        "log_id": LOG_ID,
        "event_id": f"event-{index:06}",
        "leaf_index": str(index),
        "leaf_hash": b64encode(leaf_hash(log.lines[index])).decode(),
    }
    return members | changes


def against(log: SealedLog, data: bytes | dict[str, Any]) -> VerifyReport:
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return verify_log(log.path, against=[HeldElsewhere("kept", data)])


@pytest.mark.parametrize("shape", ["bare", "audit", "receipt"])
def test_receipts(log: SealedLog, shape: str) -> None:
    """The receipt of an event is found by itself, in that of its record, and in the response."""
    bare = audit_receipt(log, 7)
    whole = {"bare": bare, "audit": {"audit": bare}, "receipt": {"receipt": {"audit": bare}}}[shape]
    read = read_evidence(json.dumps(whole, indent=2).encode())
    assert read == HeldReceipt(LOG_ID, "event-000007", leaf_hash(log.lines[7]), 7)
    report = against(log, whole)
    assert (report.verdict, report.notes[-1]) == (
        Verdict.GOOD,
        "by 'kept': line 7 is the one that this receipt was given for",
    )


def test_checkpoints_and_proofs(log: SealedLog) -> None:
    """A checkpoint is found by itself, and behind the first blank line of a proof."""
    proof = b"c2sp.org/tlog-proof@v1\nindex 7\nAAAA\n\n" + log.notes[0]
    for data in (log.notes[0], proof):
        assert read_evidence(data) == [log.notes[0]]
        report = against(log, data)
        assert report.verdict is Verdict.GOOD
        assert "begins with the 10 lines" in report.notes[-1]


def test_a_copy_of_the_file_of_checkpoints(log: SealedLog) -> None:
    """All checkpoints in it are held against the log; one that was being written when it was copied is left out."""
    copy = log.paths.checkpoints.read_bytes()
    for data in (copy, copy + log.notes[1][:60]):
        report = against(log, data)
        assert (report.verdict, report.notes[-1]) == (
            Verdict.GOOD,
            "by 'kept': the log begins with the 40 lines that the last of these 2 checkpoints was signed over",
        )
    longer = SealedLog.make(log.path.with_name("longer.log"), 10, 40, 50)
    longer.rotate_key()
    other = against(longer, copy)
    assert other.verdict is not Verdict.GOOD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello\n",
        b"hello\n\nworld\n",
        b"\xff\xfe",
        b"{",
        b"{}",
        b"[]",
        b'{"audit":null}',
        b'{"audit":{"log_id":"a"}}',
        b'{"log_id":1,"event_id":"","leaf_index":"0","leaf_hash":""}',
    ],
)
def test_what_is_none_of_them(data: bytes) -> None:
    """It is said so, whatever it is."""
    with pytest.raises(EvidenceInvalid):
        read_evidence(data)


@pytest.mark.parametrize(
    "changes",
    [{"leaf_index": "-1"}, {"leaf_index": "x"}, {"leaf_hash": "AAAA"}, {"leaf_hash": "ü"}, {"log_id": None}],
)
def test_a_damaged_receipt(log: SealedLog, changes: dict[str, object]) -> None:
    """It says nothing of the log."""
    assert against(log, audit_receipt(log, 7, **changes)).verdict is Verdict.CANNOT_TELL


def test_a_receipt_with_another_event(log: SealedLog) -> None:
    """Its hash is that of the line: so it is the receipt that was changed."""
    report = against(log, audit_receipt(log, 7, event_id="other"))
    assert (report.verdict, "it was changed" in report.notes[0]) == (Verdict.CANNOT_TELL, True)


def test_a_damaged_checkpoint(log: SealedLog) -> None:
    """One whose signature is wrong says nothing, nor does one of an unknown key; the log is not to blame."""
    forged = log.notes[0].replace(b"\n10\n", b"\n11\n")
    unknown = Signer(LOG_ID, Ed25519PrivateKey.generate()).sign(Checkpoint(LOG_ID, 5, b"x" * 32).text())
    for data, why in ((forged, "forged or damaged"), (unknown, "give that key with --key")):
        report = against(log, data)
        assert (report.verdict, why in report.notes[0]) == (Verdict.CANNOT_TELL, True)
    no_checkpoint = log.signers[0].sign("hello\n")
    assert against(log, no_checkpoint).verdict is Verdict.CANNOT_TELL
