"""What is wrong with a configuration file: every problem at once, each with its place."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import msgspec

from emitd_handlers.errors import EmitdError
from emitd_handlers.text.escape import escape

__all__ = ["ConfigError", "Problem", "describe", "nearest"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One problem of a configuration."""

    #: The file's path as given, or `built-in defaults`; empty: the environment or the command line.
    file: str
    #: From 1; 0: no line in particular.
    line: int
    #: The YAML path, such as `handlers.audit.path`; empty: the whole file.
    path: str
    #: What is wrong: what was found there.
    found: str
    #: What was expected; empty where `found` says it all.
    expected: str = ""
    #: The nearest known key or name, or empty.
    nearest: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        text = place + (f"{self.path}: " if self.path else "") + self.found
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean '{self.nearest}'?"
        return escape(text)  # one problem is one line, whatever a key or an exception holds


class ConfigError(EmitdError):
    """A configuration cannot be used. `problems` are all that were found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))


def describe(error: BaseException) -> str:
    """Return an exception's type and message, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that `name` most probably meant, or an empty string."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else ""
