"""What the flags of all commands share: how a command is described, and the values that flags take."""

import argparse
import math
import os
from typing import Any, TypeAlias

from emitd_cli.command_line.parser import HelpFormatter, Parser

DEFAULT_ADDRESS = "127.0.0.1:50051"
CONFIG_HELP = "the configuration (default: logging_config.yml in this folder; without one, built-in defaults)"

EXIT_CODES = """\
exit codes:
  0  good
  1  the thing looked at is bad: a job FAILED, a file is wrong, a record was refused
  2  misuse
  3  bad configuration at start
  4  cannot tell, or cannot reach the server
  5  could not start or run
"""

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(
    commands: Commands,
    name: str,
    run: str,
    description: str,
    examples: str,
    usage: str | None = None,
    *,
    extra: str = "",
) -> Parser:
    """Add the command `emitd ... NAME`. `run` is MODULE:FUNCTION in `emitd_cli`; `extra` is the pip extra it needs."""
    parser = commands.add_parser(
        name,
        help=description[0].lower() + description[1:].partition(".")[0],
        usage=usage,
        description=description,
        epilog=f"examples:\n{examples}\n{EXIT_CODES}",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, extra=extra)
    return parser


def add_group(commands: Commands, name: str, description: str, examples: str) -> Commands:
    """Add a command that has commands of its own; return where they are added."""
    parser = add_command(commands, name, "", description, examples)
    actions: Commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    return actions


def option(
    parser: argparse._ActionsContainer, flag: str, help_text: str, *, repeats: bool = False, **more: Any
) -> None:
    """Add a flag: `--name VALUE` takes a value, `--name` is true if given, `VALUE` is an argument by place (as `dest`).

    `repeats`: its values are a list.
    """
    *names, last = flag.split()
    if repeats:
        more |= {"action": "append", "default": []}
    if last.startswith("-"):
        parser.add_argument(*names, last, help=help_text, action="store_true", **more)
    elif names:
        parser.add_argument(*names, metavar=last, help=help_text, **more)
    else:
        parser.add_argument(more.pop("dest"), metavar=last, help=help_text, **more)


def add_json(parser: Parser, what: str) -> None:
    """Add --json, which prints errors as JSON as well."""
    option(parser, "--json", f"print {what}, and errors as JSON on standard error")


def add_since(parser: Parser, what: str) -> None:
    """Add --since."""
    since = f"only {what} received at WHEN or later: a time, or a time ago, such as 90s, 15m or 7d"
    option(parser, "--since WHEN", since)


def add_listing(parser: Parser, what: str) -> None:
    """Add the flags of a list by the time of receipt."""
    add_since(parser, what)
    option(parser, "--until WHEN", f"only {what} received before WHEN")
    option(parser, "--oldest-first", "begin with the oldest")
    option(parser, "-n --limit N", f"at most N {what} (default: 50)", type=positive, default=50)


def add_address(parser: Parser) -> None:
    """Add the server's address."""
    parser.add_argument(
        "--address",
        default=os.environ.get("EMITD_ADDRESS") or DEFAULT_ADDRESS,
        help=f"the server's address (or EMITD_ADDRESS; default: {DEFAULT_ADDRESS})",
    )


def whole(text: str) -> int:
    """Read a whole number from 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0")
    return int(text)


def percent(text: str) -> int:
    """Read a percentage."""
    if not (text.isascii() and text.isdigit() and int(text) <= 100):
        raise argparse.ArgumentTypeError(f"'{text}' is not a percentage from 0 to 100, without a sign")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not (number := whole(text)):
        raise argparse.ArgumentTypeError("'0' is not positive")
    return number


def seconds(text: str) -> float:
    """Read a number of seconds from 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
    return number
