"""`emitd new-handler`: a handler to start from, its test, and the entry to add to the configuration."""

import argparse
import keyword
import os
import re
import textwrap
from importlib import resources
from pathlib import Path
from string import Template

import msgspec

from emitd_cli.errors import CommandError, ExitCode, Misuse
from emitd_cli.terminal.output import note_lines, one_line, print_result
from emitd_server.config.discovery import BUILT_IN
from emitd_server.config.loader import BUILT_IN_DEFAULTS, survey_config

#: pytest would take a file whose name begins with `test` for a test.
_NAME = re.compile(r"(?!test)[a-z][a-z0-9_]*")


def run(options: argparse.Namespace) -> int:
    """Write the files and print the entry; return 0. Raises Misuse, and CommandError instead of overwriting."""
    _check_name(options.name)
    config = Path(options.config)
    # Its test names the folder, so it is a text.
    folder = Path(os.path.expanduser(options.folder)) if options.folder else config.parent / "handlers"
    handler = folder / f"{options.name}.py"
    test = config.parent / "tests" / f"test_{options.name}_handler.py"
    listed_folder = _as_listed(folder, config)
    has_folder = _check_free(options.name, handler, test, config)
    texts = {
        "name": options.name,
        "class_name": _class_name(options.name),
        "settings_name": f"{_class_name(options.name).removesuffix('Handler')}Settings",
        "file": f"{listed_folder}/{handler.name}",
        "test": f"tests/{test.name}",
        "folder_expression": _expression(folder, test.parent),
    }
    for file, template in ((handler, "handler.py.txt"), (test, "test_handler.py.txt")):
        _write(file, _fill(template, texts))
        note_lines(f"wrote {one_line(str(file))}")
    is_new = not config.exists() or not config.stat().st_size
    section = BUILT_IN_DEFAULTS if is_new else "handlers:\n"
    section += textwrap.indent(_fill("entry.yml.txt", texts), "  ")
    if not has_folder:
        section = f"handler_paths: {msgspec.json.encode([listed_folder]).decode()}\n\n{section}"
    shown = one_line(str(config))
    note_lines(f"\nMake {shown} of the defaults and the entry:\n" if is_new else f"\nAdd this to {shown}:\n")
    print_result(section.removesuffix("\n"))  # standard output has the YAML alone
    note_lines(f"\nThen try it:  emitd check-config {shown}\n              pytest {test}")
    return ExitCode.GOOD


def _check_name(name: str) -> None:
    """Raise Misuse for a name that cannot be the name of a module, a class and an entry."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in BUILT_IN:
        raise Misuse(
            f"NAME: '{name}' will not do; use lower-case letters, digits and '_', beginning with a letter but not with "
            "'test', such as 'slack'; no word of Python's own, and no built-in handler",
            field="NAME",
        )


def _class_name(name: str) -> str:
    words = name.removesuffix("_handler").split("_")
    return "".join(word.capitalize() for word in words) + "Handler"


def _as_listed(folder: Path, config: Path) -> str:
    """Return the folder as the configuration lists it: relative to it if it is below it."""
    inside = os.path.relpath(folder.absolute(), config.absolute().parent)
    inside = f"./{inside}" if inside.startswith("~") else inside  # not a home folder
    return (str(folder.absolute()) if inside.startswith("..") else inside).replace(os.sep, "/")


def _check_free(name: str, handler: Path, test: Path, config: Path) -> bool:
    """Return whether the configuration lists the handler's folder. Raises CommandError to save what exists."""
    for file in (handler, test):
        if file.exists() or file.is_symlink():
            raise CommandError(f"{file} is there already; nothing was written. Choose another name")
    if not config.exists() or not config.stat().st_size:
        return False
    survey = survey_config(config)
    if name in survey.types:
        raise CommandError(
            f"{config} has an entry '{name}' already; nothing was written. Choose another name"
        )
    return handler.parent.resolve() in {folder.path.resolve() for folder in survey.finder.folders}


def _fill(template: str, texts: dict[str, str]) -> str:
    text = (resources.files("emitd_cli") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(texts)


def _write(file: Path, text: str) -> None:
    data = text.encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as new:
        new.write(data)


def _expression(folder: Path, test_folder: Path) -> str:
    """Return the Python expression by which a test in `test_folder` names `folder`."""
    steps = Path(os.path.relpath(folder.absolute(), test_folder.absolute())).parts
    ups = sum(1 for step in steps if step == "..")
    path = "/".join(steps[ups:])
    return f'Path(__file__).parents[{ups}] / "{path}"' if path else f"Path(__file__).parents[{ups}]"
