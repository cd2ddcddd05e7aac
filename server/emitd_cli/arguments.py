"""The commands of `emitd`, their flags, and what `--help` says of them.

The flags of sending, log lines, jobs and the audit log are in the modules of these groups.
"""

import argparse
from collections.abc import Sequence
from os.path import expanduser
from typing import Any

from emitd_cli.audit.arguments import add_audit
from emitd_cli.command_line.flags import (
    CONFIG_HELP,
    EXIT_CODES,
    Commands,
    add_command,
    add_group,
    add_json,
    option,
    unicode,
)
from emitd_cli.command_line.parser import HelpFormatter, Parser
from emitd_cli.emit.arguments import add_emit
from emitd_cli.jobs.arguments import add_job
from emitd_cli.log.arguments import add_log
from emitd_cli.terminal.output import put


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what it parses has `run` and `extra` of `add_command`."""
    parser = Parser(
        prog="emitd",
        description="A gRPC logging service: log lines, audit events and live job status over one contract.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the version and exit")
    commands: Commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_operating(commands)
    _add_token(commands)
    _add_access(commands)
    add_emit(commands)
    add_log(commands)
    add_job(commands)
    add_audit(commands)
    tls = add_group(commands, "tls", "Certificates to try TLS with.", "  emitd tls dev certs\n")
    dev = add_command(
        tls,
        "dev",
        "operate.tls:run_dev",
        "Make an authority, and certificates of a server and a client on this machine, in a\n"
        "new folder, and print the configuration that uses them. Overwrites nothing.",
        "  emitd tls dev certs\n",
        extra="server",
    )
    option(dev, "DIR", "the folder to make", dest="folder")
    demo = add_command(
        commands,
        "demo",
        "demo:run",
        "Show the whole service in a quarter of a minute, with data of its own. It leaves nothing behind, and exits\n"
        "with 1 if anything is not as it should be.",
        "  emitd demo\n  emitd demo --fast\n",
        extra="server",
    )
    option(demo, "--fast", "without the pauses that let people follow")
    return parser


class _ShowVersion(argparse.Action):
    """Looks the version up only if it is asked for: that takes longer than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        put(f"emitd {version('emitd')}")
        parser.exit()


def _add_operating(commands: Commands) -> None:
    """Add the commands of operators and of authors of handlers."""
    serve = add_command(
        commands,
        "serve",
        "operate.config:run_serve",
        "Run the service until SIGTERM or Ctrl-C.",
        "  emitd serve\n  emitd serve --config /etc/emitd.yml --listen 127.0.0.1:50052\n",
        extra="server",
    )
    option(serve, "--config FILE", CONFIG_HELP)
    option(serve, "--listen ADDRESS", "HOST:PORT to listen on; port 0 picks a free one (or EMITD_LISTEN)")
    check = add_command(
        commands,
        "check-config",
        "operate.config:run_check",
        "Report every problem of a configuration file. Exits with 1 if there is one, also if there is no file.",
        "  emitd check-config\n  emitd check-config /etc/emitd.yml --json\n",
        extra="server",
    )
    name = "logging_config.yml"
    option(check, "FILE", f"the configuration (default: {name})", dest="file", nargs="?", default=name)
    add_json(check, "the problems as one JSON array")
    handlers = add_command(
        commands,
        "handlers",
        "operate.handlers:run",
        "List every handler that an entry can name, and what its entry takes. Exits\n"
        "with 1 if the configuration, a file of its folders or an entry point is wrong;\n"
        "the list says which.",
        "  emitd handlers\n  emitd handlers --config /etc/emitd.yml --json\n",
        extra="server",
    )
    option(handlers, "--config FILE", CONFIG_HELP)
    add_json(handlers, "one JSON object")
    new = add_command(
        commands,
        "new-handler",
        "operate.new_handler:run",
        "Write a handler to start from and its test, and print its entry. Overwrites\n"
        "nothing. Exits with 1 if there is already a file or an entry of that name.",
        "  emitd new-handler slack\n  emitd new-handler slack --folder plugins --config /etc/emitd.yml\n",
        extra="server",
    )
    option(new, "NAME", "lower-case letters, digits and '_', such as slack", dest="name")
    option(
        new,
        "--folder FOLDER",
        "the folder of handlers (default: handlers, next to the configuration)",
        type=lambda text: expanduser(unicode(text)),  # the test that is written names it, so it is a text
    )
    option(new, "--config FILE", f"the configuration that will get the entry (default: {name})", default=name)


def _add_token(commands: Commands) -> None:
    """Add the commands of static tokens."""
    file = ("FILE", "the file of server.access.tokens_file")
    actions = add_group(
        commands,
        "token",
        "Make, list and revoke the tokens that callers show. The service reads the file again by itself.",
        "  emitd token new --name shop tokens.yml\n  emitd token list tokens.yml\n",
    )
    new = add_command(
        actions,
        "new",
        "operate.tokens:run_new",
        "Make a token, add its digest to a file, and print the token. Nothing can print it\n"
        "again. A name may have several tokens, so that one can follow another.",
        "  emitd token new --name shop --group writers --expires 90d tokens.yml > shop.token\n",
        extra="server",
    )
    option(new, *file, dest="file")
    option(new, "--name NAME", "the principal whose token it is", required=True)
    option(new, "--group NAME", "a group of the principal; may repeat", repeats=True)
    option(new, "--expires WHEN", "a time, or a time ahead, such as 90d (default: never)")
    listing = add_command(
        actions,
        "list",
        "operate.tokens:run_list",
        "List the tokens of a file: names, groups, ends and the beginnings of digests.",
        "  emitd token list tokens.yml\n",
        extra="server",
    )
    option(listing, *file, dest="file")
    revoke = add_command(
        actions,
        "revoke",
        "operate.tokens:run_revoke",
        "Remove tokens from a file. The service refuses them a second later. Exits with 1 if\n"
        "there is no such token.",
        "  emitd token revoke shop tokens.yml\n  emitd token revoke 9f86d081884c tokens.yml\n",
        extra="server",
    )
    option(revoke, "TOKEN", "a name, for all of its tokens, or the digest that `list` shows", dest="token")
    option(revoke, *file, dest="file")


def _add_access(commands: Commands) -> None:
    example = "  emitd access explain shop Emit --group web --event-name user.login --source till\n"
    says = (
        "Say which grants of a configuration let a principal call a method, and send or read a\n"
        "record by it; or which role or pattern is missing. Exits with 1 if it is denied."
    )
    actions = add_group(commands, "access", "What principals may do.", example)
    explain = add_command(actions, "explain", "operate.access:run_explain", says, example, extra="server")
    option(explain, "PRINCIPAL", "its name", dest="principal")
    option(explain, "METHOD", "such as Emit or LogService/Emit", dest="method")
    option(explain, "--group NAME", "a group of the principal; may repeat", repeats=True)
    option(explain, "--level LEVEL", "the record's level, such as INFO or AUDIT", default="")
    option(explain, "--source NAME", "the record's source (default: none)")
    option(explain, "--event-name NAME", "the event's name (default: any)")
    option(explain, "--job-type NAME", "the job's type (default: any)")
    option(explain, "--config FILE", CONFIG_HELP)
    add_json(explain, "one JSON object")
