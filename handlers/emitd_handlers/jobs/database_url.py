"""`DatabaseUrl`: which database a handler uses, as an entry of `logging_config.yml` names it."""

import os
import re
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote, unquote

from emitd_handlers.paths import SettingInvalid, resolve_path
from emitd_handlers.secret_text import SecretText

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql", "postgres")
_EXPECTED = f"{_SQLITE}PATH or postgresql://USER@HOST:PORT/NAME"
_WRITTEN = "write @ in a user or password as %40, / %2F, : %3A, ? %3F, # %23, % %25, a blank %20"

_TEXT = r"(?:[^@/?#:%]|%[0-9A-Fa-f]{2})*"
_HOST = r"(?:\[[^\[\]@/?#,]+\]|[^\[\]@/?#:,]+)(?::[0-9]{1,5})?"
_URL = re.compile(
    r"(?!(?s:.*)(?:%00|[\0-\x20]))"
    rf"(postgres(?:ql)?://)(?:({_TEXT})(?::({_TEXT}))?@)?({_HOST}(?:,{_HOST})*)?(?:/({_TEXT}))?(?:\?([^#]*))?"
)
_FILE = re.compile(r"(?<=[?&])(passfile|sslcert|sslkey|sslrootcert|sslcrl|host(?==~))=([^&]+)")
_VERIFY = "remove it, and use sslmode=verify-full with sslrootcert=FILE"
#: Options of libpq that asyncpg does not have: the values that change nothing, and what to do about others. All other
#: options that asyncpg does not have are settings of the server, which refuses those that it does not know.
_UNKNOWN = {
    "channel_binding": ("disable prefer", _VERIFY),
    "client_encoding": ("auto utf8 UTF8 utf-8 UTF-8", "remove it: emitd writes UTF-8"),
    "gssencmode": ("disable prefer", _VERIFY),
    "hostaddr": ("", "write the address as the host"),
    "require_auth": ("", "remove it, and demand the method in the server's pg_hba.conf"),
    "requirepeer": ("", "remove it, and use a folder that only the server's user can write to"),
    "service": ("", "write what the service says into the URL"),
}
#: The values of options that asyncpg would refuse at every try to connect.
_VALUES = {
    "sslmode": "disable allow prefer require verify-ca verify-full",
    "target_session_attrs": "any read-write read-only primary standby prefer-standby",
}
_NUMBERS = ("connect_timeout", "statement_cache_size")
#: They find dead connections, which emitd's own deadlines do.
_NEEDLESS = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")


class DatabaseUrl(SecretText):
    """The URL of an SQLite file or a PostgreSQL database.

    Three slashes stand before the relative path of an SQLite file, four before an absolute one.
    """

    __slots__ = ("_path",)

    expected: ClassVar[str] = _EXPECTED

    def __init__(self, path: Path | None = None, dsn: str = "") -> None:
        """Give one of the two: the path of an SQLite file, or the URL of a PostgreSQL database."""
        super().__init__(dsn if path is None else f"{_SQLITE}{path}")
        self._path = path

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return the database that `text` names; a relative path begins at `base_dir`.

        Raises ValueError, which says what is expected and shows no password.
        """
        scheme, colon, _ = text.partition(":")
        if colon and scheme in _POSTGRES:
            postgres_options(text)
            return cls(dsn=_FILE.sub(lambda file: _with_path(file, base_dir), text))
        if colon and scheme != "sqlite":
            raise ValueError(f"'{scheme}' databases are not supported; expected {_EXPECTED}")
        path = text.removeprefix(_SQLITE)
        if path == text or not path.strip("/"):
            raise ValueError(f"'{text}' names no database; expected {_EXPECTED}")
        if path == ":memory:":
            raise ValueError("a database in memory keeps nothing; expected the path of a file")
        if path.endswith("/") or re.search(r"\?|%[0-9A-Fa-f]{2}|^file:|^[A-Za-z]:\\", path):
            raise ValueError(f"'{text}' has options or characters that are not supported in the path")
        return cls(resolve_path(path, base_dir))

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None."""
        return self._path

    @property
    def dsn(self) -> str:
        """The URL of the PostgreSQL database, with its password, or an empty text."""
        return self.reveal() if self._path is None else ""

    def __str__(self) -> str:
        """Return the URL without a password."""
        return _without_password(self.dsn) if self.dsn else self.reveal()


def postgres_options(url: str) -> dict[str, str]:
    """Return the options behind the `?` of a URL. Raises SettingInvalid for what would not work as libpq has it."""
    parts = _URL.fullmatch(url)
    if parts is None:
        raise SettingInvalid(f"it is no URL of a database; expected {_EXPECTED}; {_WRITTEN}")
    given = dict(zip(("user", "password", "host", "dbname"), parts.groups()[1:5], strict=True))
    given["port"] = re.search(r":[0-9]+(?:,|$)", parts[4] or "")
    options: dict[str, str] = {}
    for item in filter(None, (parts[6] or "").split("&")):
        name, _, value = item.partition("=")
        if not name or not value:
            raise SettingInvalid("an option of the URL has no value; expected NAME=VALUE, several with &")
        if name in options or given.get(name):
            raise SettingInvalid(f"the URL gives '{name}' twice; remove one")
        options[name] = unquote(value)
    for name, (harmless, advice) in _UNKNOWN.items():
        variable = _variable(name)
        for shown, found in (name, options.pop(name, "")), (variable, os.environ.get(variable)):
            if found and found not in harmless.split():
                raise SettingInvalid(f"{shown} is not supported with its value; {advice}")
    for name, words in _VALUES.items():
        shown = name if name in options else _variable(name)
        found = options.get(name) or os.environ.get(shown)
        if found and found not in words.split():
            raise SettingInvalid(f"{shown} is not one of {words}")
    for name in _NUMBERS:
        if not re.fullmatch("[0-9]{1,9}", options.get(name, "0")):
            raise SettingInvalid(f"{name} is not a whole number")
    if not all(0 < int(port) < 2**16 for port in re.findall(r":([0-9]+)(?=,|$)", parts[4] or "")):
        raise SettingInvalid("the port of a host is not from 1 to 65535")
    return {name: value for name, value in options.items() if name not in _NEEDLESS}


def _variable(name: str) -> str:
    """Return the variable that libpq reads for an option."""
    return f"PG{name.upper().replace('_', '')}"


def _with_path(file: re.Match[str], base_dir: Path) -> str:
    return f"{file[1]}={quote(str(resolve_path(unquote(file[2]), base_dir)))}"


def _without_password(url: str) -> str:
    scheme, user, password, hosts, name, _ = _URL.fullmatch(url).groups("")  # type: ignore[union-attr]
    login = f"{user}:***@" if password else f"{user}@" if user else ""
    return f"{scheme}{login}{hosts}/{name}"  # the options can hold a password too
