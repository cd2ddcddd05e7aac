"""The flags of all commands, and what `--help` says of them.

Here are the commands of operators and authors; sending, jobs and the audit trail have modules of their own.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from emitd_cli.audit.arguments import add_audit
from emitd_cli.command_line.flags import EXIT_CODES, JSON_HELP, Commands, add_command
from emitd_cli.command_line.parser import HelpFormatter, Parser
from emitd_cli.emit.arguments import add_emit
from emitd_cli.jobs.arguments import add_job


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what it parses has the command's `module`."""
    parser = Parser(
        prog="emitd",
        description="A gRPC logging service: log lines, audit events and live job status over one contract.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the version and exit")
    commands: Commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check_config(commands)
    _add_handlers(commands)
    _add_new_handler(commands)
    add_emit(commands)
    add_job(commands)
    add_audit(commands)
    _add_demo(commands)
    return parser


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for: that takes longer than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"emitd {version('emitd')}")
        parser.exit()


def _add_serve(commands: Commands) -> None:
    parser = add_command(
        commands,
        "serve",
        "operate.serve",
        "Run the service until SIGTERM or Ctrl-C.",
        "  emitd serve\n  emitd serve --config /etc/emitd.yml --listen 0.0.0.0:50051\n",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration (default: logging_config.yml in this folder; without one, built-in defaults)",
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="HOST:PORT to listen on; port 0 picks a free one (or EMITD_LISTEN)",
    )


def _add_check_config(commands: Commands) -> None:
    parser = add_command(
        commands,
        "check-config",
        "operate.check_config",
        "Report every problem of a configuration file. Exits with 1 if there is one, also if there is no file.",
        "  emitd check-config\n  emitd check-config /etc/emitd.yml --json\n",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        default="logging_config.yml",
        help="the configuration (default: logging_config.yml)",
    )
    parser.add_argument(
        "--json", action="store_true", help=JSON_HELP.format("the problems as one JSON array")
    )


def _add_handlers(commands: Commands) -> None:
    parser = add_command(
        commands,
        "handlers",
        "operate.handlers",
        "List every handler that an entry can name, and what its entry takes. Exits\n"
        "with 1 if the configuration, a file of its folders or an entry point is wrong;\n"
        "that is in the list.",
        "  emitd handlers\n  emitd handlers --config /etc/emitd.yml --json\n",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration (default: logging_config.yml in this folder; without one, built-in defaults)",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("one JSON object"))


def _add_new_handler(commands: Commands) -> None:
    parser = add_command(
        commands,
        "new-handler",
        "operate.new_handler",
        "Write a handler to start from, its test and its entry. Overwrites nothing.\n"
        "Exits with 1 if a file or an entry of that name is there already, or if the\n"
        "entry could not be added: then it is printed.",
        "  emitd new-handler slack\n  emitd new-handler slack --folder plugins --config /etc/emitd.yml\n",
    )
    parser.add_argument("name", metavar="NAME", help="lower-case letters, digits and '_', such as slack")
    parser.add_argument(
        "--folder", metavar="FOLDER", help="where handlers lie (default: handlers, beside the configuration)"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        default="logging_config.yml",
        help="the configuration that gets the entry; made if it is not there (default: logging_config.yml)",
    )


def _add_demo(commands: Commands) -> None:
    parser = add_command(
        commands,
        "demo",
        "demo.command",
        "Show the whole service in a quarter of a minute, with data of its own. It leaves nothing behind, and exits\n"
        "with 1 if anything is not as it should be.",
        "  emitd demo\n  emitd demo --fast\n  emitd demo --picture demo.svg\n",
    )
    parser.add_argument("--fast", action="store_true", help="without the pauses that let people follow")
    parser.add_argument("--picture", metavar="FILE", help="draw into an SVG file instead of on the screen")
