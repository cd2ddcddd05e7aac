"""`JobReporter` and `RemoteJob`: report one run of a job to a server, for `with` and for `async with`.

    with client.job("sync-42", "sync", total=1000) as job:
        for row in rows:
            store(row)
            job.advance()

Made by `LogClient.job` and `AsyncLogClient.job`. `emitd.AsyncJobReporter` is the contract of both.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Self, SupportsFloat

from emitd.errors import EmitError, LeaseLost
from emitd.jobs.run_state import begin, drive, drive_async, end
from emitd.jobs.ticker import JobTicker
from emitd.receipt import Receipt
from emitd.sending.engine import Engine
from emitd.v1 import record_pb2 as pb

if TYPE_CHECKING:
    from emitd.jobs.interface import AsyncJobReporter


class JobVerbs:
    """The plain calls of both reporters, for any thread. In a forked child they do nothing: the run is its parent's."""

    def __init__(self, engine: Engine, ticker: JobTicker) -> None:
        self._engine = engine
        self._ticker = ticker
        self._run_state = ticker.run_state
        self._process_id = os.getpid()
        self._is_entered = False

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._run_state.job_id

    @property
    def attempt(self) -> int:
        """Which run of the job this is, from 1; 0 before it was opened."""
        return self._run_state.attempt

    @property
    def cancel_requested(self) -> bool:
        """Whether the job was asked to stop, as far as the answers to its reports say."""
        return self._run_state.cancel_requested

    def refuse_if_lost(self) -> None:
        """Raise LeaseLost if the job is lost."""
        self._run_state.refuse_if_lost()

    def advance(self, steps: SupportsFloat = 1, /) -> None:
        """Note that further steps of `total` are done."""
        if self._is_ours():
            self._run_state.advance(steps)

    def progress(self, percent: SupportsFloat, /) -> None:
        """Note the progress, in percent."""
        if self._is_ours():
            self._run_state.progress(percent)

    def message(self, text: str, /) -> None:
        """Note what the job is doing, for people."""
        if self._is_ours():
            self._run_state.message(text)

    def details(self, details: Mapping[str, object], /) -> None:
        """Note the job's own data; it replaces the earlier data."""
        if self._is_ours():
            self._run_state.details(details)

    def _is_ours(self) -> bool:
        return os.getpid() == self._process_id

    def _enter(self) -> None:
        # The run is of the process that begins it: a reporter may be handed to a forked child.
        self._is_entered, self._process_id = True, os.getpid()

    def _refuse_second_run(self) -> None:
        self._engine.refuse_if_closed()
        if self._is_entered:
            raise RuntimeError(f"job '{self.job_id}': a reporter is for one run; make another")

    def _refuse_second_opening(self) -> None:
        self._engine.refuse_if_closed()
        if self.attempt:
            raise RuntimeError(f"job '{self.job_id}': its attempt {self.attempt} is open already")

    def _say_unreported(self, error: EmitError) -> None:
        self._engine.report_line(f"the end of job '{self.job_id}' could not be reported: {error}")


class JobReporter(JobVerbs):
    """One run of a job: what `emitd.AsyncJobReporter` is, for `with`."""

    def __init__(
        self, engine: Engine, ticker: JobTicker, send: Callable[[pb.LogRecord, bool], Receipt]
    ) -> None:
        """Send by `send`: a record, and whether it may be spooled."""
        super().__init__(engine, ticker)
        self._send = send
        self._lock = threading.Lock()

    def queued(self) -> None:
        """Open the attempt with QUEUED."""
        self._refuse_second_opening()
        drive(begin(self._run_state, pb.JOB_STATE_QUEUED), lambda record: self._send(record, False))

    def __enter__(self) -> Self:
        """Report RUNNING."""
        with self._lock:
            self._refuse_second_run()
            self._enter()
        drive(begin(self._run_state, pb.JOB_STATE_RUNNING), lambda record: self._send(record, False))
        self._engine.events.watch(self._ticker)
        return self

    def __exit__(self, kind: object, exception: BaseException | None, trace: object, /) -> None:
        """Report the end."""
        if not self._is_ours():
            return
        self._engine.events.forget(self._ticker)
        try:
            drive(end(self._run_state, exception), lambda record: self._send(record, True))
        except EmitError as error:
            if exception is None:
                raise
            if not isinstance(exception, LeaseLost):  # else it is known
                self._say_unreported(error)


class RemoteJob(JobVerbs):
    """One run of a job: an `emitd.AsyncJobReporter`."""

    def __init__(
        self,
        engine: Engine,
        ticker: JobTicker,
        send: Callable[[pb.LogRecord, bool], Awaitable[Receipt]],
        spawn: "Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]",
    ) -> None:
        """Send by `send`: a record, and whether it may be spooled. The client's end awaits what `spawn` begins."""
        super().__init__(engine, ticker)
        self._send = send
        self._spawn = spawn

    async def queued(self) -> None:
        """Open the attempt with QUEUED."""
        self._refuse_second_opening()
        await self._begin(pb.JOB_STATE_QUEUED)

    async def __aenter__(self) -> Self:
        """Report RUNNING."""
        self._refuse_second_run()
        self._enter()
        begun = self._spawn(self._begin(pb.JOB_STATE_RUNNING), f"emitd-job-{self.job_id}")
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError as error:
            # Whether it is RUNNING by now or not: nobody will be there to end it.
            ended = self._spawn(self._end_after(begun, error), f"emitd-job-{self.job_id}")
            ended.add_done_callback(self._tell_failure)
            raise
        self._engine.events.watch(self._ticker)
        return self

    async def __aexit__(self, kind: object, exception: BaseException | None, trace: object, /) -> None:
        """Report the end."""
        if not self._is_ours():
            return
        self._engine.events.forget(self._ticker)
        # In a task of its own: cancelled once more, only the waiting ends.
        ended = self._spawn(self._end(exception), f"emitd-job-{self.job_id}")
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            ended.add_done_callback(self._tell_failure)
            raise
        except EmitError as error:
            if exception is None:
                raise
            if not isinstance(exception, LeaseLost):  # else it is known
                self._say_unreported(error)

    async def _begin(self, status: pb.JobState) -> None:
        await drive_async(begin(self._run_state, status), lambda record: self._send(record, False))

    async def _end(self, exception: BaseException | None) -> None:
        await drive_async(end(self._run_state, exception), lambda record: self._send(record, True))

    async def _end_after(self, begun: "asyncio.Task[None]", error: BaseException) -> None:
        await asyncio.wait([begun])
        if begun.exception() is None:
            await self._end(error)

    def _tell_failure(self, task: "asyncio.Task[None]") -> None:
        """Report a failure for which nobody waits."""
        if not task.cancelled() and isinstance(error := task.exception(), EmitError):
            self._say_unreported(error)


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncJobReporter] = RemoteJob
