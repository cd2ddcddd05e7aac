"""The newest checkpoint that a log's own key signed."""

from pathlib import Path

import pytest

from emitd_handlers.audit.publish.prove import SignedTree, newest_signed
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.errors import AuditDamaged, HandlerUnavailable
from support.audit.sealed_log import SealedLog, make_line


def newest(log: SealedLog) -> SignedTree:
    with AuditTrail(log.path) as trail:
        return newest_signed(trail)


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "audit.json.log", 10, 60)


def test_the_newest(log: SealedLog) -> None:
    """With the key that signed it and all keys of the log, also after a change of key and with lines that wait."""
    log.rotate_key()
    log.append([make_line(60)])
    log.checkpoint()
    log.append([make_line(61)])
    signed = newest(log)
    assert (signed.note, signed.checkpoint.size) == (log.notes[-1], 61)
    assert [verifier.vkey for verifier in signed.signed_by] == log.vkeys[1:]
    assert [verifier.vkey for verifier in signed.verifiers] == log.vkeys


@pytest.mark.parametrize("tail", [b"emitd.test/log\n61\nAAAA", b"nonsense\n\n"])
def test_what_is_torn_after_it_is_passed_over(log: SealedLog, tail: bytes) -> None:
    """It is being written, or is for `emitd audit verify` to tell of."""
    with log.paths.checkpoints.open("ab") as file:
        file.write(tail)
    assert newest(log).note == log.notes[-1]


def test_one_that_another_key_signed_is_passed_over(log: SealedLog) -> None:
    """What the list of keys does not have is not believed."""
    vkeys = log.paths.vkey.read_bytes()
    log.append([make_line(60)])
    log.rotate_key()
    log.checkpoint()
    log.paths.vkey.write_bytes(vkeys)
    assert newest(log).checkpoint.size == 60


def test_without_a_key_nothing_can_be_told(log: SealedLog) -> None:
    """It says where the keys should be."""
    log.paths.vkey.unlink()
    with pytest.raises(HandlerUnavailable, match=r"has no public key, in '.*vkey'"):
        newest(log)


def test_without_a_checkpoint_nothing_can_be_told(log: SealedLog) -> None:
    """Neither where there is none, nor where none is signed by a key of the log."""
    other = SealedLog(log.path.with_name("other.log"))
    log.paths.vkey.write_text(other.vkeys[0])
    with pytest.raises(HandlerUnavailable, match=r"no listed key of the audit log '.*' has signed its last"):
        newest(log)
    with pytest.raises(HandlerUnavailable, match="is not signed yet"):
        newest(other)


def test_a_damaged_list_of_keys_is_told(log: SealedLog) -> None:
    """It is not taken for an empty one."""
    log.paths.vkey.write_text("nonsense\n")
    with pytest.raises(AuditDamaged, match=r"'.*vkey' is damaged: 'nonsense' is not the vkey"):
        newest(log)


def test_hashes_that_do_not_lead_to_the_root_are_told(log: SealedLog) -> None:
    """Changed or cut: the words say what to run next."""
    data = bytearray(log.paths.hashes.read_bytes())
    data[-1] ^= 1
    log.paths.hashes.write_bytes(data)
    with pytest.raises(
        AuditDamaged,
        match=r"its stored hashes are not what was signed; `emitd audit verify`",
    ):
        newest(log)
    log.paths.hashes.write_bytes(data[:-32])
    with pytest.raises(HandlerUnavailable, match=r"ends too early: .*, or was cut; `emitd audit verify`"):
        newest(log)
