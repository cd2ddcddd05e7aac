"""Audit events in words: a line each, or all that is known of one."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from emitd.v1 import AuditEntry
from emitd_cli.terminal.columns import aligned, clip, pad
from emitd_cli.terminal.output import one_line

HEADINGS = ("RECEIVED", "EVENT", "USER", "SOURCE IP", "DETAILS")
#: Of a line that comes alone, whose neighbours are not known. The last column has what is left.
WIDTHS = (24, 20, 12, 15, 0)


def event_lines(entries: Sequence[AuditEntry], width: int | None = None) -> Iterator[str]:
    """Yield a heading and a line for each event; `width` None: nothing is cut off."""
    for line in aligned([HEADINGS, *map(_cells, entries)]):
        yield line if width is None else clip(line, width)


def event_line(entry: AuditEntry, width: int | None = None) -> str:
    """Return an event in one line; `width` None: nothing is cut off."""
    line = pad(_cells(entry), WIDTHS)
    return line if width is None else clip(line, width)


def describe_event(entry: AuditEntry, log_id: str, leaf_hash: bytes, coverage: str) -> str:
    """Return all that is known of an event, a line for each field."""
    record, audit = entry.record, entry.record.audit
    fields = {
        "event": audit.event_name,
        "event id": audit.event_id,
        "user": audit.user_id,
        "source ip": audit.source_ip,
        "details": audit.details_json,
        "happened": _time(record.time_unix_nano, 9),
        "received": _time(entry.receive_time_unix_nano, 9),
        "source": record.source,
        "record id": record.record_id,
        "message": record.message,
        "attributes": record.attributes_json,
        "trace id": record.trace_id.hex(),
        "span id": record.span_id.hex(),
        "log": log_id,
        "index": str(entry.leaf_index),
        "leaf hash": leaf_hash.hex(),
        "covered": coverage,
    }
    return "\n".join(f"{name:<10}  {one_line(value)}" for name, value in fields.items() if value)


def print_json_lines(entries: Iterable[AuditEntry]) -> None:
    """Print lines of the log, byte for byte; to a terminal with what would move its cursor escaped."""
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None or sys.stdout.isatty():
        for entry in entries:
            print(_for_terminal(entry.line.decode(errors="surrogateescape")))
    else:
        sys.stdout.flush()
        buffer.writelines(entry.line + b"\n" for entry in entries)
    sys.stdout.flush()


def terminal_width() -> int | None:
    """Return how wide lines may be on standard output; None: it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


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


def _time(unix_nano: int, decimals: int = 3) -> str:
    """Return a moment in ISO 8601, in UTC; empty for none."""
    if not unix_nano:
        return ""
    seconds, nanos = divmod(unix_nano, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{f'{nanos:09}'[:decimals]}Z"


def _for_terminal(text: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
