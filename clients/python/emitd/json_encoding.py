"""From Python objects to the JSON text that records carry: attributes, which always succeed, and details.

Both take what msgspec can encode: `datetime`, `UUID`, `Decimal`, enums, dataclasses and the like become text or
objects. NaN and the infinities become null, because JSON has neither.
"""

from collections.abc import Mapping

import msgspec

__all__ = ["as_text", "encode_attributes", "encode_details"]

#: What msgspec raises for what it cannot write: an unknown type or key, half a surrogate pair, a reference cycle.
_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def as_text(value: object) -> str:
    """Return `value` if it is a text, or else its `repr`, in characters that UTF-8 has. Never raises."""
    if type(value) is str:
        text = value
    else:
        try:
            text = value if isinstance(value, str) else repr(value)
        except Exception as error:  # somebody's __repr__
            text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text.encode(errors="backslashreplace").decode()


def encode_attributes(attributes: Mapping[str, object]) -> str:
    """Return a log line's attributes as one JSON object, or empty where there are none. Never raises.

    What cannot be written becomes its `repr`.
    """
    if not attributes:
        return ""
    try:
        return _encode_leniently(attributes).decode()
    except _UNWRITABLE:
        members = {as_text(key): _encode_one(value) for key, value in attributes.items()}
        return _encode(members).decode()


def encode_details(details: Mapping[str, object] | None, name: str = "details") -> str:
    """Return the details of an audit event or of a job as one JSON object; None is `{}`.

    Raises TypeError naming the key whose value cannot be written: nobody wants a `repr` in an audit trail.
    """
    if details is None:
        return "{}"
    if not isinstance(details, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(details).__name__}")
    try:
        return _encode(dict(details)).decode()
    except _UNWRITABLE as error:
        raise _what_is_wrong(details, name, error) from None


def _encode_one(value: object) -> msgspec.Raw:
    try:
        return msgspec.Raw(_encode_leniently(value))
    except _UNWRITABLE:
        return msgspec.Raw(_encode(as_text(value)))


def _what_is_wrong(details: Mapping[str, object], name: str, error: Exception) -> TypeError:
    for key, value in details.items():
        try:
            _encode({key: value})
        except _UNWRITABLE as problem:
            return TypeError(f"{name}[{as_text(repr(key))}] cannot be written as JSON: {problem}")
    return TypeError(f"{name} cannot be written as JSON: {error}")


_encode = msgspec.json.Encoder().encode
_encode_leniently = msgspec.json.Encoder(enc_hook=as_text).encode
