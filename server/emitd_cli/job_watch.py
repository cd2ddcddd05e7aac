"""`emitd job watch`: a live bar on a terminal, a line for each change elsewhere."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import grpc
from google.protobuf import json_format

from emitd.v1 import JOB_STATE_FAILED, Job, LogServiceStub, WatchJobRequest, WatchJobResponse
from emitd_cli.connection import CannotReach, connect, describe, is_retryable, retry_seconds, say
from emitd_cli.exit_codes import ExitCode
from emitd_cli.job_text import job_line, one_line, status_name

__all__ = ["run"]

Show: TypeAlias = Callable[[WatchJobResponse], None]
_COLOURS = {"QUEUED": "yellow", "RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red"}


def run(options: argparse.Namespace) -> int:
    """Follow the job; return 0 for COMPLETED, 1 for FAILED, 4 when it cannot be told."""
    try:
        with connect(options.address) as stub, _display(options) as show:
            job = _follow(stub, options, show)
    except CannotReach as error:
        say(str(error))
        return ExitCode.CANNOT_TELL
    except grpc.RpcError as error:
        say(describe(error, options.address))
        return ExitCode.CANNOT_TELL
    return ExitCode.BAD if job.status == JOB_STATE_FAILED else ExitCode.GOOD


def _follow(stub: LogServiceStub, options: argparse.Namespace, show: Show) -> Job:
    """Show every message until the job has ended; resume where a connection broke. Returns the ended job."""
    request = WatchJobRequest(job_id=options.job_id, wait_for_creation=options.wait)
    if options.after_revision is not None:
        request.after_revision = options.after_revision
    job = Job()
    alive_at = time.monotonic()
    while True:
        try:
            for response in stub.WatchJob(request):
                alive_at = time.monotonic()
                if response.HasField("job"):
                    job = response.job
                    request.after_revision = job.revision
                if not response.heartbeat:
                    show(response)
            return job
        except grpc.RpcError as error:
            if not is_retryable(error):
                raise
            if time.monotonic() - alive_at > options.retry_seconds:
                raise CannotReach(options.address) from error
            time.sleep(retry_seconds(error))


@contextmanager
def _display(options: argparse.Namespace) -> Iterator[Show]:
    if options.json:
        yield _print_json
    elif sys.stdout.isatty():
        with _bar() as show:
            yield show
    else:
        yield _print_line


def _print_json(response: WatchJobResponse) -> None:
    print(json_format.MessageToJson(response, indent=None, preserving_proto_field_name=True), flush=True)


def _print_line(response: WatchJobResponse) -> None:
    print(job_line(response.job), flush=True)


@contextmanager
def _bar() -> Iterator[Show]:
    """A live bar where `rich` is installed, else lines."""
    try:
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield _print_line
        return
    columns = (
        TextColumn("[bold]{task.fields[job]}"),
        TextColumn("{task.fields[status]}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=100, job="", status="", text="")

        def show(response: WatchJobResponse) -> None:
            job = response.job
            status = status_name(job)
            text = " ".join(filter(None, (job.failure_reason, job.failure_message))) or job.message
            attempt = f" (attempt {job.attempt})" if job.attempt > 1 else ""
            progress.update(
                task,
                completed=job.progress,
                job=escape(one_line(job.job_id)) + attempt,
                status=f"[{_COLOURS.get(status, 'white')}]{status}[/]",
                text=escape(one_line(text)),
            )

        yield show
