"""What commands write: lines for people, JSON for programs, and texts in aligned columns."""

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from google.protobuf.message import Message

#: A column that is wider than this does not widen the other rows.
MAX_PADDING = 60
GAP = "  "

# Whether the command was called with --json, so that standard error is for programs. A process runs one command.
_as_json = False


def set_json(as_json: bool) -> None:
    """Choose what goes to standard error from now on: lines for people, or one JSON object a line."""
    global _as_json
    _as_json = as_json


def say(text: str) -> None:
    """Write a note to standard error, such as that a call is tried again."""
    _write(json.dumps({"note": text}) if _as_json else text)


def tell(message: str, *, code: str, field: str = "", line: int = 0) -> None:
    """Write an error to standard error; `line` is its line in the input, 0 for none."""
    if not _as_json:
        _write(f"line {line}: {message}" if line else message)
        return
    parts = {"code": code, "field": field, "line": line, "message": message}
    _write(json.dumps({"error": {name: part for name, part in parts.items() if part}}))


def print_result(text: str) -> None:
    """Print a command's result. A closed pipe does not change the command's exit code."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()


def print_outcome(fields: Mapping[str, object], text: str) -> None:
    """Print a command's result: the fields as JSON with --json, otherwise the text."""
    print_result(json.dumps(fields) if _as_json else text)


def print_lines(lines: Iterable[str], nothing: str = "", *, cut: bool = True) -> None:
    """Print printable lines: whole in a pipe, with `cut` no wider than a terminal. Say `nothing` if there is none."""
    width = shutil.get_terminal_size().columns if cut and sys.stdout.isatty() else None
    for line in lines:
        print(line if width is None else clip(line, width))
        nothing = ""
    sys.stdout.flush()
    if nothing:
        # To standard error: in a pipe, nothing is no line.
        say(nothing)


def discard_output() -> None:
    """Discard buffered and later output, so that a closed pipe does not fail again at exit."""
    _discard(sys.stdout)


def can_redraw(stream: TextIO) -> bool:
    """Return whether frames can be drawn over each other: on a terminal that can move its cursor, with `rich`."""
    return _is_screen(stream) and has_rich()


def has_colours(stream: TextIO) -> bool:
    """Return whether colours are wanted: on a terminal that has them, unless NO_COLOR is set and not empty."""
    return _is_screen(stream) and not os.environ.get("NO_COLOR")


def one_line(text: str) -> str:
    """Return the text with all that would break its line or move a terminal's cursor escaped, as JSON escapes it."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def field_lines(fields: Mapping[str, str], width: int = 10) -> str:
    """Return a line for each field that is not empty, escaped, with the values in a column."""
    return "\n".join(f"{name:<{width}}  {one_line(value)}" for name, value in fields.items() if value)


def to_json(message: "Message") -> str:
    """Return a message in one line of the contract's JSON form, with every field that has a default."""
    # Loaded here, so that `emitd --help` does not wait for protobuf.
    from google.protobuf import json_format

    return json_format.MessageToJson(
        message, indent=None, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def aligned(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the headings and a line for each row of printable texts, nothing without rows; nothing is cut off."""
    if table := list(rows):
        table.insert(0, headings)
        widths = [min(max(map(columns_of, column)), MAX_PADDING) for column in zip(*table, strict=True)]
        yield from (pad(row, widths) for row in table)


def pad(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return a row's line; its columns have at least these widths."""
    padded = (cell + " " * (width - columns_of(cell)) for cell, width in zip(row, widths, strict=True))
    return GAP.join(padded).rstrip()


def clip(line: str, width: int) -> str:
    """Return a printable line that takes at most `width` columns; `…` stands for the part that is cut off."""
    if columns_of(line) <= width:
        return line
    taken = 0
    for at, character in enumerate(line):
        taken += _columns_of_character(character)
        if taken >= width:
            return line[:at] + "…"
    return line


def clip_middle(text: str, width: int) -> str:
    """Return a printable text that takes at most `width` columns; `…` stands for its middle. Ids differ at the end."""
    if columns_of(text) <= width:
        return text
    end = ""
    for character in reversed(text):
        if columns_of(character + end) > (width - 1) // 2:
            break
        end = character + end
    while end and not _columns_of_character(end[0]):  # the letter that it stands on is cut off
        end = end[1:]
    return clip(text, width - columns_of(end)) + end


def columns_of(text: str) -> int:
    """Return how many columns a terminal takes for a printable text."""
    return len(text) if text.isascii() else sum(map(_columns_of_character, text))


def _columns_of_character(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):  # drawn over the character before
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def has_rich() -> bool:
    """Return whether `rich` is installed; the base install does without."""
    from importlib.util import find_spec

    return find_spec("rich") is not None


def _write(line: str) -> None:
    prefix = "" if _as_json else "emitd: "
    try:
        print(prefix + one_line(line), file=sys.stderr, flush=True)
    except BrokenPipeError:  # the exit code still says how the command went
        _discard(sys.stderr)


def _is_screen(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
