"""The entry point: parses the command line and hands over to the command's module.

Each command's module is imported when it is called, so that `emitd --help` is quick and `emitd emit` needs no
server.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from emitd_cli.exit_codes import ExitCode

__all__ = ["main", "make_parser"]

_EPILOG = """\
exit codes:
  0  good
  1  the thing looked at is bad: a job FAILED, a file is wrong, a record was refused
  2  misuse
  3  bad configuration at start
  4  cannot tell, or cannot reach the server
  5  could not start or run
"""
DEFAULT_ADDRESS = "127.0.0.1:50051"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        module = importlib.import_module(f"emitd_cli.{options.module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("emitd"):
            raise
        print(
            f"emitd: there is no module '{error.name}'; pip install 'emitd[server]' brings it",
            file=sys.stderr,
        )
        return ExitCode.CANNOT_RUN
    try:
        code = int(module.run(options))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; what is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.GOOD


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="emitd",
        description="A gRPC logging service: log lines, audit events and live job status over one contract.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"emitd {version('emitd')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check_config(commands)
    _add_emit(commands)
    _add_job(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    module: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=description[0].lower() + description[1:].partition(".")[0],
        description=description,
        epilog=f"examples:\n{examples}\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(module=module, parser=parser)
    return parser


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_check_config(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "check-config",
        "check_config",
        "Report every problem of a configuration file. Exits with 1 if there is one.",
        "  emitd check-config\n  emitd check-config /etc/emitd.yml --json\n",
    )
    parser.add_argument("file", nargs="?", default="logging_config.yml", help="default: logging_config.yml")
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


def _add_emit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
        "  tail -f app.log | emitd emit --file -\n",
    )
    _add_address(parser)
    parser.add_argument(
        "message", nargs="?", default="", help="the record's message; '-' reads standard input"
    )
    parser.add_argument("--level", help="DEBUG, INFO (default), WARNING, ERROR or CRITICAL")
    parser.add_argument("--source", default="", help="who sends")
    parser.add_argument(
        "-a", "--attribute", action="append", default=[], metavar="KEY=VALUE", help="an attribute; may repeat"
    )
    parser.add_argument("--record-id", default="", help="default: a new one")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    audit = parser.add_argument_group("an audit event")
    audit.add_argument("--audit", metavar="EVENT_NAME", help="emit an audit event of this name")
    audit.add_argument("--user", default="", help="the user's id")
    audit.add_argument("--source-ip", default="unknown", help="an address, or 'unknown' (default)")
    audit.add_argument("--event-id", default="", help="default: assigned by the server")
    job = parser.add_argument_group("a job report")
    job.add_argument("--job", metavar="JOB_ID", help="emit a report on this job")
    job.add_argument("--type", default="", help="the job's type; needed in its first report")
    job.add_argument("--status", help="QUEUED, RUNNING, COMPLETED or FAILED")
    job.add_argument("--progress", type=int, help="percent")
    job.add_argument("--failure-reason", default="")
    job.add_argument("--failure-message", default="")
    job.add_argument("--attempt", type=int, default=0)
    job.add_argument("--new-attempt", action="store_true", help="open the job's next attempt")
    parser.add_argument(
        "--details", default="", metavar="JSON", help="of an audit event ({}) or a job: one object"
    )
    many = parser.add_argument_group("many records")
    many.add_argument("--file", metavar="FILE", help="read records from a file; '-' is standard input")
    many.add_argument(
        "--format", choices=("lines", "jsonl"), default="lines", help="of the file (default: lines)"
    )
    many.add_argument("--batch-size", type=int, default=512, help="records a call (default: 512)")
    many.add_argument(
        "--retry-seconds", type=float, default=30.0, help="how long to retry a call (default: 30)"
    )


def _add_job(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    job = commands.add_parser("job", help="read and watch jobs", description="Read and watch jobs.")
    actions = job.add_subparsers(title="commands", metavar="COMMAND", required=True)
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
        "  emitd job watch nightly-1\n  emitd job watch nightly-2 --wait --json\n",
    )
    for parser in (get, watch):
        _add_address(parser)
        parser.add_argument("job_id", metavar="JOB_ID")
        parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    watch.add_argument("--wait", action="store_true", help="wait for a job that does not exist yet")
    watch.add_argument(
        "--after-revision", type=int, metavar="N", help="also show the changes after revision N"
    )
    watch.add_argument(
        "--retry-seconds",
        type=float,
        default=60.0,
        help="how long to try to reach a server that went away (default: 60)",
    )


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        default=os.environ.get("EMITD_ADDRESS", DEFAULT_ADDRESS),
        help=f"the server's address (or EMITD_ADDRESS; default: {DEFAULT_ADDRESS})",
    )
