"""A YAML file as plain values that remember their lines."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from yaml.reader import ReaderError

from emitd_server.config.environment import expand
from emitd_server.errors import Problem

#: Problems show at most this many characters of a text.
SHOWN_CHARACTERS = 80
#: What a file may hold; an alias counts as all that it stands for. A device has no end.
MAX_VALUES = 50_000
MAX_DEPTH = 64
MAX_BYTES = 8 * 1024 * 1024

#: Numbers that YAML 1.1 reads to the base of 8 or 60, and YAML 1.2 and people otherwise.
_AMBIGUOUS = re.compile(r"[-+]?0[0-9_]+|.*:.*")


class Value(msgspec.Struct, frozen=True):
    """A value and its line, from 1."""

    #: A scalar, a list of Value, or a dict of str to Value.
    content: Any
    line: int
    #: For a mapping: the line of each key.
    key_lines: Mapping[str, int] = {}
    #: Which variables of the environment the value is made of, if any; such a value is not shown.
    variables: str = ""
    #: The value could not be read; the problem was already added.
    unreadable: bool = False
    #: A scalar as it is spelt in the file.
    spelling: str = ""

    def plain(self) -> Any:
        """Return the content without lines and without unreadable members of mappings."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items() if not value.unreadable}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content

    def is_whole(self) -> bool:
        """Return whether the value and all its members could be read."""
        if isinstance(self.content, dict):
            return all(value.is_whole() for value in self.content.values())
        return not self.unreadable  # a list is unreadable where one of its items is

    def shown(self) -> str:
        """Return the content for an error message; no secrets."""
        if isinstance(self.content, dict):
            return "a mapping"
        if isinstance(self.content, list):
            return "a list"
        if self.variables:
            return f"a value from {self.variables}"
        if self.content is None:
            return "nothing"
        return _clip(repr(self.content) if isinstance(self.content, str) else self.spelling)

    def written(self) -> str:
        """Return a scalar as it can stand in a file."""
        return f'"{self.spelling}"' if self.variables else self.shown()


def read_yaml(text: str, file: str, problems: list[Problem], environ: Mapping[str, str]) -> Value | None:
    """Return the document's value, with its variables replaced, or None if its syntax is wrong; adds to `problems`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return Value({}, 1) if node is None else _Reader(file, problems, environ).read(node, "")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        found = ", ".join(part for part in (error.context, error.problem) if part)
        if line and "${" in "".join(text.splitlines()[line - 1 : line]):
            found += "; a value with ${ stands in quotes"
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the character U+{ord(text[error.position]):04X} is not allowed"
    except RecursionError:
        line, found = 0, "it nests too deep"
    problems.append(Problem(file=file, line=line, path="", found=f"not YAML: {found}"))
    return None


class _Reader:
    def __init__(self, file: str, problems: list[Problem], environ: Mapping[str, str]) -> None:
        self._file = file
        self._problems = problems
        self._environ = environ
        self._scalars = yaml.SafeLoader("")
        #: The ids of the nodes that are being read: an alias may lead back to one of them.
        self._open: set[int] = set()
        self._count = 0

    def read(self, node: yaml.Node, path: str) -> Value:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > MAX_VALUES:
            raise yaml.MarkedYAMLError(None, None, f"it has more than {MAX_VALUES} values", node.start_mark)
        if len(self._open) > MAX_DEPTH:
            raise RecursionError
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, line)
        if not node.tag.endswith((":map", ":seq")):
            return self._unreadable(line, path, f"found the tag {node.tag}; remove it")
        if id(node) in self._open:
            return self._unreadable(line, path, "contains itself, by an alias")
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path, line)
        else:
            items = [self.read(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
            is_whole = all(item.is_whole() for item in items)
            value = Value(items, line, variables=_variables(items), unreadable=not is_whole)
        self._open.remove(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: str, line: int) -> Value:
        content: dict[str, Value] = {}
        key_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(key_line, path, "found a list or a mapping as a key; expected text")
                continue
            key = key_node.value
            inner = f"{path}.{key}" if path else key
            if key == "<<":
                found = "<< merges nothing here; write the keys out, or use an alias as the value of a key"
                self._add(key_line, inner, found)
                continue
            if key in content:
                found = f"the key '{key}' stands here again, first in line {key_lines[key]}"
                self._add(key_line, inner, found)
                continue
            content[key] = self.read(value_node, inner)
            key_lines[key] = key_line
        return Value(content, line, key_lines, variables=_variables(content.values()))

    def _scalar(self, node: yaml.ScalarNode, path: str, line: int) -> Value:
        spelling = node.value
        try:
            content = self._scalars.construct_object(node)
        except Exception:  # a tag in the file makes PyYAML raise whatever its parsing comes upon
            kind = node.tag.replace("tag:yaml.org,2002:", "!!")
            return self._unreadable(line, path, f"{_clip(repr(spelling))} cannot be read as {kind}")
        is_number = isinstance(content, (int, float))
        if is_number and (_AMBIGUOUS.fullmatch(spelling) or not abs(content) < math.inf):
            expected = "a finite number in decimal digits, or text in quotes"
            return self._unreadable(line, path, f"found {_clip(spelling)}; expected {expected}")
        if not isinstance(content, str):
            return Value(content, line, spelling=spelling)
        try:
            content.encode()  # escapes can be half a pair of surrogates
            expanded, variables = expand(content, self._environ)
        except ValueError as error:
            return self._unreadable(line, path, str(error))
        return Value(expanded, line, variables=variables, spelling=spelling)

    def _unreadable(self, line: int, path: str, found: str) -> Value:
        self._add(line, path, found)
        return Value(None, line, unreadable=True)

    def _add(self, line: int, path: str, found: str) -> None:
        self._problems.append(Problem(file=self._file, line=line, path=path, found=found))


def read_text(path: Path, problems: list[Problem]) -> str | None:
    """Return a file's text, or None if it cannot be read; adds to `problems`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        found = f"has more than {MAX_BYTES} bytes"
        if len(data) <= MAX_BYTES:
            return data.decode()
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        found = f"is not UTF-8 at byte {error.start}"
    problems.append(Problem(file=str(path), line=0, path="", found=found))
    return None


def _variables(values: Iterable[Value]) -> str:
    return ", ".join(value.variables for value in values if value.variables)


def _clip(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
