"""`RemoteJob`: reports one run of a job to a server, for `async with`; implements `emitd.AsyncJobReporter`."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from emitd.errors import EmitError, LeaseLost
from emitd.jobs.reporter import JobVerbs
from emitd.jobs.run_state import JobRunState
from emitd.jobs.run_steps import begin, drive_async, end
from emitd.receipt import Receipt
from emitd.sending.engine import Engine
from emitd.v1 import record_pb2 as pb

if TYPE_CHECKING:
    from emitd.interface import AsyncJobReporter

__all__ = ["RemoteJob"]


class RemoteJob(JobVerbs):
    """One run of a job; the docstrings of `emitd.AsyncJobReporter` are the contract."""

    def __init__(
        self,
        engine: Engine,
        run_state: JobRunState,
        send: Callable[[pb.LogRecord, bool], Awaitable[Receipt]],
        spawn: "Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]",
    ) -> None:
        """Send by `send`: a record, and whether it may be spooled. The client's end awaits what `spawn` begins."""
        super().__init__(engine, run_state)
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
        self._engine.events.watch(self._run_state)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Report the end."""
        if not self._is_ours():
            return
        self._engine.events.forget(self._run_state)
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
        """Tell what nobody waits for any more."""
        if not task.cancelled() and isinstance(error := task.exception(), EmitError):
            self._say_unreported(error)


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncJobReporter] = RemoteJob
