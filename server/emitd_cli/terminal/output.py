"""What commands write: lines for people, JSON for programs."""

import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from google.protobuf.message import Message

# Whether standard error is for programs: the command was called with --json. One process runs one command.
_as_json = False


def set_json(as_json: bool) -> None:
    """Choose what goes to standard error from now on: lines for people, or one JSON object a line."""
    global _as_json
    _as_json = as_json


def say(text: str) -> None:
    """Write to standard error what is no error, such as that a call is tried again."""
    _write(json.dumps({"note": text}) if _as_json else text)


def tell(message: str, *, code: str, field: str = "", line: int = 0) -> None:
    """Write an error to standard error; `line` is where in the input it is, 0 for no line in particular."""
    if not _as_json:
        _write(f"line {line}: {message}" if line else message)
        return
    parts = {"code": code, "field": field, "line": line, "message": message}
    _write(json.dumps({"error": {name: part for name, part in parts.items() if part}}))


def print_result(text: str) -> None:
    """Print what a command ends with. How it went stands, also when nobody reads that any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()


def discard_output() -> None:
    """Let what is printed from now on, and what is still buffered, go nowhere: it must not fail once more at exit."""
    _discard(sys.stdout)


def one_line(text: str) -> str:
    """Return the text with everything that would move a terminal's cursor escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def to_json(message: "Message") -> str:
    """Return a message in one line of the contract's JSON form, with every field that has a default."""
    # Loaded here, so that the first line of trouble does not wait for protobuf.
    from google.protobuf import json_format

    return json_format.MessageToJson(
        message, indent=None, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _write(line: str) -> None:
    prefix = "" if _as_json else "emitd: "
    try:
        print(prefix + one_line(line), file=sys.stderr, flush=True)
    except BrokenPipeError:  # nobody reads that either; how the command went stands
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
