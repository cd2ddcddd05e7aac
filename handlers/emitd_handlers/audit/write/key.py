"""The keys of an audit log: the private one that signs, an Ed25519 key in PEM, and the list of the public ones.

The list has a vkey a line, the newest last. A key is on the list before it signs anything, and stays there for good.
"""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from emitd_handlers.audit.format.paths import AuditPaths
from emitd_handlers.durable.atomic_write import replace_file, sync_folder
from emitd_handlers.durable.disk import RealDisk
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.tlog.note import NoteInvalid, Signer, Verifier

__all__ = ["new_key_pem", "read_key", "read_vkeys", "rotate_key"]

_KEY_MODE = 0o600


def read_key(pem: bytes) -> Ed25519PrivateKey:
    """Return the key of a PEM file. Raises ValueError that says what it is instead."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("it is no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("its key is of another kind than Ed25519")
    return key


def new_key_pem() -> bytes:
    """Return a new key as PEM (PKCS#8)."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_vkeys(path: Path) -> list[Verifier]:
    """Return the public keys of a list, the newest last; none where there is no such file.

    Raises NoteInvalid for a list with anything else on it, OSError.
    """
    return [Verifier.from_vkey(vkey) for vkey in _read_list(path).split()]


def rotate_key(paths: AuditPaths, key: Path, log_id: str) -> Verifier:
    """Make a new key for the log `log_id`, in the file `key`, and put it on the list; return its public half.

    A crash leaves the old key or the new one, and the list has it. Raises HandlerUnavailable while the log is in use,
    NoteInvalid where the list or the id will not do, OSError.
    """
    disk = RealDisk()
    fd = os.open(paths.lines, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not disk.lock(fd):
            raise HandlerUnavailable(f"audit log '{paths.lines}' is in use: stop the service first")
        return _replace_key(paths, key.resolve(), log_id)
    finally:
        disk.close(fd)


def _replace_key(paths: AuditPaths, key: Path, log_id: str) -> Verifier:
    names = {verifier.name for verifier in read_vkeys(paths.vkey)}
    if names and log_id not in names:
        raise NoteInvalid(f"'{paths.vkey}' has keys of the log '{names.pop()}', not of '{log_id}'")
    pem = new_key_pem()
    verifier = Signer(log_id, read_key(pem)).verifier
    listed = "".join(f"{vkey}\n" for vkey in [*_read_list(paths.vkey).split(), verifier.vkey])
    replace_file(paths.vkey, listed.encode(), mode=_mode_of(paths.vkey), like=paths.lines)
    sync_folder(paths.vkey.parent)
    replace_file(key, pem, mode=_KEY_MODE, like=key if key.exists() else paths.lines)
    sync_folder(key.parent)
    return verifier


def _mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else _KEY_MODE


def _read_list(path: Path) -> str:
    """Return a list without what a crash has torn at its end: a key that has signed nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    whole, newline, last = text.rpartition("\n")
    try:
        Verifier.from_vkey(last)
    except NoteInvalid:
        return whole + newline
    return text
