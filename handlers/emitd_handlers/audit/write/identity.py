"""Name and keys of an audit log: its id, the private key that signs, and the list of the public keys.

The id is made once, if the configuration gives none. The private key is an Ed25519 key in PEM. A key is on the list
before it signs anything, and stays there for good. `rotate_key` lets the key before it vouch for it.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from emitd_handlers.audit.format.files import AuditPaths, read_key_file
from emitd_handlers.diagnostics import Report
from emitd_handlers.durable.append_file import DurableFile
from emitd_handlers.durable.disk import Disk, replace_file, sync_folder, write_all
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.record import UNKNOWN_ADDRESS, AuditEvent
from emitd_handlers.text.uuid7 import uuid7
from emitd_handlers.tlog.key_list import ROTATION_EVENT, ListedKey, read_key_list, vouch
from emitd_handlers.tlog.note import NoteInvalid, Signer, Verifier

#: The beginning of each id made here; a UUIDv7 follows.
ID_PREFIX = "emitd.local/"
MAX_FILE_BYTES = 64 * 1024
_KEY_MODE = 0o600
#: Printable ASCII without spaces, and the newline that shows that it is whole.
_WHOLE_ID = re.compile(rb"([!-~]+)\n")
#: Anything that has both ends of a PEM file; a torn one has not.
_WHOLE_PEM = re.compile(rb"-----BEGIN [^\0]*-----END [^\0]*-----\s*")


def keep_log_id(disk: Disk, log_path: Path, report: Report, *, is_new: bool, is_empty: bool) -> str:
    """Return the id in the file `<log_path>.log_id`, which is made for a log that has none.

    `is_new` says that the log's file has only now been made, `is_empty` that it has no lines. For an empty log the id
    is then on the medium, except for its file's name. Raises HandlerUnavailable for a log that has lines and lost its
    id: under another one its receipts would name a log that is not there. OSError.
    """
    path = log_path.with_name(f"{log_path.name}.log_id")
    if not is_empty:
        kept = read_log_id(disk, path)
        if not kept:
            raise HandlerUnavailable(
                f"audit log '{log_path}' has lines, but its id is not in '{path}': restore that file, or set "
                "`log_id` to the id that its receipts name"
            )
        return kept
    fd = disk.open(path)
    try:
        disk.ensure_synced(fd, 0)
        match = _WHOLE_ID.fullmatch(disk.read(fd, MAX_FILE_BYTES, 0))
        old = match[1].decode() if match else ""
        if old and not is_new:
            return old
        log_id = ID_PREFIX + uuid7()
        if old:
            report(
                f"audit log '{log_path}' was not there and is begun again, with the id '{log_id}'; "
                f"the one before had the id '{old}'"
            )
        _overwrite(disk, fd, f"{log_id}\n".encode())
        return log_id
    finally:
        disk.close(fd)


def read_log_id(disk: Disk, path: Path) -> str:
    """Return the id in a file; empty if there is none, or it is torn. Raises OSError."""
    match = _WHOLE_ID.fullmatch(_read(disk, path) or b"")
    return match[1].decode() if match else ""


def open_signer(disk: Disk, paths: AuditPaths, key: Path | None, log_id: str, *, is_signed: bool) -> Signer:
    """Return the signer of the log `log_id`, with its public key on the list.

    `key` is the file of the private key; None: the one next to the log, which is made unless `is_signed`: a log that
    has checkpoints has had a key. Its name is not on the medium yet. Raises HandlerUnavailable, OSError.
    """
    if key is not None and disk.state_at(key) is None:
        raise HandlerUnavailable(
            f"there is no key '{key}'; `openssl genpkey -algorithm ed25519 -out FILE` makes one, and without `key` the "
            "service makes one at its first start"
        )
    path = paths.key if key is None else key
    if key is None and not is_signed:
        _make_key(disk, path)
    pem = _read(disk, path)
    if pem is None:
        raise HandlerUnavailable(
            f"the key '{path}' is missing, which signed the log's checkpoints: restore it, or make a new one with "
            "`emitd audit key --rotate`"
        )
    try:
        signer = Signer(log_id, read_key(pem))
    except ValueError as error:
        raise HandlerUnavailable(f"the key '{path}' cannot be used: {error}") from None
    _list(disk, paths.vkey, signer)
    return signer


def read_keys(disk: Disk, path: Path) -> Sequence[ListedKey]:
    """Return the keys of a list, the newest last; none if there is no such file.

    Raises HandlerUnavailable for a list with anything else on it, OSError.
    """
    return _keys_in(path, _whole(_read(disk, path) or b""))


def rotation_events(listed: Sequence[ListedKey], old: Verifier, new: Verifier) -> Iterator[AuditEvent]:
    """Yield the events of a change of key, with the statements that vouch for the new one, and for those between."""
    vkeys = [key.verifier.vkey for key in listed]
    end = vkeys.index(new.vkey) + 1
    for key in listed[vkeys.index(old.vkey) + 1 : end] or listed[end - 1 : end]:
        ids = {"old_key_id": (key.before or old).key_id.hex(), "new_key_id": key.verifier.key_id.hex()}
        details_json = msgspec.json.encode({**ids, "statement": key.statement.decode()}).decode()
        yield AuditEvent(uuid7(), ROTATION_EVENT, "emitd", UNKNOWN_ADDRESS, details_json)
        old = key.verifier


def rotate_key(paths: AuditPaths, key: Path, log_id: str) -> ListedKey:
    """Make a new key for the log `log_id`, in the file `key`, and put it on the list, vouched for by the one before it.

    A crash leaves the old key or the new one, and the list has it. Raises HandlerUnavailable while the log is in use,
    NoteInvalid if the list or the id is wrong, OSError.
    """
    disk = Disk()
    fd = os.open(paths.lines, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not disk.lock(fd):
            raise HandlerUnavailable(f"audit log '{paths.lines}' is in use: stop the service first")
        return _replace_key(paths, key.resolve(), log_id)
    finally:
        disk.close(fd)


def read_key(pem: bytes) -> Ed25519PrivateKey:
    """Return the key of a PEM file. Raises ValueError that says what is wrong with it."""
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


def _make_key(disk: Disk, path: Path) -> None:
    """Make a key, unless there is one. A crash may have left one that is torn, and has signed nothing."""
    fd = disk.open(path)
    try:
        disk.ensure_synced(fd, 0)
        if _WHOLE_PEM.fullmatch(disk.read(fd, MAX_FILE_BYTES, 0)) is None:
            _overwrite(disk, fd, new_key_pem())
    finally:
        disk.close(fd)


def _missing(signer: Signer, listed: Sequence[ListedKey]) -> ListedKey | None:
    """Return a key's entry, if it is not on the list."""
    is_listed = signer.verifier.vkey in {key.verifier.vkey for key in listed}
    return None if is_listed else ListedKey(signer.verifier)


def _list(disk: Disk, path: Path, signer: Signer) -> None:
    """Put a key on the list, unless it is there, and cut off what a crash has torn."""
    file = DurableFile(disk, path)
    file.open()
    try:
        file.ensure_synced()  # before it is read: what a failed sync has left in memory only is not there
        text = file.read(file.size, 0)
        whole = _whole(text)
        key = _missing(signer, _keys_in(path, whole))
        if len(whole) < len(text):
            file.cut(len(whole))
        if key is not None:
            file.append(f"{key.line}\n".encode())
    finally:
        file.close()


def _whole(text: bytes) -> bytes:
    """Return a list without its last entry if a crash has torn it: that has signed nothing."""
    return text[: text.rfind(b"\n") + 1]


def _keys_in(path: Path, text: bytes) -> Sequence[ListedKey]:
    try:
        return read_key_list(text.decode(errors="replace"))
    except NoteInvalid as error:
        raise HandlerUnavailable(f"'{path}' cannot be read: {error}") from None


def _replace_key(paths: AuditPaths, key: Path, log_id: str) -> ListedKey:
    listed = read_key_file(paths.vkey)
    names = {entry.verifier.name for entry in listed}
    if names and log_id not in names:
        raise NoteInvalid(f"'{paths.vkey}' has keys of the log '{names.pop()}', not of '{log_id}'")
    pem = new_key_pem()
    new = Signer(log_id, read_key(pem))
    old: Signer | None = None
    with suppress(ValueError, FileNotFoundError):  # it may be lost or damaged
        old = Signer(log_id, read_key(key.read_bytes()))
    added = ListedKey(new.verifier) if old is None else vouch(old, new)
    unlisted = None if old is None else _missing(old, listed)
    entries = [*listed, *([unlisted] if unlisted else []), added]
    text = "".join(f"{entry.line}\n" for entry in entries)
    mode = paths.vkey.stat().st_mode & 0o777 if paths.vkey.exists() else _KEY_MODE
    replace_file(paths.vkey, text.encode(), mode=mode, like=paths.lines)
    sync_folder(paths.vkey.parent)
    replace_file(key, pem, mode=_KEY_MODE, like=key if key.exists() else paths.lines)
    sync_folder(key.parent)
    return added


def _read(disk: Disk, path: Path) -> bytes | None:
    """Return a file's content; None if there is none, and makes none."""
    if disk.state_at(path) is None:
        return None
    fd = disk.open(path)
    try:
        return disk.read(fd, disk.state(fd).size, 0)
    finally:
        disk.close(fd)


def _overwrite(disk: Disk, fd: int, data: bytes) -> None:
    """Replace the content of a small open file, and sync it."""
    disk.truncate(fd, 0)
    write_all(disk, fd, data)
    disk.sync(fd)
