"""The flags of all commands, and what `--help` says of them."""

import argparse
import math
import os
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

__all__ = ["make_parser"]

DEFAULT_ADDRESS = "127.0.0.1:50051"

_EXIT_CODES = """\
exit codes:
  0  good
  1  the thing looked at is bad: a job FAILED, a file is wrong, a record was refused
  2  misuse
  3  bad configuration at start
  4  cannot tell, or cannot reach the server
  5  could not start or run
"""


class _Parser(argparse.ArgumentParser):
    """Tells misuse in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what it parses has the command's `module`."""
    parser = _Parser(
        prog="emitd",
        description="A gRPC logging service: log lines, audit events and live job status over one contract.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the version and exit")
    commands: _Commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check_config(commands)
    _add_emit(commands)
    _add_job(commands)
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
    commands: _Commands, name: str, module: str, description: str, examples: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=description[0].lower() + description[1:].partition(".")[0],
        description=description,
        epilog=f"examples:\n{examples}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    parser.add_argument("file", nargs="?", default="logging_config.yml", help="default: logging_config.yml")
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


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
    )
    _add_address(parser)
    parser.add_argument("message", nargs="?", help="the record's message; '-' reads standard input")
    parser.add_argument("--level", help="DEBUG, INFO (default), WARNING, ERROR or CRITICAL")
    parser.add_argument("--source", help="who sends")
    parser.add_argument(
        "-a", "--attribute", action="append", metavar="KEY=VALUE", help="an attribute; may repeat"
    )
    parser.add_argument("--record-id", help="default: a new one")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    audit = parser.add_argument_group("an audit event")
    audit.add_argument("--audit", metavar="EVENT_NAME", help="emit an audit event of this name")
    audit.add_argument("--user", help="the user's id")
    audit.add_argument("--source-ip", help="an address, or 'unknown' (default)")
    audit.add_argument("--event-id", help="default: assigned by the server")
    job = parser.add_argument_group("a job report")
    job.add_argument("--job", metavar="JOB_ID", help="emit a report on this job")
    job.add_argument("--type", help="the job's type; needed in its first report")
    job.add_argument("--status", help="QUEUED, RUNNING, COMPLETED or FAILED")
    job.add_argument("--progress", type=int, help="percent")
    job.add_argument("--label", action="append", metavar="KEY=VALUE", help="a label; may repeat")
    job.add_argument("--failure-reason", help="for FAILED: a word for programs")
    job.add_argument("--failure-message", help="for FAILED: a sentence for people")
    job.add_argument("--attempt", type=_whole, help="default: 1")
    job.add_argument("--new-attempt", action="store_true", default=None, help="open the job's next attempt")
    parser.add_argument("--details", metavar="JSON", help="of an audit event or a job: one JSON object")
    many = parser.add_argument_group("many records")
    many.add_argument("--file", metavar="FILE", help="read records from a file; '-' is standard input")
    many.add_argument(
        "--format", choices=("lines", "jsonl"), default="lines", help="of the file (default: lines)"
    )
    many.add_argument("--batch-size", type=_positive, default=512, help="records a call (default: 512)")
    many.add_argument(
        "--retry-seconds", type=_seconds, default=30.0, help="how long to retry a call (default: 30)"
    )


def _add_job(commands: _Commands) -> None:
    job = commands.add_parser("job", help="read and watch jobs", description="Read and watch jobs.")
    actions: _Commands = job.add_subparsers(title="commands", metavar="COMMAND", required=True)
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
        parser.add_argument("job_id", metavar="JOB_ID")
        parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
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
        help="how long to try to reach a server that went away (default: 60)",
    )
    watch.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="give up on a job that takes longer"
    )


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
