"""`SecretText`: a setting's text that is used and never shown."""

from pathlib import Path
from typing import Self

__all__ = ["SecretText"]


class SecretText:
    """Text such as a token. Its `repr` and `str` hide it; `reveal` gives it.

    Immutable. A plain class and no struct, so that the loader of the configuration is asked to build it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return the secret that stands in a configuration file; `base_dir` does not matter."""
        return cls(text)

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "SecretText('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretText) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)
