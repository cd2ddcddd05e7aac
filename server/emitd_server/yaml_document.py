"""A YAML file as plain values that remember their lines."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from emitd_server.config_problems import Problem

__all__ = ["Value", "read_yaml"]


class Value(msgspec.Struct, frozen=True):
    """A value and the line it stands on, from 1."""

    #: A scalar, a list of Value, or a dict of str to Value.
    content: Any
    line: int
    #: For a mapping: the line of each key.
    key_lines: Mapping[str, int] = {}
    #: The value holds text of the environment and must not be shown.
    secret: bool = False
    #: The value could not be read, and that has been told: it is not worth another word.
    unreadable: bool = False

    def plain(self) -> Any:
        """Return the content without lines."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items()}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content

    def shown(self) -> str:
        """Return the content for an error message; no secrets."""
        if self.secret:
            return "a value from the environment"
        if isinstance(self.content, dict):
            return "a mapping"
        if isinstance(self.content, list):
            return "a list"
        return "nothing" if self.content is None else repr(self.content)


def read_yaml(
    text: str, file: str, problems: list[Problem], expand: Callable[[str], tuple[str, bool]]
) -> Value | None:
    """Return the document's value, or None where its syntax is wrong; adds to `problems`.

    `expand` gets each string and returns it with its variables replaced, and whether there were any; it raises
    ValueError for one that cannot be.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        problems.append(Problem(file=file, line=line, path="", found=f"not YAML: {error.problem}"))
        return None
    except yaml.YAMLError as error:
        problems.append(Problem(file=file, line=0, path="", found=f"not YAML: {error}"))
        return None
    if node is None:
        return Value({}, 1)
    return _Reader(file, problems, expand).read(node, "")


class _Reader:
    def __init__(self, file: str, problems: list[Problem], expand: Callable[[str], tuple[str, bool]]) -> None:
        self._file = file
        self._problems = problems
        self._expand = expand
        self._scalars = yaml.SafeLoader("")

    def read(self, node: yaml.Node, path: str) -> Value:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, line)
        if isinstance(node, yaml.SequenceNode):
            return Value([self.read(item, f"{path}[{i}]") for i, item in enumerate(node.value)], line)
        return self._scalar(node, path, line)

    def _mapping(self, node: yaml.MappingNode, path: str, line: int) -> Value:
        content: dict[str, Value] = {}
        key_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            key_line = key_node.start_mark.line + 1
            inner = f"{path}.{key}" if path else key
            if key in content:
                self._add(
                    key_line, inner, f"the key '{key}' stands here again, first in line {key_lines[key]}"
                )
                continue
            content[key] = self.read(value_node, inner)
            key_lines[key] = key_line
        return Value(content, line, key_lines)

    def _scalar(self, node: yaml.Node, path: str, line: int) -> Value:
        try:
            content = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self._add(line, path, f"{node.value!r} cannot be read: {error}")
            return Value(None, line, unreadable=True)
        if not isinstance(content, str):
            return Value(content, line)
        try:
            expanded, secret = self._expand(content)
        except ValueError as error:
            self._add(line, path, str(error))
            return Value(content, line, unreadable=True)
        return Value(expanded, line, secret=secret)

    def _add(self, line: int, path: str, found: str) -> None:
        self._problems.append(Problem(file=self._file, line=line, path=path, found=found))


def read_text(path: Path, problems: list[Problem]) -> str | None:
    """Return a file's text, or None where it cannot be read; adds to `problems`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        problems.append(Problem(file=str(path), line=0, path="", found=f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        problems.append(Problem(file=str(path), line=0, path="", found=f"is not UTF-8 at byte {error.start}"))
    return None
