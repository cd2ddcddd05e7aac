"""What commands write: lines for people, JSON for programs."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["one_line", "say", "to_json"]


def say(text: str) -> None:
    """Write a line to standard error."""
    print(f"emitd: {one_line(text)}", file=sys.stderr)


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
