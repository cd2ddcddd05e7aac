"""From Python objects to the JSON text that records carry: attributes, which always succeed, and details.

Both take what msgspec can encode: `datetime`, `UUID`, `Decimal`, enums, dataclasses and the like become text or
objects. JSON has neither NaN nor the infinities: in attributes they become null, in details they are refused.
"""

import math
from collections.abc import Mapping

import msgspec

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


def as_field(value: object) -> str:
    """Return what `as_text` does, but empty for None, so that what was forgotten is not recorded as `None`."""
    return "" if value is None else as_text(value)


def encode_attributes(attributes: Mapping[str, object]) -> str:
    """Return a log line's attributes as one JSON object, or empty where there are none. Never raises.

    What cannot be written becomes its `repr`.
    """
    return attributes_as_json(attributes).decode() if attributes else ""


def attributes_as_json(attributes: Mapping[str, object]) -> bytes:
    """Return attributes as one JSON object in UTF-8. Never raises."""
    try:
        return _encode_leniently(attributes)
    except Exception:  # one of `_UNWRITABLE`, or what an object of the caller raises
        members = {as_text(key): _encode_one(value) for key, value in attributes.items()}
        return _encode(members)


def encode_details(details: Mapping[str, object] | None, name: str = "details") -> str:
    """Return the details of an audit event or of a job as one JSON object; None is `{}`.

    Raises TypeError naming the key whose value cannot be written: an audit trail must not hold a `repr`, nor null for a
    number.
    """
    if details is None:
        return "{}"
    if not isinstance(details, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(details).__name__}")
    try:
        text = _encode(dict(details)).decode()
    except _UNWRITABLE as error:
        raise _what_is_wrong(details, name, error) from None
    if "null" in text:  # msgspec's word for NaN and the infinities, too
        _refuse_odd_numbers(details, name)
    return text


def _encode_one(value: object) -> msgspec.Raw:
    try:
        return msgspec.Raw(_encode_leniently(value))
    except Exception:
        return msgspec.Raw(_encode(as_text(value)))


def _what_is_wrong(details: Mapping[str, object], name: str, error: Exception) -> TypeError:
    for key, value in details.items():
        try:
            _encode({key: value})
        except _UNWRITABLE as problem:
            return TypeError(f"{name}[{as_text(repr(key))}] cannot be written as JSON: {problem}")
    return TypeError(f"{name} cannot be written as JSON: {error}")


def _refuse_odd_numbers(details: Mapping[str, object], name: str) -> None:
    for key, value in details.items():
        try:
            odd = _odd_number(msgspec.to_builtins(value))
        except _UNWRITABLE:  # a piece of ready JSON: what is in it is its maker's affair
            continue
        if odd is not None:
            raise TypeError(
                f"{name}[{as_text(repr(key))}] cannot be written as JSON: it has no {odd}; use None, or a text"
            )


def _odd_number(value: object) -> float | None:
    """Return a number within `value`, made of builtins, that JSON does not have; or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    if isinstance(value, dict):
        value = [*value, *value.values()]
    items = value if isinstance(value, list | tuple | set | frozenset) else ()
    return next((odd for odd in map(_odd_number, items) if odd is not None), None)


_encode = msgspec.json.Encoder().encode
_encode_leniently = msgspec.json.Encoder(enc_hook=as_text).encode
