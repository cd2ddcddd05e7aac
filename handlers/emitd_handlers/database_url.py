"""`DatabaseUrl`: which database a handler uses, as an entry of `logging_config.yml` names it."""

from pathlib import Path
from typing import Self

__all__ = ["DatabaseUrl"]

_SQLITE = "sqlite:///"


class DatabaseUrl:
    """The URL of an SQLite file: three slashes before a relative path, four before an absolute one.

    Immutable. A plain class and no struct, so that the loader of the configuration is asked to build it.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return the database that `text` names, a relative path taken from `base_dir`.

        Raises ValueError, saying what is expected.
        """
        scheme, colon, _ = text.partition(":")
        if colon and scheme != "sqlite":
            raise ValueError(f"'{scheme}' databases are not supported; expected {_SQLITE}PATH")
        path = text.removeprefix(_SQLITE)
        if path == text or not path.strip("/"):
            raise ValueError(f"'{text}' names no database; expected {_SQLITE}PATH")
        if path == ":memory:":
            raise ValueError("a database in memory keeps nothing; expected the path of a file")
        if "?" in path or "\0" in path:
            raise ValueError(f"'{text}' has options or characters that are not supported in the path")
        return cls(base_dir / path)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def __str__(self) -> str:
        return f"{_SQLITE}{self._path}"

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and other._path == self._path

    def __hash__(self) -> int:
        return hash(self._path)
