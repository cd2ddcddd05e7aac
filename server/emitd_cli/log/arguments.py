"""The flags of `emitd log` and its commands."""

import argparse

from emitd_cli.command_line.flags import (
    Commands,
    add_command,
    add_group,
    add_json,
    add_listing,
    add_server,
    add_since,
    option,
    uint32,
)
from emitd_cli.command_line.parser import Parser

JSON_LINES = "JSON, one object a line, as the handler `file` writes it"


def add_log(commands: Commands) -> None:
    """Add the commands."""
    actions = add_group(
        commands,
        "log",
        "List and follow log lines.",
        "  emitd log list --level WARNING --since 1h\n  emitd log tail --source 'auth.*'\n",
    )
    listing = add_command(
        actions,
        "list",
        "log.lines:run_list",
        "List log lines, the newest first. The server has the last ones in memory, and those\n"
        "before them if a handler keeps them, such as `file`.",
        "  emitd log list\n"
        "  emitd log list --level ERROR --source 'auth.*' --source shop --since 15m\n"
        "  emitd log list --job nightly-1 --oldest-first --limit 1000 --json\n",
    )
    _add_filters(listing)
    add_listing(listing, "lines")
    add_json(listing, JSON_LINES)
    tail = add_command(
        actions,
        "tail",
        "log.lines:run_tail",
        "Follow the log lines: print each once it is accepted, until Ctrl-C. Goes on after an\n"
        "outage; what is missing is said on standard error.",
        "  emitd log tail\n"
        "  emitd log tail --last 20 --level WARNING\n"
        "  emitd log tail --since 5m --grep timeout --json\n",
    )
    _add_filters(tail)
    add_since(tail, "lines")
    option(
        tail, "-n --last N", "begin with the last N lines, at most 1000 (default: the next one)", type=uint32
    )
    add_json(tail, JSON_LINES)


def _add_filters(parser: Parser) -> None:
    add_server(parser)
    option(
        parser, "--level NAME", "only lines of this level or above: DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    sources = "only lines from such sources: '*' stands for any text; may repeat: then from any of them"
    option(parser, "--source PATTERN", sources, repeats=True)
    option(
        parser, "--grep TEXT", "only lines with this text in the message, in upper or lower case", default=""
    )
    option(parser, "--job JOB_ID", "only lines with this attribute job_id", default="")
    option(parser, "--trace HEX", "only lines of this trace", type=_trace_id)


def _trace_id(text: str) -> bytes:
    try:
        trace_id = bytes.fromhex(text)
    except ValueError:
        trace_id = b""
    if len(trace_id) != 16:
        raise argparse.ArgumentTypeError(f"'{text}' is not 32 hexadecimal digits")
    return trace_id
