"""A handler's entry added to the text of a configuration file, whose comments and layout stay as they are.

Lines are put in by the places that the YAML parser tells. Whoever writes the result first reads it as a
configuration: a form of YAML that was not thought of here must not spoil a file.
"""

import textwrap

import yaml

INDENT = "  "


class CannotInsert(ValueError):
    """There is no place in the file where text can be put in safely."""


def add_entry(text: str, entry: str) -> str:
    """Return the text with `entry`, block YAML at no indentation, as the first under `handlers:`."""
    section = _section(text, "handlers")
    if section is None:
        return f"{_with_newline(text)}\nhandlers:\n{textwrap.indent(entry, INDENT)}"
    key, value = section
    if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
        first_key, first_value = value.value[0]
        indent = " " * first_key.start_mark.column
        if not getattr(first_value, "flow_style", True):
            entry += "\n"  # entries of many lines stand apart
    elif _is_nothing(value):
        indent = INDENT
    else:
        raise CannotInsert("`handlers:` is not written as a block, with a line for each entry")
    return _below(text, key, textwrap.indent(entry, indent))


def add_folder(text: str, folder: str) -> str:
    """Return the text with `folder` as another of `handler_paths:`."""
    section = _section(text, "handler_paths")
    item = _quoted(folder)
    if section is None:
        return _above_handlers(text, f"handler_paths: [{item}]\n")
    key, value = section
    if _is_nothing(value):
        return _below(text, key, f"{INDENT}- {item}\n")
    if not isinstance(value, yaml.SequenceNode):
        raise CannotInsert("`handler_paths:` is not a list")
    if not value.flow_style:
        return _below(text, key, f"{' ' * value.start_mark.column}- {item}\n")
    end = value.end_mark.index - 1
    return f"{text[:end]}{', ' if value.value else ''}{item}{text[end:]}"


def _section(text: str, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the nodes of a key at the top of the file and of its value."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return None
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise CannotInsert("the file is not written as a block, with a line for each section")
    return next((pair for pair in root.value if pair[0].value == name), None)


def _is_nothing(value: yaml.Node) -> bool:
    return isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:null"


def _below(text: str, key: yaml.Node, added: str) -> str:
    """Return the text with `added` below the line of a key."""
    lines = _with_newline(text).splitlines(keepends=True)
    lines.insert(key.end_mark.line + 1, added)
    return "".join(lines)


def _above_handlers(text: str, added: str) -> str:
    """Return the text with `added` above `handlers:` and the comment on it; without that section, at the end."""
    section = _section(text, "handlers")
    if section is None:
        return _with_newline(text) + added
    lines = text.splitlines(keepends=True)
    place: int = section[0].start_mark.line
    above = place
    while above and lines[above - 1].startswith("#"):
        above -= 1
    # A comment that begins the file is more likely on the whole of it.
    lines.insert(above or place, f"{added}\n")
    return "".join(lines)


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _quoted(folder: str) -> str:
    plain = folder.replace("/", "").replace("_", "").replace("-", "").replace(".", "")
    return (
        folder
        if plain.isalnum() and plain.isascii() and folder[0].isalpha()
        else yaml.dump(folder, default_style='"', width=10_000).strip()
    )
