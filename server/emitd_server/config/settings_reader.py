"""From YAML values to a settings struct, field by field, so that every bad one is found."""

import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec

from emitd_handlers.base import COMMON_LEVELS
from emitd_handlers.paths import SettingInvalid, resolve_path
from emitd_handlers.record import Level
from emitd_handlers.secret_text import SecretText
from emitd_handlers.settings import CommittedSettings, Delivery, DeliverySettings, QueuedSettings
from emitd_server.config.yaml_document import Value
from emitd_server.errors import Problem, nearest

#: In a variable they mean the same as in the file.
_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}

S = TypeVar("S", bound=msgspec.Struct)


class SettingsReader:
    """Reads the sections of one file and adds every problem to `problems`.

    A field of type `Path` is relative to `base_dir`. A type with a class method `resolve(text, base_dir)` makes its
    own value or raises ValueError; its attribute `expected` says what to write.
    """

    def __init__(self, file: str, base_dir: Path, problems: list[Problem]) -> None:
        self._file = file
        self._base_dir = base_dir
        self._problems = problems

    def read(
        self,
        struct: type[S],
        value: Value,
        path: str,
        *,
        besides: Iterable[str] = (),
        base: S | None = None,
        spelt: Mapping[str, str] = {},
    ) -> S | None:
        """Return the struct that a mapping describes, or None if it has a problem.

        `besides` are known keys of the mapping that are no fields of the struct. Fields that the mapping lacks are
        taken from `base`. `spelt` has the fields that the file spells differently.
        """
        if value.content is None:
            value = Value({}, value.line)
        if not self.is_a(dict, value, path, "a mapping of settings"):
            return None
        before = len(self._problems)
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        self.refuse_unknown(value, path, [*besides, *fields])
        given: dict[str, Any] = {}
        for key, field in fields.items():
            inner = f"{path}.{spelt.get(key, key)}"
            if key not in value.content:
                if field.required:
                    self.add(value.line, inner, "is missing", _type_name(field.type))
            elif QueuedSettings in _types_in(field.type):
                given[field.name] = self._delivery(value.content[key], inner, field.default)
            else:
                given[field.name] = self.field(field.type, value.content[key], inner)
        if len(self._problems) > before or not value.is_whole():
            return None
        try:
            return struct(**given) if base is None else msgspec.structs.replace(base, **given)
        except ValueError as error:  # a struct's own check, over several fields; it may repeat their values
            what = str(error) if isinstance(error, SettingInvalid) else f"{struct.__name__} refuses it"
            found = f"found a value from {value.variables}: {what}" if value.variables else str(error)
            self.add(value.line, path, found)
            return None

    def add(self, line: int, path: str, found: str, expected: str = "", near: str = "") -> None:
        """Note a problem."""
        self._problems.append(
            Problem(file=self._file, line=line, path=path, found=found, expected=expected, nearest=near)
        )

    def is_a(self, kind: type, value: Value, path: str, expected: str, line: int = 0) -> bool:
        """Return whether a value is of a kind; note a problem if it is not, unless it could not be read at all."""
        if isinstance(value.content, kind):
            return True
        if not value.unreadable:
            self.add(line or value.line, path, f"found {value.shown()}", expected)
        return False

    def refuse_unknown(self, value: Value, path: str, known: Sequence[str]) -> None:
        """Note the keys of a mapping that are not known."""
        for key in value.content:
            if key not in known:
                line, inner = value.key_lines.get(key, value.line), f"{path}.{key}" if path else key
                self.add(
                    line, inner, f"unknown key '{key}'", f"one of {', '.join(known)}", nearest(key, known)
                )

    def _delivery(self, value: Value, path: str, default: object) -> Delivery | DeliverySettings | None:
        """Return the delivery that a word or a mapping describes; keys that it lacks are taken from `default`."""
        if not isinstance(value.content, dict):
            kind: Delivery | None = self.field(Delivery | None, value, path)
            return default if isinstance(default, DeliverySettings) and default.kind is kind else kind
        if "kind" not in value.content:
            self.add(value.line, f"{path}.kind", "is missing", "committed or queued")
            return None
        kind = self.field(Delivery, value.content["kind"], f"{path}.kind")
        if kind is None:
            return None
        base = default if isinstance(default, DeliverySettings) and default.kind is kind else None
        struct: Any = CommittedSettings if kind is Delivery.COMMITTED else QueuedSettings
        return cast("DeliverySettings | None", self.read(struct, value, path, besides=["kind"], base=base))

    def field(self, field_type: Any, value: Value, path: str) -> Any:
        """Return a value as a type that a field may have, or None if it has a problem."""
        if value.unreadable:
            return None
        struct = _struct_in(field_type)
        if struct is not None and (struct is field_type or value.content is not None):
            return self.read(struct, value, path)
        item = get_args(field_type)[0] if get_origin(field_type) is tuple else None
        if isinstance(item, type) and issubclass(item, msgspec.Struct):
            if not self.is_a(list, value, path, "a list of settings"):
                return None
            return tuple(
                self.read(item, each, f"{path}[{index}]") for index, each in enumerate(value.content)
            )
        if Level in _types_in(field_type):
            return self._levels(value, path)
        try:
            return convert(field_type, value, self._make)
        except msgspec.ValidationError as error:
            what = str(error).partition(" - at ")[0].partition(", got ")[0].replace("`", "")
            types_ = [kind for kind in _types_in(field_type) if isinstance(kind, type)]
            choices = [str(member.value) for kind in types_ if issubclass(kind, Enum) for member in kind]
            hidden = not value.variables and any(issubclass(kind, SecretText) for kind in types_)
            found = "found something else" if hidden else f"found {value.shown()}"
            expected = what.removeprefix("Expected ")
            if choices:
                expected = f"one of {', '.join(choices)}"
            elif expected == "str":
                expected = "text, in quotes"
            elif isinstance(error.__cause__, SettingInvalid):
                found, expected = f"{found}: {what}" if value.variables else what, ""
            elif expected == what:  # in the words of the type; they may repeat the value
                found, expected = (found, _type_name(field_type)) if value.variables else (what, "")
            self.add(value.line, path, found, expected)
            return None

    def _levels(self, value: Value, path: str) -> tuple[Level, ...] | None:
        """Return the levels of a list, or of a word such as `WARNING+`, which stands for WARNING to CRITICAL."""
        items = {path: value}
        if not isinstance(value.content, str) or not value.content.endswith("+"):
            if not self.is_a(list, value, path, "a list of levels, such as [INFO, ERROR], or WARNING+"):
                return None
            items = {f"{path}[{index}]": item for index, item in enumerate(value.content)}
        levels: list[Level] = []
        for inner, item in items.items():
            name = item.content if isinstance(item.content, str) else ""
            least = Level.__members__.get(name.removesuffix("+"))
            if least is not None and (least in COMMON_LEVELS or not name.endswith("+")):
                more = sorted(COMMON_LEVELS) if name.endswith("+") else [least]
                levels += [level for level in more if level >= least and level not in levels]
                continue
            known = ", ".join(Level.__members__)
            near = nearest(str(item.content).upper(), Level.__members__)
            self.add(item.line, inner, f"found {item.shown()}", f"one of {known}", near)
        return tuple(levels)

    def _make(self, wanted: type, value: object) -> object:
        if not isinstance(value, str):
            raise SettingInvalid(f"found {type(value).__name__}; expected text, in quotes")
        if wanted is Path:
            return resolve_path(value, self._base_dir)
        if hasattr(wanted, "resolve"):
            return wanted.resolve(value, self._base_dir)
        raise TypeError(f"settings of type {wanted!r} cannot be read from a file")


def convert(wanted: Any, value: Value, make: Callable[[type, Any], object] | None = None) -> Any:
    """Return a value as the type that is wanted; text from the environment is read as values of the type are written.

    `make` makes the types that msgspec does not know. Raises msgspec.ValidationError.
    """
    content, kinds = value.plain(), _types_in(wanted)
    if value.variables and isinstance(content, str):
        if types.NoneType in kinds and content in ("", "null"):
            return None
        if kinds & {bool, int, float} and str not in kinds:
            content = _WORDS.get(content.strip().lower(), content.strip())
    made = msgspec.convert(content, wanted, strict=not value.variables, dec_hook=make)
    if isinstance(made, float) and not math.isfinite(made):
        raise msgspec.ValidationError("Expected a finite number")
    return made


def _types_in(annotation: Any) -> set[Any]:
    if get_origin(annotation) is None:
        return {annotation}
    return {inner for argument in get_args(annotation) for inner in _types_in(argument)}


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    """Return the struct that a field is, or is if it is not None."""
    kinds = [kind for kind in get_args(annotation) or [annotation] if kind is not types.NoneType]
    if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], msgspec.Struct):
        return kinds[0]
    return None


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, types.UnionType):
        return " or ".join(_type_name(argument) for argument in get_args(annotation))
    annotation = getattr(annotation, "__origin__", annotation)  # of Annotated
    return str(getattr(annotation, "expected", None) or getattr(annotation, "__name__", annotation))
