"""The keys of a log: PEM files, the list of vkeys, and what a change of key leaves at each step."""

import fcntl
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from emitd_handlers.audit.format.files import read_key_file
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.audit.write import identity as audit_key
from emitd_handlers.audit.write.identity import new_key_pem, read_key, rotate_key
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.tlog.note import NoteInvalid, Signer
from support.audit.sealed_log import LOG_ID, SealedLog

PKCS8 = PrivateFormat.PKCS8
ED25519 = Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    """A log with a checkpoint, and its key in the file for it."""
    log = SealedLog.make(tmp_path / "audit.json.log", 3)
    log.paths.key.write_bytes(log.key_pem)
    log.paths.key.chmod(0o600)
    return log


def vkeys_of(log: SealedLog) -> list[str]:
    return [key.verifier.vkey for key in read_key_file(log.paths.vkey)]


def signing_vkey(path: Path) -> str:
    return Signer(LOG_ID, read_key(path.read_bytes())).verifier.vkey


def test_a_new_key_is_read_again() -> None:
    """PEM, PKCS#8, and another one each time."""
    pem = new_key_pem()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert isinstance(read_key(pem), Ed25519PrivateKey)
    assert pem != new_key_pem()


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"", "no private key in PEM"),
        (b"nonsense", "no private key in PEM"),
        (new_key_pem()[:-40], "no private key in PEM"),
        (ED25519.private_bytes(Encoding.PEM, PKCS8, BestAvailableEncryption(b"x")), "without a password"),
        (ED25519.private_bytes(Encoding.DER, PKCS8, NoEncryption()), "no private key in PEM"),
        (
            ED25519.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "no private key in PEM",
        ),
        (P256.private_bytes(Encoding.PEM, PKCS8, NoEncryption()), "of another kind than Ed25519"),
    ],
)
def test_what_is_no_key(pem: bytes, words: str) -> None:
    """It says what it is instead."""
    with pytest.raises(ValueError, match=words):
        read_key(pem)


def test_the_list(log: SealedLog, tmp_path: Path) -> None:
    """The newest last; without the file there is none; a last line without a newline counts if it is whole."""
    log.rotate_key()
    assert vkeys_of(log) == log.vkeys
    assert read_key_file(tmp_path / "missing") == []
    log.paths.vkey.write_text("\n".join(log.vkeys))
    assert vkeys_of(log) == log.vkeys


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_key_that_a_crash_has_torn_is_left_out(log: SealedLog, cut: int) -> None:
    """It has signed nothing. Anything else that is no key is told."""
    log.paths.vkey.write_text(f"{log.vkeys[0]}\n{log.vkeys[0][:-cut]}")
    assert vkeys_of(log) == log.vkeys
    log.paths.vkey.write_text(f"{log.vkeys[0][:-cut]}\n{log.vkeys[0]}\n")
    with pytest.raises(NoteInvalid):
        read_key_file(log.paths.vkey)


def test_a_change_of_key(log: SealedLog) -> None:
    """The new key is in the file, for its owner alone, and on the list after the old ones; nothing else is left."""
    names = set(os.listdir(log.path.parent))
    old = log.paths.key.read_bytes()
    key = rotate_key(log.paths, log.paths.key, LOG_ID)
    assert vkeys_of(log) == [*log.vkeys, key.verifier.vkey]
    assert key.before is not None
    assert key.before.vkey == log.vkeys[0]
    assert signing_vkey(log.paths.key) == key.verifier.vkey
    assert log.paths.key.read_bytes() != old
    assert stat.S_IMODE(log.paths.key.stat().st_mode) == 0o600
    assert set(os.listdir(log.path.parent)) == names


def test_a_key_elsewhere(log: SealedLog, tmp_path: Path) -> None:
    """The file that the configuration names is replaced, also behind a symbolic link; the one beside the log stays."""
    secret, link = tmp_path / "secret.pem", tmp_path / "link.pem"
    secret.write_bytes(new_key_pem())
    link.symlink_to(secret)
    beside = log.paths.key.read_bytes()
    key = rotate_key(log.paths, link, LOG_ID)
    assert link.is_symlink()
    assert signing_vkey(secret) == key.verifier.vkey
    assert log.paths.key.read_bytes() == beside


def test_a_key_that_was_lost_is_made_anew(log: SealedLog) -> None:
    """The list keeps the old one, so that its checkpoints are still good. Nothing vouches for the new one."""
    log.paths.key.unlink()
    key = rotate_key(log.paths, log.paths.key, LOG_ID)
    assert key.before is None
    assert vkeys_of(log) == [*log.vkeys, key.verifier.vkey]
    assert stat.S_IMODE(log.paths.key.stat().st_mode) == 0o600


def test_a_list_that_was_lost_begins_with_the_key_before(log: SealedLog) -> None:
    """That key is still there, and its checkpoints verify again."""
    log.paths.vkey.unlink()
    key = rotate_key(log.paths, log.paths.key, LOG_ID)
    assert vkeys_of(log) == [log.vkeys[0], key.verifier.vkey]
    assert verify_log(log.path, keys=[log.signers[0].verifier]).verdict is Verdict.GOOD


def test_many_changes_of_key(log: SealedLog) -> None:
    """A list of more than 64 kB is read whole, and loses nothing at a start."""
    for _ in range(300):
        log.rotate_key()
    log.paths.key.write_bytes(log.key_pem)
    assert log.paths.vkey.stat().st_size > 65_536
    service = AuditLog(log.path, Disk(), lambda line: None)
    service.open()
    service.close()
    assert vkeys_of(log) == log.vkeys
    assert verify_log(log.path, keys=[log.signers[0].verifier]).verdict is Verdict.GOOD


def test_a_crash_leaves_a_key_that_is_on_the_list(log: SealedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step does not come: the key that signs is listed, and what is on the medium is in that order."""
    (old,) = read_key_file(log.paths.vkey)
    replace, sync = audit_key.replace_file, audit_key.sync_folder
    steps: list[str] = []
    for stop in range(5):
        steps.clear()

        def step(name: str, stop: int = stop) -> None:
            if len(steps) == stop:
                raise KeyboardInterrupt
            steps.append(name)

        def stepped_replace(path: Path, data: bytes, *, mode: int, like: Path) -> None:
            step(path.suffix)
            replace(path, data, mode=mode, like=like)

        monkeypatch.setattr(audit_key, "replace_file", stepped_replace)
        monkeypatch.setattr(audit_key, "sync_folder", lambda path: step("sync") or sync(path))
        if stop < 4:
            with pytest.raises(KeyboardInterrupt):
                rotate_key(log.paths, log.paths.key, LOG_ID)
        else:
            rotate_key(log.paths, log.paths.key, LOG_ID)
        assert signing_vkey(log.paths.key) in vkeys_of(log)
        service = AuditLog(log.path, Disk(), lambda line: None)
        service.open()
        assert service.vkey == signing_vkey(log.paths.key)
        service.close()
        assert verify_log(log.path, keys=[old.verifier]).verdict is Verdict.GOOD
    assert steps == [".vkey", "sync", ".key", "sync"]


def test_a_log_in_use_keeps_its_key(log: SealedLog) -> None:
    """The service has locked its lines."""
    before = log.paths.key.read_bytes(), log.paths.vkey.read_bytes()
    fd = os.open(log.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(HandlerUnavailable, match="is in use: stop the service first"):
        rotate_key(log.paths, log.paths.key, LOG_ID)
    assert (log.paths.key.read_bytes(), log.paths.vkey.read_bytes()) == before
    os.close(fd)
    rotate_key(log.paths, log.paths.key, LOG_ID)


def test_the_keys_of_another_log_are_not_mixed_in(log: SealedLog) -> None:
    """Nothing is changed."""
    before = log.paths.key.read_bytes(), log.paths.vkey.read_bytes()
    with pytest.raises(NoteInvalid, match=r"keys of the log 'emitd\.test/log', not of 'emitd\.test/other'"):
        rotate_key(log.paths, log.paths.key, "emitd.test/other")
    assert (log.paths.key.read_bytes(), log.paths.vkey.read_bytes()) == before
