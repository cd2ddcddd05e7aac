"""`emitd job watch`: live bars on a terminal, a line for each change elsewhere, or the messages as JSON.

Jobs that are named by their ids have a WatchJob stream each: it leaves out no change of status, goes on where a lost
connection broke off, and ends with its job; WatchJobs promises none of these. Jobs that match a filter have one
WatchJobs stream.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from emitd.v1 import JOB_STATE_FAILED, WatchJobRequest
from emitd_cli.connection import connect
from emitd_cli.errors import CannotTell, CommandError, Misuse
from emitd_cli.exit_codes import ExitCode
from emitd_cli.jobs.board import JobBoard
from emitd_cli.jobs.display import Display, Draw, JsonDisplay, LineDisplay, live
from emitd_cli.jobs.filter import JobFilter, filter_from_flags
from emitd_cli.jobs.follow import FilterFollower, JobFollower, Patience
from emitd_cli.jobs.streams import Arrived, Ended, JobStreams, Note, job_streams
from emitd_cli.terminal.console import can_redraw
from emitd_cli.terminal.output import say, tell

#: More streams than this are a job for one with a filter.
MAX_IDS = 100
#: For jobs that are named by their ids.
RETRY_SECONDS = 60.0


def run(options: argparse.Namespace) -> int:
    """Follow the jobs; return 0, or 1 if one that was named has FAILED. Raises Misuse, Refused, CannotTell."""
    job_filter = filter_from_flags(options)
    is_filtered = any(job_filter)
    if options.job_ids:
        if is_filtered:
            raise Misuse("the ids of jobs, and --type, --status or --label, exclude each other")
        return _watch_ids(list(dict.fromkeys(options.job_ids)), options)
    if not is_filtered:
        raise Misuse(
            "say which jobs: each JOB_ID, or --type, --status or --label; 'emitd job list --watch' shows all",
            field="JOB_ID",
        )
    if options.after_revision is not None:
        raise Misuse("--after-revision goes with the ids of jobs", field="--after-revision")
    return watch_filter(job_filter, options, _bars())


def watch_filter(job_filter: JobFilter, options: argparse.Namespace, draw: Draw | None) -> int:
    """Show the jobs that match until it is interrupted, or --timeout; return 0. Raises Refused, CannotTell.

    `draw` draws the frames, for a terminal that can be drawn over; None: lines are printed.
    """
    board = JobBoard()
    request = job_filter.watch_request()
    with (
        connect(options.address) as stub,
        job_streams() as streams,
        _display(options, board, draw) as display,
    ):
        patience = _patience(streams, options, options.retry_seconds)
        streams.start("jobs", FilterFollower(stub, streams, patience, request, options.address).follow)
        for ended in _ends(streams, board, display, _end_at(options)):
            assert ended.error is not None, "it follows for ever"
            raise ended.error
    return ExitCode.GOOD


def _watch_ids(job_ids: list[str], options: argparse.Namespace) -> int:
    if len(job_ids) > MAX_IDS:
        raise Misuse(
            f"{len(job_ids)} jobs are more than {MAX_IDS}; watch them by --type, --status or --label"
        )
    # What is waited for is in sight although nothing is known of it yet.
    board, still_open = JobBoard(job_ids, is_complete=options.wait), set(job_ids)
    with (
        connect(options.address) as stub,
        job_streams() as streams,
        _display(options, board, _bars()) as display,
    ):
        seconds = RETRY_SECONDS if options.retry_seconds is None else options.retry_seconds
        patience = _patience(streams, options, seconds)
        for job_id in job_ids:
            request = WatchJobRequest(
                job_id=job_id, wait_for_creation=options.wait, after_revision=options.after_revision
            )
            streams.start(job_id, JobFollower(stub, streams, patience, request).follow)
        for ended in _ends(streams, board, display, _end_at(options)):
            if ended.error is not None:
                _give_up(ended.name, ended.error, board, display)
            still_open.discard(ended.name)
            if not still_open:
                return _exit_code(board)
    raise _too_long([job_id for job_id in job_ids if job_id in still_open], options)


def _give_up(job_id: str, error: Exception, board: JobBoard, display: Display) -> None:
    """Tell, once, why nothing more is to be learned of one of several jobs; of one job alone, it is the end."""
    if len(board.rows) == 1 or not isinstance(error, CommandError):
        raise error
    message = str(error)
    is_told = any(row.problem == message for row in board.rows.values())
    board.rows[job_id].problem = message
    if not is_told:
        display.aside(lambda: tell(message, code=error.code, field=error.field))


def _exit_code(board: JobBoard) -> ExitCode:
    rows = board.rows.values()
    if any(row.job.status == JOB_STATE_FAILED for row in rows if not row.problem):
        return ExitCode.BAD
    return ExitCode.CANNOT_TELL if any(row.problem for row in rows) else ExitCode.GOOD


def _too_long(job_ids: list[str], options: argparse.Namespace) -> CannotTell:
    more = f" and {len(job_ids) - 1} more" if len(job_ids) > 1 else ""
    verb = "have" if more else "has"
    return CannotTell(
        f"'{job_ids[0]}'{more} {verb} not ended within {options.timeout:g} s (--timeout)",
        code="DEADLINE_EXCEEDED",
    )


def _patience(streams: JobStreams, options: argparse.Namespace, retry_seconds: float | None) -> Patience:
    return Patience(streams, options.address, retry_seconds=retry_seconds, is_patient=options.wait)


def _end_at(options: argparse.Namespace) -> float | None:
    return None if options.timeout is None else time.monotonic() + options.timeout


def _ends(streams: JobStreams, board: JobBoard, display: Display, end_at: float | None) -> Iterator[Ended]:
    """Show what arrives, and yield what ends, until `end_at`, a time of the monotonic clock (None: for ever)."""
    while True:
        waits = [display.refresh(), None if end_at is None else end_at - time.monotonic()]
        seconds = min((wait for wait in waits if wait is not None), default=None)
        item = streams.take(None if seconds is None else max(seconds, 0))
        if isinstance(item, Arrived):
            display.show(item.response, board.take(item.response, begins=item.begins))
        elif isinstance(item, Note):
            display.aside(_saying(item.text))
        elif item is not None:
            yield item
        elif end_at is not None and time.monotonic() >= end_at:
            return


def _saying(text: str) -> Callable[[], None]:
    return lambda: say(text)


@contextmanager
def _display(options: argparse.Namespace, board: JobBoard, draw: Draw | None) -> Iterator[Display]:
    if options.json:
        yield JsonDisplay()
    elif draw is not None:
        with live(board, draw) as display:
            yield display
    else:
        yield LineDisplay(board.rows)


def _bars() -> Draw | None:
    if not can_redraw(sys.stdout):
        return None
    try:
        from emitd_cli.jobs.bars import bars_frame
    except ImportError:  # the base install brings no rich
        return None
    return bars_frame
