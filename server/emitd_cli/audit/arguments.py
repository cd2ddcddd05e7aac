"""The flags of `emitd audit` and its commands."""

from emitd_cli.command_line.flags import (
    Commands,
    add_command,
    add_group,
    add_json,
    add_listing,
    add_server,
    option,
    whole,
)
from emitd_cli.command_line.parser import Parser

# Flags of several commands, each with its help.
LOG = ("--log LOG", "the log's file, or its folder (default: the configuration's)")
CONFIG = ("--config FILE", "the configuration (default: logging_config.yml in this folder)")
KEY = (
    "--key VKEY",
    "the log's public key, or a file with its keys; may repeat (default: those next to the log, which proves less)",
)
LOG_ID = ("--log-id ID", "the log, if the server has more than one")
EVENT_ID = ("EVENT_ID", "the event's id")
SOURCE = ("--source NAME", "the event's source, if several sources have an event with this id")
LINES = "the lines of the log, with control characters as JSON escapes"


def add_audit(commands: Commands) -> None:
    """Add the commands."""
    actions = add_group(
        commands,
        "audit",
        "Verify, prove, export and read the audit trail.",
        "  emitd audit verify\n  emitd audit list --since 1h\n",
    )
    verify = _command(
        actions,
        "verify",
        "verify:run",
        "Read a whole log and compare it with its checkpoints. Exits with 0 if all is as\n"
        "it was signed, 1 if it was tampered with or is damaged, 4 if that cannot be told.\n"
        "Needs no server: a copy of the files is enough, also while the service writes.",
        "  emitd audit verify\n"
        "  emitd audit verify /backup/audit.json.log --key auditor.vkey\n"
        "  emitd audit verify --against checkpoint-of-last-year --against receipt.json\n",
    )
    option(verify, "LOG", LOG[1], dest="log", nargs="?")
    option(verify, *CONFIG)
    option(verify, *KEY, repeats=True)
    against = "a checkpoint, a receipt or a proof that was kept elsewhere; may repeat"
    option(verify, "--against FILE", against, repeats=True)
    add_json(verify, "one JSON object")
    prove = _command(
        actions,
        "prove",
        "proofs:run_prove",
        "Write a proof that an event is in the log: one file, which can be checked anywhere\n"
        "with the log's public key alone. Exits with 4 if there is no such event, or no\n"
        "checkpoint covers it yet.",
        "  emitd audit prove 0197a5c0-7c00-7000-8000-000000000001\n"
        "  emitd audit prove login-17 --log /backup/audit.json.log --output login-17.tlog-proof\n",
    )
    option(prove, *EVENT_ID, dest="event_id")
    option(prove, *SOURCE)
    option(prove, *LOG)
    option(prove, *CONFIG)
    option(prove, "--output FILE", "the file to write (default: EVENT_ID.tlog-proof in this folder)")
    add_json(prove, "what was proved as JSON")
    check = _command(
        actions,
        "check",
        "proofs:run_check",
        "Check a proof that `emitd audit prove` wrote. Needs nothing but the file and the\n"
        "log's public key. Exits with 0 if it is good, 1 if it is not, 4 without a key or\n"
        "if the file is no proof.",
        "  emitd audit check login-17.tlog-proof --key auditor.vkey\n",
    )
    option(check, "FILE", "the proof", dest="file")
    option(check, *KEY, repeats=True)
    option(check, *CONFIG)
    add_json(check, "what it proves as JSON")
    export = _command(
        actions,
        "export",
        "proofs:run_export",
        "Write the log as a folder of tiles (C2SP tlog-tiles), which public readers\n"
        "understand over plain HTTP. Run again, it adds what is new.",
        "  emitd audit export /srv/www/audit\n  emitd audit export tiles --log /backup/audit.json.log\n",
    )
    option(export, "DIR", "the folder; made if it is not there", dest="folder")
    option(export, *LOG)
    option(export, *CONFIG)
    add_json(export, "what was written as JSON")
    key = _command(
        actions,
        "key",
        "proofs:run_key",
        "Print the public keys of a log, one a line, the newest last, for an auditor to keep\n"
        "elsewhere. With --rotate, sign with a new key from now on.",
        "  emitd audit key > auditor.vkey\n  emitd audit key --rotate        # while the service is stopped\n",
    )
    option(key, "LOG", LOG[1], dest="log", nargs="?")
    option(key, *CONFIG)
    option(key, "--rotate", "make a new key first; the old ones stay in the list")
    add_json(key, "the keys as JSON")
    listing = _command(
        actions,
        "list",
        "events:run_list",
        "List audit events, the newest first.",
        "  emitd audit list\n"
        "  emitd audit list --since 1h --event user.login. --user u1\n"
        "  emitd audit list --since 2026-11-23T08:00 --until 2026-11-23T09:00 --json\n",
    )
    _add_filters(listing)
    add_listing(listing, "events")
    add_json(listing, LINES)
    tail = _command(
        actions,
        "tail",
        "events:run_tail",
        "Follow the log: print each event once it is committed, until Ctrl-C.",
        "  emitd audit tail\n  emitd audit tail --from 0 --json\n",
    )
    _add_filters(tail)
    option(
        tail, "--from INDEX", "begin with this line (default: the next one)", dest="from_index", type=whole
    )
    add_json(tail, LINES)
    show = _command(
        actions,
        "show",
        "events:run_show",
        "Show one event with its place in the log. Exits with 4 if there is none.",
        "  emitd audit show 0197a5c0-7c00-7000-8000-000000000001\n",
    )
    option(show, *EVENT_ID, dest="event_id")
    option(show, *SOURCE)
    add_server(show)
    option(show, *LOG_ID, default="")
    add_json(show, "JSON")


def _command(actions: Commands, name: str, run: str, description: str, examples: str) -> Parser:
    return add_command(actions, name, f"audit.{run}", description, examples, extra="audit")


def _add_filters(parser: Parser) -> None:
    add_server(parser)
    option(parser, *LOG_ID, default="")
    option(parser, "--event PREFIX", "only events whose name begins with this", default="")
    option(parser, "--user ID", "only events of this user", default="")
    option(parser, "--source-ip ADDRESS", "only events from this address", default="")
