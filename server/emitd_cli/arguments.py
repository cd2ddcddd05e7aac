"""The flags of all commands, and what `--help` says of them."""

import argparse
import math
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from emitd_cli.parser import HelpFormatter, Parser

__all__ = ["make_parser"]

DEFAULT_ADDRESS = "127.0.0.1:50051"

#: With it, errors are JSON as well: the same sentence at every command that has the flag.
_JSON_HELP = "print {}, and errors as JSON on standard error"

_EXIT_CODES = """\
exit codes:
  0  good
  1  the thing looked at is bad: a job FAILED, a file is wrong, a record was refused
  2  misuse
  3  bad configuration at start
  4  cannot tell, or cannot reach the server
  5  could not start or run
"""


_Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what it parses has the command's `module`."""
    parser = Parser(
        prog="emitd",
        description="A gRPC logging service: log lines, audit events and live job status over one contract.",
        epilog=_EXIT_CODES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the version and exit")
    commands: _Commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check_config(commands)
    _add_handlers(commands)
    _add_new_handler(commands)
    _add_emit(commands)
    _add_job(commands)
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


def _command(
    commands: _Commands, name: str, module: str, description: str, examples: str, usage: str | None = None
) -> Parser:
    parser = commands.add_parser(
        name,
        help=description[0].lower() + description[1:].partition(".")[0],
        usage=usage,
        description=description,
        epilog=f"examples:\n{examples}\n{_EXIT_CODES}",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(module=module)
    return parser


def _add_serve(commands: _Commands) -> None:
    parser = _command(
        commands,
        "serve",
        "serve",
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


def _add_check_config(commands: _Commands) -> None:
    parser = _command(
        commands,
        "check-config",
        "check_config",
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
        "--json", action="store_true", help=_JSON_HELP.format("the problems as one JSON array")
    )


def _add_handlers(commands: _Commands) -> None:
    parser = _command(
        commands,
        "handlers",
        "handlers",
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
    parser.add_argument("--json", action="store_true", help=_JSON_HELP.format("one JSON object"))


def _add_new_handler(commands: _Commands) -> None:
    parser = _command(
        commands,
        "new-handler",
        "new_handler",
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


def _add_emit(commands: _Commands) -> None:
    parser = _command(
        commands,
        "emit",
        "emit",
        "Emit one record from flags, or many from a file or standard input.",
        '  emitd emit "User u1 logged in" --level INFO --source shop -a cart=17\n'
        "  emitd emit --audit user.login --user u1 --source-ip 203.0.113.7 --details '{\"mfa\":true}'\n"
        "  emitd emit --job nightly-1 --type backup --status RUNNING --progress 40\n"
        "  emitd emit --file app.log --source app          # a log line each\n"
        "  emitd emit --file records.jsonl --format jsonl  # the contract's JSON form, one record a line\n"
        "  tail -f app.log | emitd emit -\n",
        usage="emitd emit MESSAGE [options]\n"
        "       emitd emit --audit EVENT_NAME --user ID [options]\n"
        "       emitd emit --job JOB_ID --status NAME [options]\n"
        "       emitd emit --file FILE [options]",
    )
    parser.too_many_hint = "; put a message of several words in quotes"
    _add_address(parser)
    parser.add_argument(
        "message", nargs="?", metavar="MESSAGE", help="the record's; '-' reads records from standard input"
    )
    parser.add_argument("--level", metavar="NAME", help="DEBUG, INFO (default), WARNING, ERROR or CRITICAL")
    parser.add_argument("--source", metavar="NAME", help="who sends")
    parser.add_argument(
        "-a", "--attribute", action="append", metavar="KEY=VALUE", help="an attribute; may repeat"
    )
    parser.add_argument(
        "--record-id", metavar="ID", help="default: a new one; sent again with the same, it is harmless"
    )
    parser.add_argument("--json", action="store_true", help=_JSON_HELP.format("the outcome as JSON"))
    audit = parser.add_argument_group("an audit event")
    audit.add_argument("--audit", metavar="EVENT_NAME", help="emit an audit event of this name")
    audit.add_argument("--user", metavar="ID", help="the user's id; mandatory")
    audit.add_argument("--source-ip", metavar="ADDRESS", help="an address, or 'unknown' (default)")
    audit.add_argument("--event-id", metavar="ID", help="default: assigned by the server")
    job = parser.add_argument_group("a job report")
    job.add_argument("--job", metavar="JOB_ID", help="emit a report on this job")
    job.add_argument("--type", metavar="NAME", help="the job's type; needed in its first report")
    job.add_argument("--status", metavar="NAME", help="QUEUED, RUNNING, COMPLETED or FAILED; mandatory")
    job.add_argument("--progress", type=_percent, metavar="PERCENT", help="0 to 100")
    job.add_argument("--label", action="append", metavar="KEY=VALUE", help="a label; may repeat")
    job.add_argument("--failure-reason", metavar="WORD", help="for FAILED: a word for programs")
    job.add_argument("--failure-message", metavar="TEXT", help="for FAILED: a sentence for people")
    job.add_argument("--attempt", type=_whole, metavar="N", help="default: 1")
    job.add_argument("--new-attempt", action="store_true", default=None, help="open the job's next attempt")
    parser.add_argument("--details", metavar="JSON", help="of an audit event or a job: one JSON object")
    many = parser.add_argument_group("many records")
    many.add_argument("--file", metavar="FILE", help="read records from a file; '-' is standard input")
    many.add_argument(
        "--format", choices=("lines", "jsonl"), default="lines", help="of the file (default: lines)"
    )
    many.add_argument(
        "--batch-size", type=_positive, default=512, metavar="N", help="records a call (default: 512)"
    )
    many.add_argument(
        "--retry-seconds",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to retry a call (default: 30)",
    )


def _add_job(commands: _Commands) -> None:
    job = commands.add_parser(
        "job",
        help="list, read and watch jobs",
        description="List, read and watch jobs.",
        epilog=f"examples:\n  emitd job list --status FAILED\n  emitd job watch nightly-1\n\n{_EXIT_CODES}",
        formatter_class=HelpFormatter,
    )
    actions: _Commands = job.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_job_list(actions)
    get = _command(
        actions,
        "get",
        "job_get",
        "Show one job. Exits with 0 for any job that has not FAILED, 1 for FAILED, 4 if there is none.",
        "  emitd job get nightly-1\n  emitd job get nightly-1 --json\n",
    )
    watch = _command(
        actions,
        "watch",
        "job_watch",
        "Follow one job to its end. Exits with 0 for COMPLETED, 1 for FAILED, 4 when it cannot tell.",
        "  emitd job watch nightly-1\n  emitd job watch nightly-2 --wait --timeout 3600 --json\n",
    )
    for parser in (get, watch):
        _add_address(parser)
        parser.add_argument("job_id", metavar="JOB_ID", help="the job's id")
        parser.add_argument("--json", action="store_true", help=_JSON_HELP.format("JSON, one object a line"))
    watch.add_argument(
        "--wait", action="store_true", help="wait for a job, and a server, that is not there yet"
    )
    watch.add_argument(
        "--after-revision", type=_whole, metavar="N", help="also show the changes after revision N; 0: all"
    )
    watch.add_argument(
        "--retry-seconds",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to try to reach a server that went away (default: 60)",
    )
    watch.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="give up on a job that takes longer"
    )


def _add_job_list(actions: _Commands) -> None:
    parser = _command(
        actions,
        "list",
        "job_list",
        "List jobs, the newest first. Exits with 0 however the jobs fare, also if there are none.",
        "  emitd job list\n"
        "  emitd job list --type backup --status RUNNING --status QUEUED\n"
        "  emitd job list --updated-after 15m --json\n"
        "  emitd job list --updated-after 2026-11-23T08:00 --limit 1000 | grep OOM\n",
    )
    _add_address(parser)
    parser.add_argument("--type", default="", metavar="NAME", help="only jobs of this type")
    parser.add_argument(
        "--status",
        action="append",
        default=[],
        metavar="NAME",
        help="only jobs that are QUEUED, RUNNING, COMPLETED or FAILED; may repeat",
    )
    parser.add_argument(
        "--updated-after",
        metavar="WHEN",
        help="only jobs with a later report: a time such as 2026-11-23T08:00 (UTC where it does not say), "
        "or so long ago, such as 90s, 15m, 2h30m or 7d",
    )
    parser.add_argument(
        "--limit", type=_positive, default=50, metavar="N", help="at most so many jobs (default: 50)"
    )
    parser.add_argument("--json", action="store_true", help=_JSON_HELP.format("JSON, one object a line"))


def _add_demo(commands: _Commands) -> None:
    parser = _command(
        commands,
        "demo",
        "demo",
        "Show the whole service in a quarter of a minute, with data of its own. It leaves nothing behind, and exits\n"
        "with 1 if anything is not as it should be.",
        "  emitd demo\n  emitd demo --fast\n  emitd demo --picture demo.svg\n",
    )
    parser.add_argument("--fast", action="store_true", help="without the pauses that let people follow")
    parser.add_argument("--picture", metavar="FILE", help="draw into an SVG file instead of on the screen")


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        default=os.environ.get("EMITD_ADDRESS") or DEFAULT_ADDRESS,
        help=f"the server's address (or EMITD_ADDRESS; default: {DEFAULT_ADDRESS})",
    )


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0")
    return int(text)


def _percent(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 100):
        raise argparse.ArgumentTypeError(f"'{text}' is not a percentage from 0 to 100, without a sign")
    return int(text)


def _positive(text: str) -> int:
    number = _whole(text)
    if not number:
        raise argparse.ArgumentTypeError("'0' is not positive")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
    return seconds
