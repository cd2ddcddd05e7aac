"""`SecretText`: a setting's text that is used and never shown."""

from pathlib import Path
from typing import Self


class SecretText:
    """Text such as a token. Its `repr` and `str` hide it, or show what is not secret of it; `reveal` gives it.

    Immutable. A plain class and no struct, so that the loader of the configuration is asked to build it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return what stands in a configuration file; `base_dir` does not matter here."""
        return cls(text)

    def reveal(self) -> str:
        """Return the whole text."""
        return self._text

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.reveal() == self._text

    def __hash__(self) -> int:
        return hash(self._text)
