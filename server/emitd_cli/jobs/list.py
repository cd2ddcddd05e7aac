"""`emitd job list`: a table on a terminal, a line for each job in a pipe, or JSON."""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial

import grpc

from emitd.v1 import Job, ListJobsRequest, ListJobsResponse, LogServiceStub
from emitd_cli.command_line.timestamps import moment_from_flag
from emitd_cli.connection import cannot_tell, connect, is_refusal, refused, result_of
from emitd_cli.errors import Misuse
from emitd_cli.exit_codes import ExitCode
from emitd_cli.jobs.display import Draw
from emitd_cli.jobs.filter import JobFilter, filter_from_flags
from emitd_cli.terminal.console import can_redraw, is_terminal, make_console
from emitd_cli.terminal.output import say, to_json

CALL_SECONDS = 30.0
#: A server sends no more jobs in one answer.
MAX_PAGE_SIZE = 1000


def run(options: argparse.Namespace) -> int:
    """Print the jobs; return 0. Raises Misuse, Refused, and CannotTell without a server."""
    job_filter = filter_from_flags(options)
    return _watch(job_filter, options) if options.watch else _list(job_filter, options)


def _list(job_filter: JobFilter, options: argparse.Namespace) -> int:
    request = job_filter.list_request()
    if options.updated_after is not None:
        request.updated_after_unix_nano = moment_from_flag("--updated-after", options.updated_after)
    try:
        with connect(options.address) as stub:
            jobs = _Jobs(stub, request, options)
            if options.json:
                for job in jobs:
                    print(to_json(job))
            else:
                _show(list(jobs), is_filtered=any(job_filter) or options.updated_after is not None)
    except grpc.RpcError as error:
        end = refused if is_refusal(error) else cannot_tell
        raise end(error, options.address) from error
    if jobs.has_more:
        say(f"there are more than {options.limit} such jobs; --limit N shows more")
    return ExitCode.GOOD


def _watch(job_filter: JobFilter, options: argparse.Namespace) -> int:
    if options.updated_after is not None:
        raise Misuse(
            "--updated-after: not with --watch, which tells of every report", field="--updated-after"
        )
    # Loaded here: a list needs no streams.
    from emitd_cli.jobs.watch import watch_filter

    watched = argparse.Namespace(**vars(options), wait=False, retry_seconds=None, timeout=None)
    return watch_filter(job_filter, watched, _frames(options.limit) if can_redraw(sys.stdout) else None)


def _frames(most: int) -> Draw:
    try:
        from emitd_cli.jobs.table import table_frame
    except ImportError:  # the base install brings no rich
        from emitd_cli.jobs.frames import lines_frame

        return partial(lines_frame, most=most)
    return partial(table_frame, most=most)


class _Jobs:
    """The jobs that a request asks for, page by page, as far as the limit; then `has_more` says if it cut them."""

    def __init__(self, stub: LogServiceStub, request: ListJobsRequest, options: argparse.Namespace) -> None:
        self._stub = stub
        self._request = request
        self._options = options
        self.has_more = False

    def __iter__(self) -> Iterator[Job]:
        left = self._options.limit
        while left > 0:
            response = self._page(left)
            yield from response.jobs
            left -= len(response.jobs)
            if not response.next_page_token:
                return
            self._request.page_token = response.next_page_token
        self.has_more = True

    def _page(self, size: int) -> ListJobsResponse:
        self._request.page_size = min(size, MAX_PAGE_SIZE)
        call: grpc.Future[ListJobsResponse] = self._stub.ListJobs.future(self._request, timeout=CALL_SECONDS)
        return result_of(call, self._options.address)


def _show(jobs: list[Job], *, is_filtered: bool) -> None:
    if not jobs:
        # Not on standard output: in a pipe, no job is no line.
        say("no job is like that" if is_filtered else "there are no jobs")
        return
    if is_terminal(sys.stdout):
        try:
            from emitd_cli.jobs.table import draw_table
        except ImportError:  # the base install brings no rich
            pass
        else:
            # Where FORCE_COLOR asks for a table in a pipe, nothing may be cut off.
            width = make_console().width if sys.stdout.isatty() else None
            print(draw_table(jobs, time.time_ns(), width), end="")
            return
    from emitd_cli.jobs.lines import job_lines

    print("\n".join(job_lines(jobs)))
