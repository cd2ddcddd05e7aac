"""`emitd audit list`, `tail` and `show`: the events of a log, as the server has them."""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc

from emitd.errors import RequestRejected
from emitd.requests import newest_event
from emitd.runtime.backoff import Backoff
from emitd.v1 import (
    AuditEntry,
    GetCheckpointRequest,
    ListAuditEventsRequest,
    TailAuditEventsRequest,
    TailAuditEventsResponse,
)
from emitd.watches import AuditTail
from emitd_cli.audit.log_files import event_fields
from emitd_cli.command_line.values import period_from_flags
from emitd_cli.connection import Server, connect
from emitd_cli.errors import CannotTell, ExitCode, Misuse
from emitd_cli.terminal.output import aligned, field_lines, one_line, pad, print_lines, print_outcome, say
from emitd_handlers.tlog.merkle import leaf_hash

HEADINGS = ("RECEIVED", "EVENT", "USER", "SOURCE IP", "DETAILS")
#: The widths of a line that is printed alone. The last column gets the rest.
WIDTHS = (24, 20, 12, 15, 0)


def run_list(options: argparse.Namespace) -> int:
    """Print the events; return 0. Raises Misuse, and CannotTell without a server."""
    filters = _filters(options)
    period = period_from_flags(options)
    request = ListAuditEventsRequest(
        log_id=options.log_id, newest_first=not options.oldest_first, **filters, **period
    )
    with connect(options) as server:
        pages = server.pages(server.audit.ListAuditEvents, request, "entries", options.limit)
        if options.json:
            for page in pages:
                print_json_lines(page.entries)
        else:
            entries = [entry for page in pages for entry in page.entries]
            print_lines(event_lines(entries), "no event is like that")
    if request.page_token:  # with a filter, further events would have to be searched for
        say(f"there may be more than {options.limit} such events; --limit N shows more")
    return ExitCode.GOOD


def run_tail(options: argparse.Namespace) -> int:
    """Print events until Ctrl-C, over as many connections as it takes. Raises Misuse, and CannotTell."""
    request = TailAuditEventsRequest(
        log_id=options.log_id, from_index=options.from_index, **_filters(options)
    )

    def show(response: TailAuditEventsResponse) -> None:
        if options.json:
            print_json_lines(response.entries)
        else:
            print_lines(pad(_cells(entry), WIDTHS) for entry in response.entries)

    with connect(options) as server:
        tail = AuditTail(request, Backoff(0, 0))
        server.follow(server.audit.TailAuditEvents, tail, show, lambda: f" with line {request.from_index}")


def run_show(options: argparse.Namespace) -> int:
    """Print the event; return 0. Raises Misuse, and CannotTell if there is none, or no server."""
    if not options.event_id:
        raise Misuse("EVENT_ID: is empty", field="EVENT_ID")
    with connect(options) as server:
        log_id, entry = _find(server, options)
        tree_size, problem = _newest_checkpoint(server, log_id)
    # Computed from the line that came, so that it need not be believed.
    leaf = leaf_hash(entry.line)
    is_covered = entry.leaf_index < tree_size
    coverage = f"by the checkpoint over {tree_size} lines"
    if not is_covered:
        coverage = problem or f"by no checkpoint yet; the newest is over {tree_size} lines"
    place = {
        "log": log_id,
        "index": str(entry.leaf_index),
        "leaf hash": leaf.hex(),
        "covered": coverage,
    }
    fields = {
        "log_id": log_id,
        "leaf_index": entry.leaf_index,
        "leaf_hash": leaf.hex(),
        "covered_by_tree_size": tree_size if is_covered else None,
        "line": entry.line.decode(errors="replace"),
    }
    print_outcome(fields, field_lines(event_fields(entry.line) | place))
    return ExitCode.GOOD


def event_lines(entries: Sequence[AuditEntry]) -> Iterator[str]:
    """Yield a heading and a line for each event, nothing without events."""
    return aligned(HEADINGS, map(_cells, entries))


def _filters(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "event_name_prefix": options.event,
        "user_id": options.user,
        "source_ip": options.source_ip,
    }


def _find(server: Server, options: argparse.Namespace) -> tuple[str, AuditEntry]:
    request = ListAuditEventsRequest(
        log_id=options.log_id, event_id=options.event_id, source=options.source, newest_first=True
    )
    found = None
    try:
        for page in server.pages(server.audit.ListAuditEvents, request):
            found = newest_event(found, page.entries)
            if found and options.source is not None:
                break
    except RequestRejected as error:
        raise Misuse(f"--{error}", field="--source") from error
    if found:
        return page.log_id, found
    raise CannotTell(f"there is no event '{options.event_id}' in the log '{page.log_id}'", code="NOT_FOUND")


def _newest_checkpoint(server: Server, log_id: str) -> tuple[int, str]:
    """Return how many lines the newest checkpoint covers; or 0, and why the server has none to show."""
    try:
        return server.ask(server.audit.GetCheckpoint, GetCheckpointRequest(log_id=log_id)).tree_size, ""
    except CannotTell as error:
        cause = error.__cause__
        if error.code != "UNAVAILABLE" or not isinstance(cause, grpc.RpcError):
            raise
        return 0, f"by no checkpoint that the server can show: {cause.details()}"


def print_json_lines(entries: Iterable[AuditEntry]) -> None:
    """Print lines of the log as they are; what is escaped is within texts, and their values stay the same."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # the log's
    print_lines((entry.line.decode(errors="surrogateescape") for entry in entries), cut=False)


def _cells(entry: AuditEntry) -> tuple[str, ...]:
    if not entry.HasField("record"):
        damaged = f"line {entry.leaf_index} is damaged: `emitd audit verify` says more"
        return (_time(entry.receive_time_unix_nano) or "-", "-", "-", "-", damaged)
    audit = entry.record.audit
    cells = (
        _time(entry.receive_time_unix_nano),
        audit.event_name,
        audit.user_id,
        audit.source_ip,
        audit.details_json,
    )
    return tuple(map(one_line, cells))


def _time(unix_nano: int) -> str:
    """Return a moment in ISO 8601, to the millisecond, in UTC; empty for none."""
    if not unix_nano:
        return ""
    seconds, nanos = divmod(unix_nano, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanos // 1_000_000:03}Z"
