"""From Python objects to what records carry: texts, and JSON for attributes and details.

One table, in docs/client.md, says what becomes of a value: the same for log lines, audit events and jobs. A value that
has no form by it is refused in details, and is its `repr` in attributes. Nothing is imported to know the types of other
libraries: their classes say enough.
"""

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence, Set, ValuesView
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from numbers import Number
from typing import Any
from uuid import UUID

import msgspec

#: The service takes no deeper objects (`limits.max_json_depth`, by default). The outermost one is the first level.
MAX_DEPTH = 32
#: In one member of the outermost object; no more fit into the 64 KiB that the service takes.
MAX_VALUES = 32_768
MAX_REPR_CHARACTERS = 8_000

_encode = msgspec.json.Encoder().encode
_PLAIN = frozenset({str, int, float, bool, type(None)})
_INFINITIES = {math.inf: "Infinity", -math.inf: "-Infinity"}


def as_text(value: object) -> str:
    """Return the text that stands for a value, or else its `repr`, in characters that UTF-8 has. Never raises."""
    form: Any = None
    with suppress(Exception):  # it may have none
        form = _form(value)
    try:
        if type(form) is not str:
            form = repr(form if isinstance(form, int | float) else value)[:MAX_REPR_CHARACTERS]
        return str.encode(form, errors="backslashreplace").decode()
    except Exception as error:  # the object's own __repr__
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def as_field(value: object) -> str:
    """Return what `as_text` does, but empty for None, so that what was forgotten is not recorded as `None`."""
    return "" if value is None else as_text(value)


def encode_attributes(attributes: Mapping[str, object]) -> str:
    """Return a log line's attributes as one JSON object, or empty where there are none. Never raises."""
    return attributes_as_json(attributes).decode() if attributes else ""


def encode_details(details: Mapping[str, object] | None, name: str = "details") -> str:
    """Return the details of an audit event or of a job as one JSON object; None is `{}`.

    Raises TypeError naming the key whose value has no form in JSON: an audit trail must not hold a `repr`.
    """
    if details is None:
        return "{}"
    if not isinstance(details, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(details).__name__}")
    return attributes_as_json(dict(details), name).decode()


def attributes_as_json(members: Mapping[str, object], refusing: str = "") -> bytes:
    """Return attributes as one JSON object in UTF-8. Never raises, unless asked to refuse: then TypeError, by name."""
    # Hot path: what nearly all log lines have is encoded as it is. "null" is also msgspec's word for NaN.
    try:
        if (
            _is_plain(members)
            and b"null" not in (encoded := _encode(members))
            and len(encoded) < 2 * MAX_VALUES
        ):
            return encoded
    except Exception:  # half a surrogate pair, an integer of thousands of digits
        pass
    walk = _Walk(is_strict=bool(refusing))
    forms: dict[str, object] = {}
    for key, value in members.items():
        walk.values_left = MAX_VALUES
        try:
            forms[walk.name(key, forms)] = walk.form(value, 2)
        except Exception as error:
            if refusing:
                why = error if isinstance(error, _Refused) else as_text(error)
                where = f"{refusing}[{as_text([key])[1:-1]}]"
                raise TypeError(f"{where} cannot be written as JSON: {why}") from error
            forms[walk.name(key, forms)] = as_text(value)
    return _encode(forms)


def _is_plain(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Return whether a dict or list has values of builtin types only, texts as keys, and at most these levels."""
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif type(value) is not list:
        return False
    for item in value:  # noqa: SIM110  # a generator takes twice the time
        if type(item) not in _PLAIN and (levels == 1 or not _is_plain(item, levels - 1)):
            return False
    return True


class _Refused(Exception):
    """A value has no form in JSON, or is too large or too deep, as a cycle is."""


class _Walk:
    """Makes builtins of values and of what is in them. Strict, it raises for what has no form; else that is a text."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict
        self.values_left = MAX_VALUES

    def name(self, key: object, others: Mapping[str, object]) -> str:
        """Return a key as a text, with a `_` if another key has the same text: no member takes another's place."""
        if self._is_strict and type(key) is not str and type(_form(key)) not in _PLAIN:
            raise _Refused(f"{type(key).__name__} is no type for keys; use texts or numbers")
        name = as_text(key)
        while name in others:
            name += "_"
        return name

    def form(self, value: object, level: int) -> object:
        """Return what JSON has for a value; an object or array is of this level."""
        try:
            form: Any = _form(value)
        except Exception:
            if self._is_strict:
                raise
            form = as_text(value)
        if type(form) in _PLAIN or type(form) is msgspec.Raw:
            return as_text(form) if type(form) is str else form
        self.values_left -= len(form)
        if level > MAX_DEPTH or self.values_left < 0:
            raise _Refused(f"it nests deeper than {MAX_DEPTH} levels, or has more than {MAX_VALUES} values")
        if isinstance(form, dict):
            members: dict[str, object] = {}
            for key, member in form.items():
                members[self.name(key, members)] = self.form(member, level + 1)
            return members
        items = [self.form(item, level + 1) for item in form]
        # A retry must send the same record.
        return sorted(items, key=_encode) if isinstance(form, set) else items


def _form(value: Any) -> object:
    """Return the text, number, bool or None that stands for a value, or a dict, list or set of its parts as they are.

    Raises _Refused, and what an object of the caller raises.
    """
    kind = value.__class__  # a proxy says that of its object
    if value is None or kind is bool:
        return value
    if isinstance(value, str) or kind.__name__ == "__proxy__":  # that: Django's, translated when it is read
        return str.__str__(value if issubclass(type(value), str) else str(value))
    if isinstance(value, int):
        with suppress(ValueError):  # for thousands of digits: see sys.set_int_max_str_digits
            str(int(value))
            return int(value)
        return hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _INFINITIES.get(float(value), "NaN")
    if isinstance(value, Enum):
        return _form(value.value)
    if hasattr(kind, "dtype") and hasattr(kind, "tolist"):  # numpy's, and the like
        if math.prod(value.shape) > MAX_VALUES:
            raise _Refused(f"it has more than {MAX_VALUES} values")
        has_times = str(value.dtype).startswith(("datetime", "timedelta"))  # which would become bare numbers
        builtin = (value.astype(str) if has_times else value).tolist()
        return str(value) if type(builtin) is type(value) else _form(builtin)
    if hasattr(kind, "get_secret_value"):  # pydantic
        return "**********"
    if isinstance(value, Number | UUID | IPv4Address | IPv6Address) or hasattr(kind, "unicode_string"):
        return str(value)
    if isinstance(value, date | time):
        text = value.isoformat()
        return f"{text[:-6]}Z" if text.endswith("+00:00") else text
    if isinstance(value, timedelta):
        return msgspec.to_builtins(+value)
    if isinstance(value, os.PathLike):
        return _form(os.fspath(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(memoryview(value).tobytes()).decode()
    if isinstance(value, msgspec.Raw):  # ready JSON; what is none raises
        msgspec.json.decode(bytes(value).decode(), type=msgspec.Raw)
        return value
    if (members := _members(value, kind)) is not None:
        return dict(islice(members, MAX_VALUES + 1))
    if isinstance(value, set | frozenset):
        return {*value}
    if isinstance(value, Sequence | Set | ValuesView):
        return [*islice(value, MAX_VALUES + 1)]
    raise _Refused(f"objects of type {type(value).__name__} have no form in JSON")


def _members(value: Any, kind: Any) -> Iterable[tuple[object, object]] | None:
    """Return the members of a mapping, or of an object with fields that its `repr` shows; None: it is neither."""
    if isinstance(value, Mapping):
        return value.items()
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value) if field.repr]
    if isinstance(value, msgspec.Struct):
        named = zip(kind.__struct_encode_fields__, msgspec.structs.astuple(value), strict=True)
        return [(name, member) for name, member in named if member is not msgspec.UNSET]
    if hasattr(kind, "__attrs_attrs__"):
        shown = [(field, getattr(value, field.name)) for field in kind.__attrs_attrs__ if field.repr]
        return [(field.name, v if field.repr is True else field.repr(v)) for field, v in shown]
    if hasattr(kind, "__repr_args__"):  # pydantic
        hidden = {name for name, field in getattr(kind, "model_fields", {}).items() if field.exclude}
        return [(name, member) for name, member in value.__repr_args__() if name not in hidden]
    return None
