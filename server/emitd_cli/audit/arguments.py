"""The flags of `emitd audit` and its commands."""

import argparse

from emitd_cli.command_line.flags import (
    EXIT_CODES,
    JSON_HELP,
    Commands,
    add_address,
    add_command,
    positive,
    whole,
)
from emitd_cli.command_line.parser import HelpFormatter, Parser

__all__ = ["add_audit"]


def add_audit(commands: Commands) -> None:
    """Add the commands."""
    audit = commands.add_parser(
        "audit",
        help="verify, prove, export and read the audit trail",
        description="Verify, prove, export and read the audit trail.",
        epilog=f"examples:\n  emitd audit verify\n  emitd audit list --since 1h\n\n{EXIT_CODES}",
        formatter_class=HelpFormatter,
    )
    actions: Commands = audit.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_verify(actions)
    _add_prove(actions)
    _add_check(actions)
    _add_export(actions)
    _add_key(actions)
    _add_list(actions)
    _add_tail(actions)
    _add_show(actions)


def _add_verify(actions: Commands) -> None:
    parser = add_command(
        actions,
        "verify",
        "audit.verify:run",
        "Read a log whole and hold it against its checkpoints. Exits with 0 if all is as\n"
        "it was signed, 1 if it was tampered with or is damaged, 4 if that cannot be told.\n"
        "Needs no server: a copy of the files will do, also while the service writes.",
        "  emitd audit verify\n"
        "  emitd audit verify /backup/audit.json.log --key auditor.vkey\n"
        "  emitd audit verify --against checkpoint-of-last-year --against receipt.json\n",
        extra="audit",
    )
    _add_log(parser)
    _add_key_flag(parser)
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="checkpoints, a receipt or a proof that were kept elsewhere; may repeat",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("one JSON object"))


def _add_prove(actions: Commands) -> None:
    parser = add_command(
        actions,
        "prove",
        "audit.proofs:run_prove",
        "Write a proof that an event is in the log: one file, to be checked anywhere with\n"
        "the log's public key alone. Exits with 4 if there is no such event, or no\n"
        "checkpoint covers it yet.",
        "  emitd audit prove 0197a5c0-7c00-7000-8000-000000000001\n"
        "  emitd audit prove login-17 --log /backup/audit.json.log --output login-17.tlog-proof\n",
        extra="audit",
    )
    parser.add_argument("event_id", metavar="EVENT_ID", help="the event's id")
    _add_log_flag(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="where to write it (default: EVENT_ID.tlog-proof in this folder)"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("what was proved as JSON"))


def _add_check(actions: Commands) -> None:
    parser = add_command(
        actions,
        "check",
        "audit.proofs:run_check",
        "Check a proof that `emitd audit prove` wrote. Needs nothing but the file and the\n"
        "log's public key. Exits with 0 if it is good, 1 if it is not, 4 without a key.",
        "  emitd audit check login-17.tlog-proof --key auditor.vkey\n",
        extra="audit",
    )
    parser.add_argument("file", metavar="FILE", help="the proof")
    _add_key_flag(parser)
    _add_config(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("what it proves as JSON"))


def _add_export(actions: Commands) -> None:
    parser = add_command(
        actions,
        "export",
        "audit.proofs:run_export",
        "Write the log as a folder of tiles (C2SP tlog-tiles), which public readers\n"
        "understand over plain HTTP; run again, it brings the folder up to date.",
        "  emitd audit export /srv/www/audit\n  emitd audit export tiles --log /backup/audit.json.log\n",
        extra="audit",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder; made if it is not there")
    _add_log_flag(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("what was written as JSON"))


def _add_key(actions: Commands) -> None:
    parser = add_command(
        actions,
        "key",
        "audit.proofs:run_key",
        "Print the public keys of a log, one a line, the newest last. They are what an\n"
        "auditor keeps elsewhere. With --rotate, sign with a new key from now on.",
        "  emitd audit key > auditor.vkey\n  emitd audit key --rotate        # while the service is stopped\n",
        extra="audit",
    )
    _add_log(parser)
    parser.add_argument(
        "--rotate", action="store_true", help="make a new key first; the old ones stay in the list"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("the keys as JSON"))


def _add_list(actions: Commands) -> None:
    parser = add_command(
        actions,
        "list",
        "audit.events:run_list",
        "List audit events, the newest first.",
        "  emitd audit list\n"
        "  emitd audit list --since 1h --event user.login. --user u1\n"
        "  emitd audit list --since 2026-11-23T08:00 --until 2026-11-23T09:00 --json\n",
        extra="audit",
    )
    add_address(parser)
    _add_filters(parser)
    parser.add_argument(
        "--since",
        metavar="WHEN",
        help="only events received at or after this time, or so long ago: 90s, 15m, 7d",
    )
    parser.add_argument(
        "--until", metavar="WHEN", help="only events received before this time, or so long ago"
    )
    parser.add_argument("--oldest-first", action="store_true", help="begin with the oldest")
    parser.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most so many events (default: 50)"
    )
    parser.add_argument(
        "--json", action="store_true", help=JSON_HELP.format("the lines of the log as they are")
    )


def _add_tail(actions: Commands) -> None:
    parser = add_command(
        actions,
        "tail",
        "audit.events:run_tail",
        "Follow the log: print each event once it is committed, until Ctrl-C.",
        "  emitd audit tail\n  emitd audit tail --from 0 --json\n",
        extra="audit",
    )
    add_address(parser)
    _add_filters(parser)
    parser.add_argument(
        "--from",
        dest="from_index",
        type=whole,
        metavar="INDEX",
        help="begin with this line (default: the next one)",
    )
    parser.add_argument(
        "--json", action="store_true", help=JSON_HELP.format("the lines of the log as they are")
    )


def _add_show(actions: Commands) -> None:
    parser = add_command(
        actions,
        "show",
        "audit.events:run_show",
        "Show one event with its place in the log. Exits with 4 if there is none.",
        "  emitd audit show 0197a5c0-7c00-7000-8000-000000000001\n",
        extra="audit",
    )
    parser.add_argument("event_id", metavar="EVENT_ID", help="the event's id")
    add_address(parser)
    _add_log_id(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("JSON"))


def _add_filters(parser: Parser) -> None:
    _add_log_id(parser)
    parser.add_argument("--event", default="", metavar="PREFIX", help="only events whose name begins so")
    parser.add_argument("--user", default="", metavar="ID", help="only events of this user")
    parser.add_argument("--source-ip", default="", metavar="ADDRESS", help="only events from this address")


def _add_log_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-id", default="", metavar="ID", help="which log, where the server has more than one"
    )


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log", nargs="?", metavar="LOG", help="the log's file, or its folder (default: the configuration's)"
    )
    _add_config(parser)


def _add_log_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log", metavar="LOG", help="the log's file, or its folder (default: the configuration's)"
    )
    _add_config(parser)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: logging_config.yml in this folder)"
    )


def _add_key_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="VKEY",
        help="the log's public key, or a file with its keys; may repeat (default: those beside the log, "
        "which proves less)",
    )
