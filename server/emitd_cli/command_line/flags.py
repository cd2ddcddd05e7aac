"""What the flags of all commands share: how a command is described, and the values that flags take."""

import argparse
import math
import os
from collections.abc import Callable, Mapping
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

    `repeats`: its values are a list. Values are texts unless `type` reads them; paths may have any bytes.
    """
    *names, last = flag.split()
    if repeats:
        more |= {"action": "append", "default": []}
    if last.startswith("-"):
        parser.add_argument(*names, last, help=help_text, action="store_true", **more)
    else:
        more = {"metavar": last, "type": _READERS.get(last, unicode), **more}
        parser.add_argument(*names or [more.pop("dest")], help=help_text, **more)


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


def add_server(parser: Parser) -> None:
    """Add where the server is, and how it is known: a token is no flag, because `ps` would show it."""
    option(
        parser,
        "--address ADDRESS",
        f"the server's address (or EMITD_ADDRESS; default: {DEFAULT_ADDRESS})",
        default=os.environ.get("EMITD_ADDRESS") or DEFAULT_ADDRESS,
    )
    option(parser, "--tls", "speak TLS (or EMITD_TLS=true; default: if there is --ca-file or --cert-file)")
    option(parser, "--ca-file FILE", "PEM: who may sign the server's certificate (or EMITD_CA_FILE)")
    option(parser, "--cert-file FILE", "PEM: the client's certificate (or EMITD_CERT_FILE)")
    option(parser, "--key-file FILE", "PEM: its key (or EMITD_KEY_FILE)")
    option(parser, "--token-file FILE", "the file with the bearer token (or EMITD_TOKEN_FILE, EMITD_TOKEN)")


def number(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within these bounds, which are those of the field that the number is for."""

    def read(text: str) -> int:
        # Longer ones have no place in any field, and Python refuses to read the longest.
        if not (text.isascii() and text.isdigit() and len(text) < 40 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} to {most}")
        return int(text)

    return read


percent, positive = number(0, 100), number(1, 2**31 - 1)
#: Revisions and lines, and attempts: as many as the contract's fields hold.
whole, uint32 = number(0, 2**64 - 1), number(0, 2**32 - 1)


def unicode(text: str) -> str:
    """Read a text that a message can carry."""
    # Python keeps bytes that the locale cannot read as surrogates: in the locale C, all that is not ASCII.
    has_bytes = any("\ud800" <= character <= "\udfff" for character in text)
    try:
        return os.fsencode(text).decode() if has_bytes else text
    except UnicodeError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not UTF-8") from error


def seconds(text: str) -> float:
    """Read a number of seconds from 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
    return number


#: By the names of values that are paths, or may be: a shell leaves the `~` of `--log=~/x` as it is.
_READERS: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(("DIR", "FILE", "LOG", "VKEY"), os.path.expanduser),
    "FOLDER": lambda text: os.path.expanduser(unicode(text)),  # the configuration names it
}
