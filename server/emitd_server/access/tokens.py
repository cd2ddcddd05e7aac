"""Static tokens: a YAML file with a list of `{name, sha256, groups, expires}`. The tokens themselves stand nowhere.

    - {"name": "shop", "sha256": "9f86d0…", "groups": ["writers"], "expires": "2027-03-01T00:00:00+00:00"}

Several entries may have one name, so that a token can be replaced while both are valid.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self, TypeAlias

import msgspec

from emitd_handlers.diagnostics import report
from emitd_handlers.durable.disk import replace_file, sync_folder
from emitd_handlers.paths import SettingInvalid
from emitd_handlers.principal import Principal, check_name
from emitd_server.access.identity import Identity
from emitd_server.config.settings_reader import SettingsReader
from emitd_server.config.yaml_document import read_text, read_yaml
from emitd_server.errors import ConfigError, Problem

#: By which a scanner of repositories knows a token that has leaked.
TOKEN_PREFIX = "emitd_"
TOKEN_BYTES = 32
#: So much of a digest names a token, in lists and to `emitd token revoke`.
SHORT_DIGITS = 12


class Digest(bytes):
    """The SHA-256 of a token."""

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return the digest that 64 hexadecimal digits stand for. Raises SettingInvalid."""
        if len(text) != 64 or not text.isascii() or not text.isalnum():
            raise SettingInvalid("it is not the SHA-256 of a token in 64 hexadecimal digits")
        try:
            return cls(bytes.fromhex(text))
        except ValueError:
            raise SettingInvalid("it is not the SHA-256 of a token in 64 hexadecimal digits") from None


class TokenEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the file."""

    name: str
    sha256: Digest
    groups: tuple[str, ...] = ()
    #: None: never.
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def __post_init__(self) -> None:
        Principal(self.name, "token", self.groups)

    @property
    def short_digest(self) -> str:
        """The beginning of the digest, which names the token."""
        return self.sha256.hex()[:SHORT_DIGITS]

    def line(self) -> str:
        """Return the entry as it is written: one line, whose values are JSON, and so YAML."""
        fields = {"name": self.name, "sha256": self.sha256.hex(), "groups": self.groups}
        if self.expires is not None:
            fields["expires"] = self.expires.isoformat()
        return f"- {json.dumps(fields, ensure_ascii=False)}\n"
