"""The settings of a handler's struct as people read them: name, type, default, and the comment in its source."""

import inspect
import re
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from emitd_handlers.record import Level
from emitd_handlers.settings import DeliverySettings

_TYPE_NAMES: Mapping[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    Level: "level",
    type(None): "null",
}
#: The comment above a field, and the field's name.
_FIELD = re.compile(r"^((?: +#.*\n)*) +(\w+):", re.MULTILINE)
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class SettingText(msgspec.Struct, frozen=True):
    """One setting."""

    name: str
    type: str
    required: bool
    #: As a value of JSON; meaningless where it is required.
    default: object
    comment: str


def describe_settings(struct: type[msgspec.Struct], prefix: str = "") -> Sequence[SettingText]:
    """Return the keys that entries with this struct take, in the order of the struct.

    After a key that can be a mapping come the keys of the mapping, such as `delivery.overflow`.
    """
    settings: list[SettingText] = []
    comments = {
        name: text
        for cls in reversed(struct.__mro__)
        if issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct
        for name, text in _comments(cls).items()
    }
    for field in msgspec.structs.fields(struct):
        setting = SettingText(
            name=prefix + field.encode_name,
            type=_type_text(field.type),
            required=field.required,
            default=None if field.required else _default(field),
            comment=comments.get(field.name, ""),
        )
        settings.append(setting)
        for inner in filter(_is_struct, get_args(field.type)):
            settings += describe_settings(inner, f"{field.encode_name}.")
    return settings


def _type_text(annotation: Any) -> str:
    """Return a type in words; one that is not known here by its name."""
    if annotation in _TYPE_NAMES:
        return _TYPE_NAMES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([_type_text(arguments[0]), *map(_bounds, arguments[1:])]).strip()
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type_text, arguments)))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (tuple, list, set, frozenset):
        return f"list of {_type_text(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"mapping of {_type_text(arguments[0])} to {_type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(str(member.value) for member in annotation)
    if _is_struct(annotation):
        return "mapping"
    if hasattr(annotation, "resolve"):  # as `SettingsReader` has it: made from a text
        return "text"
    return str(getattr(annotation, "__name__", annotation))


def _is_struct(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _bounds(meta: object) -> str:
    shown = [
        f"{sign} {bound}" for key, sign in _BOUNDS.items() if (bound := getattr(meta, key, None)) is not None
    ]
    return " and ".join(shown)


def _default(field: Any) -> object:
    try:
        return plain(field.default if field.default is not msgspec.NODEFAULT else field.default_factory())
    except Exception as error:  # a factory is code of others
        return f"made by a factory that raised {type(error).__name__}"


def plain(value: object) -> object:
    """Return a setting's value as JSON has it."""
    if isinstance(value, Level):
        return value.name
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, DeliverySettings):
        usual, own = msgspec.structs.asdict(type(value)()), msgspec.structs.asdict(value)
        return {"kind": value.kind.value, **{key: plain(own[key]) for key in own if own[key] != usual[key]}}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _comments(cls: type) -> Mapping[str, str]:
    """Return the comment above each field, as the source has it."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        return {}
    return {
        name: " ".join(line.strip().lstrip("#:").strip() for line in above.splitlines())
        for above, name in _FIELD.findall(source)
    }
