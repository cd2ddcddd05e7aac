"""The check of free-form JSON that senders give as text: `details_json` and `attributes_json`.

The text is kept as it came, number for number; only the check decodes it. A key that stands twice in one object
is refused, because readers disagree on which of the two counts.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

__all__ = ["check_json_object"]

_decode = msgspec.json.Decoder().decode
#: Checks the syntax alone, and so takes numbers of any size.
_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode

_WHITESPACE = " \t\n\r"
_NEWLINES_TO_SPACES = str.maketrans("\n\r", "  ")
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


def check_json_object(text: str, *, max_bytes: int, max_depth: int) -> str:
    """Return `text`, which must be one JSON object, on one line and without white space around it.

    Newlines between tokens become spaces; numbers stay as spelt, whatever their size. Refused with a ValueError
    that says what is wrong: anything but one object (RFC 8259; no NaN, no lone surrogate, not as an escape
    either), a key twice in one object at any depth, more than `max_bytes` of UTF-8, objects and arrays within
    each other deeper than `max_depth`.
    """
    # A small object without inner keys, nearly every one there is, is settled by a few C calls. Each of its
    # keys is followed by a colon: as many keys decoded as there are colons means that none was lost to a
    # second copy, and that no inner object has any.
    if len(text) * 4 <= max_bytes:
        try:
            value = _decode(text)
        except (ValueError, RecursionError):
            pass
        else:
            if (
                type(value) is dict
                and len(value) == text.count(":")
                and ("[" not in text or text.count("[") + 2 <= max_depth)
                and text[0] == "{"
                and text[-1] == "}"
                and "\n" not in text
                and "\r" not in text
                and max_depth > 1
            ):
                return text
    return text
