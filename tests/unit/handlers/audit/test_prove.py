"""Proofs of single events: found, made, checked, and refused."""

from pathlib import Path

import msgspec
import pytest

from emitd_handlers.audit.publish.prove import check_proof, proof_name, prove_event
from emitd_handlers.errors import AuditDamaged, AuditNotFound, HandlerUnavailable
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_handlers.tlog.note import UnknownKey, Verifier
from emitd_handlers.tlog.proof_file import ProofInvalid, TlogProof
from support.audit.sealed_log import SealedLog, make_line


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "audit.json.log", 10, 300)


def verifiers_of(log: SealedLog) -> list[Verifier]:
    return [Verifier.from_vkey(vkey) for vkey in log.vkeys]


@pytest.mark.parametrize("number", [0, 9, 10, 255, 256, 299])
def test_any_event_is_proved_by_the_newest_checkpoint(log: SealedLog, number: int) -> None:
    """The proof has the exact line in it, and is checked with the public key alone."""
    proved = prove_event(log.path, f"event-{number:06}")
    assert (proved.line, proved.proof.index, proved.checkpoint.size) == (log.lines[number], number, 300)
    assert proved.proof.note == log.notes[-1]
    again = check_proof(TlogProof.parse(proved.proof.encode()), verifiers_of(log))
    assert (again.proof, again.line, again.checkpoint) == (proved.proof, proved.line, proved.checkpoint)
    assert again.leaf_hash == leaf_hash(log.lines[number])
    assert [verifier.vkey for verifier in again.signed_by] == log.vkeys


def test_an_old_key_still_proves(log: SealedLog) -> None:
    """After a change of key, until a checkpoint of the new one is there."""
    log.rotate_key()
    assert [verifier.vkey for verifier in prove_event(log.path, "event-000001").signed_by] == log.vkeys[:1]
    log.append([make_line(300)])
    log.checkpoint()
    assert [verifier.vkey for verifier in prove_event(log.path, "event-000001").signed_by] == log.vkeys[1:]


def test_of_several_events_with_one_id_the_newest_is_proved(log: SealedLog) -> None:
    """As the service shows it."""
    log.append([make_line(7, time=1_900_000_000_000_000_000)])
    log.checkpoint()
    assert prove_event(log.path, "event-000007").proof.index == 300


def test_an_event_that_is_not_covered_yet(log: SealedLog) -> None:
    """It says which line it is, what is covered, and to try again."""
    log.append([make_line(300)])
    with pytest.raises(
        HandlerUnavailable,
        match="'event-000300' is line 300 of the log, and the newest checkpoint covers only 300: try again in a second",
    ):
        prove_event(log.path, "event-000300")


@pytest.mark.parametrize("event_id", ["event-999999", "event-00001", "user-3", "e", "\ud800"])
def test_an_event_that_is_not_there(log: SealedLog, event_id: str) -> None:
    """A part of an id is none, nor is what stands elsewhere in a line."""
    with pytest.raises(AuditNotFound, match="there is no event"):
        prove_event(log.path, event_id)


def test_a_line_that_was_changed_is_not_proved(log: SealedLog) -> None:
    """Its neighbours still are."""
    data = log.path.read_bytes()
    log.path.write_bytes(data.replace(log.lines[42], log.lines[42].replace(b"user-0", b"user-1")))
    with pytest.raises(AuditDamaged, match="line 42 is not what was signed"):
        prove_event(log.path, "event-000042")
    assert prove_event(log.path, "event-000043").line == log.lines[43]


def test_a_stored_hash_that_was_changed_proves_nothing(log: SealedLog) -> None:
    """The proof is checked before it is given away."""
    data = bytearray(log.paths.hashes.read_bytes())
    data[32] ^= 1  # of leaf 1
    log.paths.hashes.write_bytes(data)
    with pytest.raises(AuditDamaged, match="line 0 is not what was signed"):
        prove_event(log.path, "event-000000")


def test_a_changed_line_in_a_proof_is_found_out(log: SealedLog) -> None:
    """The extra data is believed only because of its hash; without it there is no event to speak of."""
    proof = prove_event(log.path, "event-000042").proof
    forged = msgspec.structs.replace(proof, extra=proof.extra.replace(b"user-0", b"user-1"))
    with pytest.raises(ProofInvalid, match="entry 42 of the tree that was signed is another one"):
        check_proof(forged, verifiers_of(log))
    with pytest.raises(ProofInvalid, match="has no line of the log in it"):
        check_proof(msgspec.structs.replace(proof, extra=b""), verifiers_of(log))


def test_the_key_of_another_log_proves_nothing(log: SealedLog, tmp_path: Path) -> None:
    """Also where that log has the same name."""
    other = SealedLog(tmp_path / "other.log")
    with pytest.raises(UnknownKey):
        check_proof(prove_event(log.path, "event-000042").proof, verifiers_of(other))


@pytest.mark.parametrize(
    ("event_id", "name"),
    [
        ("login-17", "login-17.tlog-proof"),
        ("0197a5c0-7c00-7000-8000-000000000001", "0197a5c0-7c00-7000-8000-000000000001.tlog-proof"),
        ("A.b_c", "A.b_c.tlog-proof"),
    ],
)
def test_a_plain_id_is_the_files_name(event_id: str, name: str) -> None:
    """With the specification's suffix."""
    assert proof_name(event_id) == name


@pytest.mark.parametrize(
    "event_id",
    ["../../etc/passwd", "a/b", "a b", ".hidden", "-rf", "..", "zoë", "\0", "x" * 300, "a\nb", "\ud800"],
)
def test_any_other_id_makes_a_name_that_is_safe(event_id: str) -> None:
    """No folder, no hidden file, no flag, not too long, and another name for each id."""
    name = proof_name(event_id)
    assert name.isascii()
    assert not set(name) & set("/\\\0 \n")
    assert name[0] not in ".-"
    assert len(name) < 150
    assert name.endswith(".tlog-proof")
    assert name != proof_name(event_id + "'") != proof_name(event_id + '"')
