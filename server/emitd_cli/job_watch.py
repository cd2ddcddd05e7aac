"""`emitd job watch`: a live bar on a terminal, a line for each change elsewhere."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import grpc

from emitd.v1 import JOB_STATE_FAILED, Job, LogServiceStub, WatchJobRequest, WatchJobResponse
from emitd_cli.connection import cannot_tell, connect, describe, is_retryable, retry_seconds
from emitd_cli.errors import CannotTell
from emitd_cli.exit_codes import ExitCode
from emitd_cli.job_text import job_line, last_words, status_name, transition_line
from emitd_cli.output import one_line, say, to_json
from emitd_cli.terminal import STATUS_COLOURS, make_console

__all__ = ["run"]

Show: TypeAlias = Callable[[WatchJobResponse], None]


def run(options: argparse.Namespace) -> int:
    """Follow the job; return 0 for COMPLETED, 1 for FAILED. Raises CannotTell when it cannot be told."""
    with connect(options.address) as stub, _display(options) as show:
        job = _Watch(stub, options, show).follow()
    return ExitCode.BAD if job.status == JOB_STATE_FAILED else ExitCode.GOOD


class _Watch:
    """Follows one job over as many connections as it takes."""

    def __init__(self, stub: LogServiceStub, options: argparse.Namespace, show: Show) -> None:
        self._stub = stub
        self._options = options
        self._show = show
        self._end_at = None if options.timeout is None else time.monotonic() + options.timeout
        #: Whether to try again when the server does not answer. One that has not answered at all is more likely
        #: to be a wrong address.
        self._is_patient = options.wait
        #: Since when it has not answered.
        self._lost_at: float | None = None
        #: What was last shown; the next connection goes on from there.
        self._job: Job | None = None

    def follow(self) -> Job:
        """Show every message until the job has ended; return it as it ended. Raises CannotTell."""
        while True:
            try:
                for response in self._stub.WatchJob(self._request(), timeout=self._seconds_left()):
                    self._take(response)
            except grpc.RpcError as error:
                self._wait_for_server(error)
            else:
                if self._job is None:
                    raise CannotTell(f"the server ended the watch of '{self._options.job_id}' without a word")
                return self._job

    def _request(self) -> WatchJobRequest:
        options = self._options
        request = WatchJobRequest(job_id=options.job_id, wait_for_creation=options.wait)
        if self._job is not None:
            request.after_revision = self._job.revision
        elif options.after_revision is not None:
            request.after_revision = options.after_revision
        return request

    def _take(self, response: WatchJobResponse) -> None:
        self._is_patient, self._lost_at = True, None
        if response.heartbeat:
            return
        # The first message of a new connection may bring nothing that was not shown before the old one broke.
        is_news = self._job is None or response.job != self._job or response.transitions
        self._job = response.job
        if is_news:
            self._show(response)

    def _wait_for_server(self, error: grpc.RpcError) -> None:
        """Return when it is worth trying again; raise CannotTell if it is not."""
        options = self._options
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and self._end_at is not None:
            raise CannotTell(
                f"'{options.job_id}' has not ended within {options.timeout:g} s (--timeout)",
                code="DEADLINE_EXCEEDED",
            ) from error
        if not is_retryable(error) or not self._is_patient:
            raise cannot_tell(error, options.address) from error
        now, pause = time.monotonic(), retry_seconds(error)
        since = now if self._lost_at is None else self._lost_at
        if now + pause > since + options.retry_seconds:
            raise cannot_tell(error, options.address) from error
        if self._lost_at is None:
            self._lost_at = now
            say(f"{describe(error, options.address)}; trying again for {options.retry_seconds:g} s")
        time.sleep(pause)

    def _seconds_left(self) -> float | None:
        return None if self._end_at is None else max(0.0, self._end_at - time.monotonic())


@contextmanager
def _display(options: argparse.Namespace) -> Iterator[Show]:
    if options.json:
        yield lambda response: print(to_json(response), flush=True)
    elif sys.stdout.isatty():
        with _bar() as show:
            yield show
    else:
        yield _print_lines


def _print_lines(response: WatchJobResponse) -> None:
    job = response.job
    for transition in response.transitions:
        if transition.revision != job.revision:
            print(transition_line(job.job_id, transition))
    print(job_line(job), flush=True)


@contextmanager
def _bar() -> Iterator[Show]:
    """A live bar where `rich` is installed, else lines."""
    try:
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield _print_lines
        return
    columns = (
        TextColumn("[bold]{task.fields[job]}[/]  {task.fields[type]}"),
        TextColumn("{task.fields[status]}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=make_console()) as progress:
        task = progress.add_task("", total=100, job="", type="", status="", text="")

        def show(response: WatchJobResponse) -> None:
            job = response.job
            status = status_name(job.status)
            attempt = f" (attempt {job.attempt})" if job.attempt > 1 else ""
            progress.update(
                task,
                completed=job.progress,
                job=escape(one_line(job.job_id)) + attempt,
                type=escape(one_line(job.job_type)),
                status=f"[{STATUS_COLOURS.get(status, 'white')}]{status}[/]",
                text=escape(one_line(last_words(job))),
            )

        yield show
