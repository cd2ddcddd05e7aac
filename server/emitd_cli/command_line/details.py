"""`--details`: whether it is one JSON object, told before anything is sent and with the place of the error.

The server has the last word, above all on keys that come twice: what this lets pass it looks at again.
"""

import json
from typing import NoReturn

from emitd_cli.errors import Misuse

#: So much of the text is shown on each side of an error.
SHOWN_CHARACTERS = 12


def check_details(text: str | None) -> str:
    """Return the text as it is, or empty for None. Raises Misuse for what is not one JSON object."""
    if not text:
        return ""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _misuse(f"is not JSON: {_place(error)}{_quoting(text)}") from error
    except (ValueError, RecursionError):  # numbers of thousands of digits, thousands of brackets
        return text
    if not isinstance(value, dict):
        raise _misuse(f'is {_kind(value)}; it must be one JSON object, such as \'{{"key": "value"}}\'')
    return text


def _place(error: json.JSONDecodeError) -> str:
    text, at = error.doc, error.pos
    before = "…" * (at > SHOWN_CHARACTERS) + text[max(0, at - SHOWN_CHARACTERS) : at]
    after = text[at : at + SHOWN_CHARACTERS] + "…" * (at + SHOWN_CHARACTERS < len(text))
    where = f"line {error.lineno}, character {error.colno}" if "\n" in text else f"character {error.colno}"
    reason = error.msg[0].lower() + error.msg[1:]
    return f"{reason} at {where}: {before}⟨here⟩{after}"


def _quoting(text: str) -> str:
    """What helps where the shell has taken the quotation marks away, or single ones stand in their place."""
    if '"' in text:
        return ""
    return '; write it in single quotes, with double quotes inside: --details \'{"key": "value"}\''


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {list: "an array", str: "a string", bool: "true or false"}
    return names.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    raise _misuse(f"has {name}, which is not JSON")


def _misuse(problem: str) -> Misuse:
    return Misuse(f"--details: {problem}", field="--details")
