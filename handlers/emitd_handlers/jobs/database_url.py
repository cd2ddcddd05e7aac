"""`DatabaseUrl`: which database a handler uses, as an entry of `logging_config.yml` names it."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql", "postgres")
_EXPECTED = f"expected {_SQLITE}PATH or postgresql://USER@HOST:PORT/NAME"


class DatabaseUrl:
    """The URL of an SQLite file or a PostgreSQL database.

    Three slashes stand before the relative path of an SQLite file, four before an absolute one. Immutable. A plain
    class and no struct, so that the configuration loader builds it with `resolve`.
    """

    __slots__ = ("_dsn", "_path")

    def __init__(self, path: Path | None = None, dsn: str = "") -> None:
        """Give one of the two: the path of an SQLite file, or the URL of a PostgreSQL database."""
        self._path = path
        self._dsn = dsn

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return the database that `text` names; a relative path begins at `base_dir`.

        Raises ValueError, which says what is expected and shows no password.
        """
        scheme, colon, _ = text.partition(":")
        if colon and scheme in _POSTGRES:
            return cls(dsn=_checked(text))
        if colon and scheme != "sqlite":
            raise ValueError(f"'{scheme}' databases are not supported; {_EXPECTED}")
        path = text.removeprefix(_SQLITE)
        if path == text or not path.strip("/"):
            raise ValueError(f"'{text}' names no database; {_EXPECTED}")
        if path == ":memory:":
            raise ValueError("a database in memory keeps nothing; expected the path of a file")
        if "?" in path or "\0" in path:
            raise ValueError(f"'{text}' has options or characters that are not supported in the path")
        return cls(base_dir / path)

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None."""
        return self._path

    @property
    def dsn(self) -> str:
        """The URL of the PostgreSQL database, with its password, or an empty text."""
        return self._dsn

    def __str__(self) -> str:
        """Return the URL without a password."""
        return f"{_SQLITE}{self._path}" if self._path is not None else _without_password(self._dsn)

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and (other._path, other._dsn) == (self._path, self._dsn)

    def __hash__(self) -> int:
        return hash((self._path, self._dsn))


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError:
        raise ValueError(f"it is no URL; {_EXPECTED}") from None
    if not url.startswith(f"{parts.scheme}://"):
        raise ValueError(f"it names no database; {_EXPECTED}")
    return url


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, colon, _ = parts.netloc.rpartition("@")[0].partition(":")
    host = parts.netloc.rpartition("@")[2]
    login = f"{user}:***@" if colon else f"{user}@" if user else ""
    # The query can hold a password too.
    return urlunsplit((parts.scheme, login + host, parts.path, "", ""))
