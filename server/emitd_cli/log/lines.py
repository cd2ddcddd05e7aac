"""`emitd log list` and `tail`: log lines as the server has them, in the two forms that its handlers write."""

import argparse
from collections.abc import Callable, Iterable

from emitd.runtime.backoff import Backoff
from emitd.v1 import ListLogsRequest, LogFilter, LogLine, TailLogsRequest, TailLogsResponse
from emitd.watches import LogTail
from emitd_cli.command_line.values import level_from_flag, period_from_flags
from emitd_cli.connection import connect
from emitd_cli.errors import ExitCode, Misuse
from emitd_cli.terminal.output import print_lines, say
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.record_text import LineFormat, line_format

TRUNCATED = "lines of that time may be missing: the server keeps the last ones only"


def run_list(options: argparse.Namespace) -> int:
    """Print the lines; return 0. Raises Misuse, and CannotTell without a server."""
    wanted, period = _filter(options), period_from_flags(options)
    request = ListLogsRequest(filter=wanted, newest_first=not options.oldest_first, **period)
    write = _writer(options)
    found, is_truncated = 0, False
    with connect(options) as server:
        for page in server.pages(server.log.ListLogs, request, "lines", options.limit):
            write(page.lines)
            found += len(page.lines)
            is_truncated = page.history_truncated
    if not found:
        say("no line is like that")
    if is_truncated:
        say(TRUNCATED)
    if request.page_token:
        say(f"there may be more than {options.limit} such lines; --limit N shows more")
    return ExitCode.GOOD


def run_tail(options: argparse.Namespace) -> int:
    """Print lines until Ctrl-C, over as many connections as it takes. Raises Misuse, and CannotTell."""
    if options.since is not None and options.last is not None:
        raise Misuse("--last and --since exclude each other", field="--last")
    wanted = _filter(options)
    request = TailLogsRequest(filter=wanted, last=options.last, **period_from_flags(options))
    write = _writer(options)
    of_all = " (of all, not only of those that match)" if wanted.ByteSize() else ""

    def show(response: TailLogsResponse) -> None:
        if response.history_truncated:
            say(TRUNCATED)
        if count := response.missed_count:
            say(
                f"{count} {'line was' if count == 1 else 'lines were'} missed{of_all}: the server no longer has them"
            )
        write(response.lines)

    with connect(options) as server:
        server.follow(server.log.TailLogs, LogTail(request, Backoff(0, 0)), show)


def _filter(options: argparse.Namespace) -> LogFilter:
    return LogFilter(
        min_level=None if options.level is None else level_from_flag(options.level),
        sources=options.source,
        text=options.grep,
        job_id=options.job,
        trace_id=options.trace,
    )


def _writer(options: argparse.Namespace) -> Callable[[Iterable[LogLine]], None]:
    """Return what prints lines: whole, since they are read by people who search."""
    kind = LineFormat.JSON if options.json else LineFormat.TEXT
    format_line = line_format(kind, "UTC", attributes=True)
    return lambda lines: print_lines((format_line(_record(line)) for line in lines), cut=False)


def _record(line: LogLine) -> LogRecord:
    record = line.record
    return LogRecord(
        Level(record.level),
        record.message,
        record.record_id,
        record.time_unix_nano,
        line.receive_time_unix_nano,
        record.source,
        record.attributes_json,
        record.trace_id,
        record.span_id,
    )
