"""`emitd job list`, `get`, `history` and `cancel`."""

import argparse
import time
from typing import Any

from emitd.records.levels import job_state_name
from emitd.v1 import (
    JOB_STATE_FAILED,
    GetJobRequest,
    Job,
    JobTransition,
    ListJobsRequest,
    ListJobTransitionsRequest,
    RequestCancelRequest,
    WatchJobsRequest,
)
from emitd_cli.command_line.values import filter_from_flags, moment_from_flag
from emitd_cli.connection import connect
from emitd_cli.errors import ExitCode, Misuse
from emitd_cli.jobs.board import NO_JOBS
from emitd_cli.jobs.text import describe_job, has_ended, history_lines, job_line, job_lines, status_periods
from emitd_cli.terminal.output import print_lines, print_result, say, to_json


def run_list(options: argparse.Namespace) -> int:
    """Print the jobs; return 0. Raises Misuse, and CannotTell without a server."""
    filters = filter_from_flags(options)
    if options.watch:
        return _watch_list(filters, options)
    request = ListJobsRequest(**filters)
    if options.updated_after is not None:
        request.updated_after_unix_nano = moment_from_flag("--updated-after", options.updated_after)
    with connect(options) as server:
        pages = server.pages(server.log.ListJobs, request, "jobs", options.limit)
        if options.json:
            for page in pages:
                print_lines(map(to_json, page.jobs), cut=False)
        else:
            jobs = [job for page in pages for job in page.jobs]
            print_lines(job_lines(jobs), NO_JOBS)
    if request.page_token:
        say(f"there are more than {options.limit} such jobs; --limit N shows more")
    return ExitCode.GOOD


def run_get(options: argparse.Namespace) -> int:
    """Print the job; return 0, or 1 if it has FAILED. Raises Misuse, and CannotTell without it or a server."""
    with connect(options) as server:
        job: Job = server.ask(server.log.GetJob, GetJobRequest(job_id=options.job_id)).job
    print_result(to_json(job) if options.json else describe_job(job))
    return ExitCode.BAD if job.status == JOB_STATE_FAILED else ExitCode.GOOD


def run_history(options: argparse.Namespace) -> int:
    """Print the history, the oldest first; return 0. Raises Misuse, and CannotTell without a job or a server."""
    is_truncated = False
    transitions: list[JobTransition] = []
    request = ListJobTransitionsRequest(job_id=options.job_id, after_revision=options.after_revision)
    with connect(options) as server:
        for page in server.pages(server.log.ListJobTransitions, request):
            is_truncated = is_truncated or page.history_truncated
            transitions += page.transitions
            if options.json:
                print_lines(map(to_json, page.transitions), cut=False)
    if is_truncated:
        say("some of this history is gone: the server keeps it for a limited time")
    if not options.json:
        periods = status_periods(transitions, time.time_ns())
        nothing = f"nothing is known of '{options.job_id}' after revision {options.after_revision}"
        print_lines(history_lines(periods), nothing, cut=False)
    return ExitCode.GOOD


def run_cancel(options: argparse.Namespace) -> int:
    """Ask, and print the job; return 0. Raises Misuse, and CannotTell if there is no such job, or no server."""
    request = RequestCancelRequest(job_id=options.job_id, reason=options.reason)
    with connect(options) as server:
        job: Job = server.ask(server.log.RequestCancel, request).job
    if has_ended(job):
        say(f"'{job.job_id}' is {job_state_name(job.status)} already; there is nothing to cancel")
    print_result(to_json(job) if options.json else job_line(job))
    return ExitCode.GOOD


def _watch_list(filters: dict[str, Any], options: argparse.Namespace) -> int:
    if options.updated_after is not None:
        raise Misuse("--updated-after: not with --watch, which shows every report", field="--updated-after")
    # Loaded here: a list needs no streams.
    from emitd_cli.jobs.watch import watch_filter

    watched = argparse.Namespace(**vars(options), wait=False, retry_seconds=None, timeout=None)
    return watch_filter(WatchJobsRequest(**filters), watched, options.limit)
