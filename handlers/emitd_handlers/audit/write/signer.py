"""The keys of an audit log as its service uses them: the private one that signs, and the list of the public ones.

The private key is a PEM file, the list a vkey a line, the newest last. A key is on the list before it signs anything.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from emitd_handlers.audit.format.paths import AuditPaths
from emitd_handlers.audit.write.key import new_key_pem, read_key
from emitd_handlers.durable.append_file import DurableFile
from emitd_handlers.durable.disk import Disk, write_all
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.tlog.note import NoteInvalid, Signer, Verifier

__all__ = ["open_signer", "read_verifiers"]

MAX_FILE_BYTES = 64 * 1024
#: Anything that has both ends of a PEM file, which a torn one has not.
_WHOLE_PEM = re.compile(rb"-----BEGIN [^\0]*-----\s*", re.DOTALL)


def read_verifiers(disk: Disk, path: Path) -> Sequence[Verifier]:
    """Return the public keys of a list, the newest last; none where there is no such file.

    Raises HandlerUnavailable for a list with anything else on it.
    """
    if disk.state_at(path) is None:
        return []
    fd = disk.open(path)
    try:
        text = disk.read(fd, MAX_FILE_BYTES, 0)
    finally:
        disk.close(fd)
    whole = text[: text.rfind(b"\n") + 1]  # a crash may have torn the last, which has signed nothing
    try:
        return [Verifier.from_vkey(vkey) for vkey in whole.decode(errors="replace").split()]
    except NoteInvalid as error:
        raise HandlerUnavailable(f"'{path}' cannot be read: {error}") from None


def open_signer(disk: Disk, paths: AuditPaths, key: Path | None, log_id: str, *, is_signed: bool) -> Signer:
    """Return what signs the checkpoints of the log `log_id`, with its public key on the list.

    `key` is the file of the private key; None: the one beside the log, which is made unless `is_signed`: a log that
    has checkpoints has had a key. Then its name is not on the medium yet. Raises HandlerUnavailable.
    """
    if key is not None and disk.state_at(key) is None:
        raise HandlerUnavailable(
            f"there is no key '{key}'; `openssl genpkey -algorithm ed25519 -out FILE` makes one, and without `key` the "
            "service makes one at its first start"
        )
    path = paths.key if key is None else key
    if key is None and not is_signed:
        _make_key(disk, path)
    if disk.state_at(path) is None:
        raise HandlerUnavailable(
            f"the key '{path}' is missing, which signed the log's checkpoints: restore it, or make a new one with "
            "`emitd audit key --rotate`"
        )
    try:
        signer = Signer(log_id, read_key(_read(disk, path)))
    except ValueError as error:
        raise HandlerUnavailable(f"the key '{path}' cannot be used: {error}") from None
    _list(disk, paths.vkey, signer.verifier.vkey)
    return signer


def _make_key(disk: Disk, path: Path) -> None:
    """Make a key, unless there is one. A crash may have left one that is torn, and has signed nothing."""
    fd = disk.open(path)
    try:
        disk.ensure_synced(fd, 0)
        if _WHOLE_PEM.fullmatch(disk.read(fd, MAX_FILE_BYTES, 0)) is None:
            disk.truncate(fd, 0)
            write_all(disk, fd, new_key_pem())
            disk.sync(fd)
    finally:
        disk.close(fd)


def _list(disk: Disk, path: Path, vkey: str) -> None:
    """Put a public key on the list, if it is not on it."""
    file = DurableFile(disk, path)
    file.open()
    try:
        file.ensure_synced()
        text = file.read(MAX_FILE_BYTES, 0)
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            file.cut(len(whole))
        if vkey not in whole.decode().split():
            file.append(f"{vkey}\n".encode())
    finally:
        file.close()


def _read(disk: Disk, path: Path) -> bytes:
    fd = disk.open(path)
    try:
        return disk.read(fd, MAX_FILE_BYTES, 0)
    finally:
        disk.close(fd)
