"""The parser of command lines: one layout of help on every terminal, and errors of one line.

`argparse` lays help out by the width of the terminal, and differently in each release of Python. A test compares help
with the documentation, so the layout is fixed here.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from emitd_cli.errors import Misuse
from emitd_cli.terminal.output import put

HELP_COLUMNS = 80


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formats help for 80 columns, on every terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=HELP_COLUMNS)

    def add_argument(self, action: argparse.Action) -> None:
        """Note the argument, and how much room its name takes."""
        super().add_argument(action)
        # As from Python 3.13 on; before, the indentation of a command's name is not counted.
        for command in self._iter_indented_subactions(action):
            length = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # As from Python 3.13 on; before, the value stands behind each form: `-a KEY=VALUE, --attribute KEY=VALUE`.
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """Raises Misuse with a message of one line, instead of ending the process. Takes no shortened flags."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        # A shortened flag would change its meaning when another with the same beginning comes.
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; refuse leftover arguments here, since this parser's help is the one to look at."""
        known, rest = super().parse_known_args(args, namespace)
        if rest and self._subparsers is None:
            flag = rest[0].partition("=")[0]
            is_flag = flag.startswith("-")
            self.error(f"there is no flag {flag}" if is_flag else f"'{rest[0]}' is one argument too many")
        return known, rest

    def format_help(self) -> str:
        """Return the help text, with a short usage if the command has none."""
        if self.usage is None:
            self.usage = self._short_usage()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise Misuse; `message` is argparse's."""
        found = re.match(r"argument (?:\S+/)?(\S+): ", message)
        text = message if found is None else f"{found[1]}: {message[found.end() :]}"
        raise Misuse(f"{text}; see '{self.prog} --help'", field="" if found is None else found[1])

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse prints help alone by this, and passes over an output that cannot be written.
        put(message.removesuffix("\n"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, not_one_of(str(value), map(str, action.choices)))

    def _short_usage(self) -> str:
        places = [_place(action) for action in self._actions if not action.option_strings]
        return " ".join([self.prog, "[options]", *places]).replace("%", "%%")


def _place(action: argparse.Action) -> str:
    metavar: str | Sequence[str] = action.metavar or action.dest
    name = metavar if isinstance(metavar, str) else metavar[0]
    if action.nargs == argparse.PARSER:
        return f"{name} ..."
    return f"[{name}]" if action.nargs in ("?", "*") else name


def not_one_of(word: str, known: Iterable[str]) -> str:
    """Say that `word` is not one of those known."""
    return f"'{word}' is not one of {', '.join(known)}"
