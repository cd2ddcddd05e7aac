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
    document = read_yaml(read_text(path, problems) or "", str(path), problems, {})
    reader = SettingsReader(str(path), Path(), problems)
    entries: dict[Digest, TokenEntry] = {}
    if document is not None and document.content not in (None, {}):
        found = reader.field(tuple[TokenEntry, ...], document, "")
        for index, entry in enumerate(found or ()):
            if entry is not None and entries.setdefault(entry.sha256, entry) is not entry:
                reader.add(document.content[index].line, f"[{index}].sha256", "stands in an entry before")
    if problems:
        raise ConfigError(problems)
    return list(entries.values())


def new_token(
    path: Path, name: str, groups: Sequence[str], expires: datetime | None
) -> tuple[str, TokenEntry]:
    """Make a token and add its entry to the file, which need not exist.

    Return the token, which nothing else has, and the entry. Raises ValueError for a bad name, ConfigError and OSError.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    entry = TokenEntry(name=name, sha256=Digest.of(token), groups=tuple(groups), expires=expires)
    with _edited(path) as entries:
        entries.append(entry)
    return token, entry


def revoke_tokens(path: Path, name: str) -> Sequence[TokenEntry]:
    """Remove the entries of this name or short digest; return them. Raises ConfigError and OSError."""
    with _edited(path) as entries:
        gone = [entry for entry in entries if name in (entry.name, entry.short_digest)]
        entries[:] = [entry for entry in entries if entry not in gone]
    return gone


@contextmanager
def _edited(path: Path) -> Iterator[list[TokenEntry]]:
    """Give the entries of a file, none if there is no file, and write those that are there after the block.

    One editor at a time: the folder is locked, because each edit puts another file in the place of the last.
    """
    path = path.resolve()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists() and not path.is_file():  # such as /dev/null, which root could replace
            raise OSError(errno.EINVAL, "is not a regular file")
        before = read_tokens(path) if path.exists() else []
        entries = list(before)
        yield entries
        if entries != before:
            # The group may be that of the service.
            mode = 0o600 | (path.stat().st_mode & 0o060 if path.exists() else 0)
            replace_file(path, "".join(entry.line() for entry in entries).encode(), mode=mode, like=path)
            sync_folder(path.parent)
    finally:
        os.close(folder)
