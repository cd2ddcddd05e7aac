"""`emitd job watch`: live bars on a terminal, a line for each change elsewhere, or the messages as JSON.

Each job of the command line has a WatchJob stream: it leaves out no transition, goes on after a lost connection, and
ends with its job. WatchJobs promises none of these; it serves all jobs that match a filter.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import grpc

from emitd import watches
from emitd.runtime.backoff import Backoff
from emitd.v1 import (
    JOB_STATE_FAILED,
    LogServiceStub,
    WatchJobRequest,
    WatchJobResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from emitd_cli.command_line.values import filter_from_flags
from emitd_cli.connection import Outage, calling, connect_async, credentials_of
from emitd_cli.errors import CannotTell, CommandError, ExitCode, Misuse
from emitd_cli.jobs.board import JobBoard
from emitd_cli.jobs.display import MIN_FRAME_SECONDS, Display, LineDisplay, live
from emitd_cli.terminal.output import can_redraw, say, tell
from emitd_cli.terminal.streams import end_with_reader

#: For more jobs there is the stream of a filter.
MAX_IDS = 100
#: For the jobs of the command line.
RETRY_SECONDS = 60.0

#: Shows what one stream brings.
Follower: TypeAlias = Callable[[LogServiceStub], Awaitable[None]]


def run(options: argparse.Namespace) -> int:
    """Follow the jobs; return 0, or 1 if one of the command line has FAILED. Raises Misuse, CannotTell."""
    filters = filter_from_flags(options)
    if options.job_ids:
        if any(filters.values()):
            raise Misuse("the ids of jobs, and --type, --status or --label, exclude each other")
        end_with_reader()
        return watch_ids(list(dict.fromkeys(options.job_ids)), options)
    if not any(filters.values()):
        raise Misuse(
            "say which jobs: each JOB_ID, or --type, --status or --label; 'emitd job list --watch' shows all",
            field="JOB_ID",
        )
    if options.after_revision is not None:
        raise Misuse("--after-revision goes with the ids of jobs", field="--after-revision")
    return watch_filter(WatchJobsRequest(**filters), options)


def watch_filter(request: WatchJobsRequest, options: argparse.Namespace, most: int | None = None) -> int:
    """Show the jobs that match until Ctrl-C, or --timeout; return 0. Raises Misuse, CannotTell.

    `most`: how many bars there may be; the other jobs are counted.
    """
    end_with_reader()
    board = JobBoard()
    with _display(options, board, most) as display:
        watch = JobWatch(options, board, display, options.retry_seconds)
        watch.run([partial(watch.follow_filter, request=request)])
    return ExitCode.GOOD


def watch_ids(job_ids: list[str], options: argparse.Namespace, *others: Follower) -> int:
    """Show the jobs until all have ended, and all `others` have returned."""
    if len(job_ids) > MAX_IDS:
        raise Misuse(
            f"{len(job_ids)} jobs are more than {MAX_IDS}; watch them by --type, --status or --label"
        )
    # Jobs that are waited for are in sight before the first message.
    board, still_open = JobBoard(job_ids, is_complete=options.wait), dict.fromkeys(job_ids)
    with _display(options, board) as display:
        seconds = RETRY_SECONDS if options.retry_seconds is None else options.retry_seconds
        watch = JobWatch(options, board, display, seconds)

        async def follow(stub: LogServiceStub, job_id: str) -> None:
            request = WatchJobRequest(
                job_id=job_id, wait_for_creation=options.wait, after_revision=options.after_revision
            )
            try:
                await watch.follow_job(stub, request)
            except CommandError as error:
                if len(job_ids) == 1:
                    raise
                _give_up(job_id, error, board, display)
            del still_open[job_id]

        watch.run([*(partial(follow, job_id=job_id) for job_id in job_ids), *others])
    if still_open:
        raise _too_long(list(still_open), options)
    rows = board.rows.values()
    if any(row.job.status == JOB_STATE_FAILED for row in rows if not row.problem):
        return ExitCode.BAD
    return ExitCode.CANNOT_TELL if any(row.problem for row in rows) else ExitCode.GOOD


def _give_up(job_id: str, error: CommandError, board: JobBoard, display: Display) -> None:
    """Note why one of several jobs cannot be watched further; say it once if several have the same reason."""
    message = str(error)
    is_said = any(row.problem == message for row in board.rows.values())
    board.rows[job_id].problem = message
    if not is_said:
        display.aside(lambda: tell(message, code=error.code, field=error.field))


def _too_long(job_ids: list[str], options: argparse.Namespace) -> CannotTell:
    more = f" and {len(job_ids) - 1} more have" if len(job_ids) > 1 else " has"
    return CannotTell(
        f"'{job_ids[0]}'{more} not ended within {options.timeout:g} s (--timeout)", code="DEADLINE_EXCEEDED"
    )


class JobWatch:
    """The streams of one command. They show what arrives on one display, and share one outage of the server."""

    def __init__(
        self, options: argparse.Namespace, board: JobBoard, display: Display, retry_seconds: float | None
    ) -> None:
        self._options = options
        self._board = board
        self._display = display
        self._credentials = credentials_of(options)
        self._outage = Outage(options.address, retry_seconds=retry_seconds, is_patient=options.wait)

    def run(self, followers: Sequence[Follower]) -> None:
        """Run until all followers have returned, or for --timeout. Raises what one of them raises."""
        asyncio.run(self._run(followers))

    async def _run(self, followers: Sequence[Follower]) -> None:
        async with connect_async(self._credentials) as channel:
            stub = LogServiceStub(channel)
            tasks = [asyncio.ensure_future(follower(stub)) for follower in followers]
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._options.timeout):
                        await self._until_done(tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_done(self, tasks: "Collection[asyncio.Future[None]]") -> None:
        pending = set(tasks)
        while pending:
            self._display.refresh()
            done, pending = await asyncio.wait(
                pending, timeout=MIN_FRAME_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()

    async def follow_job(self, stub: LogServiceStub, request: WatchJobRequest) -> None:
        """Show every message until the job has ended, over any number of connections. Raises Misuse, CannotTell."""
        resumable = watches.JobWatch(request, Backoff(0, 0))  # the pauses are those of the outage
        has_begun = False

        def take(response: WatchJobResponse, begins: bool) -> None:
            nonlocal has_begun
            has_begun = True
            if resumable.take(response) is None:  # a new connection repeats what is known
                return
            if response.history_truncated:
                self._say(f"some changes of '{response.job.job_id}' are no longer known")
            self._show(response, begins)

        await self._follow(stub.WatchJob, request, take)
        if not has_begun:
            raise CannotTell(f"the server ended the watch of '{request.job_id}' without a word")

    async def follow_filter(self, stub: LogServiceStub, request: WatchJobsRequest) -> None:
        """Show every message, for ever. Raises Misuse, CannotTell."""
        await self._follow(stub.WatchJobs, request, self._show)
        raise CannotTell("the server ended the stream without a word")

    async def _follow(self, method: Any, request: Any, take: Callable[[Any, bool], None]) -> None:
        """Take each message of a stream but heartbeats until the server ends it."""
        is_filter = isinstance(request, WatchJobsRequest)
        while True:
            opened_at, begins = time.monotonic(), True
            try:
                with calling(self._credentials) as metadata:
                    async for response in method(request, metadata=metadata):
                        if self._outage.answered(opened_at) and is_filter:
                            self._say(f"{self._options.address} answers again")
                        if not response.heartbeat:
                            take(response, begins)
                            begins = False
                return
            except grpc.RpcError as error:
                seconds, note = self._outage.pause_after(error, opened_at)
            if note:
                self._say(note)
            await pause(seconds)

    def _show(self, response: WatchJobResponse | WatchJobsResponse, begins: bool) -> None:
        self._display.show(response, self._board.take(response, begins=begins))

    def _say(self, text: str) -> None:
        self._display.aside(lambda: say(text))


async def pause(seconds: float) -> None:
    """Wait before the next connection; a function of its own for tests."""
    await asyncio.sleep(seconds)


@contextmanager
def _display(options: argparse.Namespace, board: JobBoard, most: int | None = None) -> Iterator[Display]:
    if options.json:
        yield Display()
    elif not can_redraw(sys.stdout):
        yield LineDisplay(board.rows)
    else:
        from emitd_cli.jobs.bars import bars_frame

        with live(board, partial(bars_frame, most=most)) as display:
            yield display
