"""Static tokens: a YAML file with a list of `{name, sha256, groups, expires}`. The tokens themselves stand nowhere.

    - {"name": "shop", "sha256": "9f86d0…", "groups": ["writers"], "expires": "2027-03-01T00:00:00+00:00"}

Several entries may have one name, so that a token can be replaced while both are valid.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self, TypeAlias

import msgspec

from emitd_handlers.diagnostics import Report, report
from emitd_handlers.durable.disk import replace_file, sync_folder
from emitd_handlers.paths import SettingInvalid
from emitd_handlers.principal import Principal
from emitd_server.access.watched import Watched
from emitd_server.config.settings_reader import SettingsReader
from emitd_server.config.yaml_document import read_text, read_yaml
from emitd_server.errors import ConfigError, Problem, Unauthenticated

#: By this a scanner of repositories recognises a token that has leaked.
TOKEN_PREFIX = "emitd_"
TOKEN_BYTES = 32
#: Of a token that is neither in the file nor a JWT.
NOT_KNOWN = "the token is not known here"
#: So much of its digest names a token in lists, and to `emitd token revoke`.
SHORT_DIGITS = 12
_HEX = re.compile("[0-9a-fA-F]{64}")


class Digest(bytes):
    """The SHA-256 of a token."""

    @classmethod
    def of(cls, token: str) -> Self:
        """Return a token's digest."""
        return cls(hashlib.sha256(token.encode()).digest())

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return what a file says. Raises SettingInvalid, which does not show it: it may be the token itself."""
        if not _HEX.fullmatch(text):
            raise SettingInvalid("it is not a SHA-256 in 64 hexadecimal digits")
        return cls(bytes.fromhex(text))


class TokenEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the file."""

    name: str
    sha256: Digest
    groups: tuple[str, ...] = ()
    #: None: never.
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a bad name."""
        Principal(self.name, "token", self.groups)

    @property
    def short_digest(self) -> str:
        """What names the token among those of the same name."""
        return self.sha256.hex()[:SHORT_DIGITS]

    def line(self) -> str:
        """Return the entry as it is written: JSON in one line, which is YAML too."""
        fields: dict[str, object] = {"name": self.name, "sha256": self.sha256.hex(), "groups": self.groups}
        if self.expires is not None:
            fields["expires"] = self.expires.isoformat()
        return f"- {json.dumps(fields, ensure_ascii=False)}\n"


Tokens: TypeAlias = Mapping[bytes, tuple[TokenEntry, Principal]]


def watched_tokens(path: Path, changed: Report = report) -> Watched[Tokens]:
    """Return the tokens of a file by their digests; there are none before the start."""

    def names_of(tokens: Tokens) -> Sequence[str]:
        return [f"{entry.name} ({entry.short_digest})" for entry, _ in tokens.values()]

    what = "server.access.tokens_file"
    return Watched[Tokens](what, lambda: _load(path), {}, names_of=names_of, paths=[path], changed=changed)


def _load(path: Path) -> Tokens:
    return {
        bytes(entry.sha256): (entry, Principal(entry.name, "token", entry.groups))
        for entry in read_tokens(path)
    }


def find_token(tokens: Tokens, digest: bytes) -> Principal | None:
    """Return whose token has this digest. Raises Unauthenticated if it has expired."""
    # How long the dict takes depends on digests at most, which say nothing about a token.
    entry, principal = tokens.get(digest, (None, None))
    if entry is None or not hmac.compare_digest(entry.sha256, digest):
        return None
    if entry.expires is not None and entry.expires.timestamp() <= time.time():
        raise Unauthenticated("the token has expired")
    return principal


def read_tokens(path: Path) -> Sequence[TokenEntry]:
    """Return the entries of a file. Raises ConfigError with lines, in which there is no token."""
    problems: list[Problem] = []
    text = read_text(path, problems)
    entries = _parse(text or "", str(path), problems)
    if problems:
        raise ConfigError(problems)
    return entries


def new_token(
    path: Path, name: str, groups: Sequence[str], expires: datetime | None
) -> tuple[str, TokenEntry]:
    """Make a token and add its entry to the file, which need not exist.

    Return the token, which nothing else has, and the entry. Raises ValueError for a bad name, ConfigError and OSError.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    entry = TokenEntry(name=name, sha256=Digest.of(token), groups=tuple(groups), expires=expires)
    path = path.resolve()
    with _locked(path.parent):
        entries = [*(read_tokens(path) if path.exists() else ()), entry]
        text = path.read_bytes().decode() if path.exists() else ""
        text += ("\n" if text and not text.endswith("\n") else "") + entry.line()
        # Comments stay, if the list is written entry after entry.
        _write(path, entries, text if _parse(text, "", []) == entries else "")
    return token, entry


def revoke_tokens(path: Path, name: str) -> Sequence[TokenEntry]:
    """Remove the entries of this name or short digest, and all comments; return the entries.

    Raises ConfigError and OSError.
    """
    path = path.resolve()
    with _locked(path.parent):
        entries = read_tokens(path)
        gone = [entry for entry in entries if name in (entry.name, entry.short_digest)]
        if gone:
            _write(path, [entry for entry in entries if entry not in gone])
    return gone


def _write(path: Path, entries: Sequence[TokenEntry], text: str = "") -> None:
    if path.exists() and not path.is_file():  # such as /dev/null, which root could replace
        raise OSError(errno.EINVAL, "is not a regular file")
    # The group may be that of the service.
    mode = 0o600 | (path.stat().st_mode & 0o060 if path.exists() else 0)
    data = (text or "".join(entry.line() for entry in entries)).encode()
    replace_file(path, data, mode=mode, like=path)
    sync_folder(path.parent)


def _parse(text: str, file: str, problems: list[Problem]) -> Sequence[TokenEntry]:
    """Return the entries; add to `problems`."""
    document = read_yaml(text, file, problems, {})
    reader = SettingsReader(file, Path(), problems)
    if document is None or document.content in (None, {}):
        return []
    if not reader.is_a(list, document, "", "a list of tokens, each with its name and sha256"):
        return []
    lines: dict[Digest, int] = {}
    entries = []
    for index, item in enumerate(document.content):
        entry = reader.read(TokenEntry, item, f"[{index}]")
        if entry is None:
            continue
        if entry.sha256 in lines:
            reader.add(item.line, f"[{index}].sha256", f"is the same as in line {lines[entry.sha256]}")
        lines.setdefault(entry.sha256, item.line)
        entries.append(entry)
    return entries


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for those who edit files of the folder; the file itself has another in its place after each edit."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
