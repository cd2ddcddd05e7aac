"""`InProcessJob`: reports one run of a job to the service of this process; implements `emitd.AsyncJobReporter`.

`emitd.jobs.run_state` decides what the reports say, and `emitd.jobs.run_state` how a run begins and ends. When
reports are sent in between is decided here: news after a pause, so that it coalesces, and where there is a lease and
no news, a heartbeat.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from emitd.errors import EmitError, LeaseLost
from emitd.jobs.run_state import JobRunState, Steps, begin, drive_async, end
from emitd.receipt import Receipt, ReceiptState
from emitd.v1 import record_pb2 as pb
from emitd_server.in_process.ingress import Ingress

if TYPE_CHECKING:
    from emitd.interface import AsyncJobReporter

__all__ = ["InProcessJob"]

#: The least time between two reports that only bring news; as often as watchers are told by default.
TICK_INTERVAL_SECONDS = 0.1
#: How many times within its length a lease is renewed: two reports may fail before it runs out.
HEARTBEATS_A_LEASE = 3


class InProcessJob:
    """One run of a job, for `async with`; the docstrings of `emitd.AsyncJobReporter` are the contract."""

    def __init__(
        self,
        intake: Ingress,
        refuse_if_closed: Callable[[], None],
        envelope: pb.LogRecord,
        job_id: str,
        job_type: str,
        *,
        total: int | None,
        lease: int | None,
        labels: Mapping[str, str] | None,
        details: Mapping[str, object] | None,
    ) -> None:
        """Report through `intake`; `envelope` has what every report of this job carries.

        `refuse_if_closed` raises for a job that is begun too early or too late. One that has begun ends, also after
        its client was closed. Raises ValueError and TypeError.
        """
        self._intake = intake
        self._refuse_if_closed = refuse_if_closed
        self._run_state = JobRunState(
            job_id,
            job_type,
            total=total,
            labels=labels,
            details=details,
            lease=lease,
            envelope=envelope,
            on_news=self._wake,
        )
        # What decides whether there is a task for the news, which any thread may ask for, stands under the lock.
        self._lock = threading.RLock()
        self._is_running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = False
        self._ticks: asyncio.Task[None] | None = None
        #: Whether a report is due although there is no news.
        self._heartbeat_due = False
        self._heartbeat: asyncio.TimerHandle | None = None
        #: Whether news was refused for good, for another reason than what it said.
        self._news_refused = False

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._run_state.job_id

    @property
    def attempt(self) -> int:
        """Which run of the job this is; 0 before it was opened."""
        return self._run_state.attempt

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody wishes that the job stop."""
        return self._run_state.cancel_requested

    def refuse_if_lost(self) -> None:
        """Raise LeaseLost if the job is lost."""
        self._run_state.refuse_if_lost()

    async def queued(self) -> None:
        """Open the attempt with QUEUED."""
        self._refuse_if_closed()
        if self.attempt:
            raise RuntimeError(f"job '{self.job_id}': its attempt {self.attempt} is open already")
        await self._drive(begin(self._run_state, pb.JOB_STATE_QUEUED))

    def advance(self, steps: int = 1, /) -> None:
        """Note so many more steps done."""
        self._run_state.advance(steps)

    def progress(self, percent: float, /) -> None:
        """Note the progress."""
        self._run_state.progress(percent)

    def message(self, text: str, /) -> None:
        """Note what the job is doing."""
        self._run_state.message(text)

    def details(self, details: Mapping[str, object], /) -> None:
        """Note the job's own data."""
        self._run_state.details(details)

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError(f"job '{self.job_id}': a reporter is for one run; make another")
        self._refuse_if_closed()
        self._loop = asyncio.get_running_loop()
        begun = self._spawn(self._drive(begin(self._run_state, pb.JOB_STATE_RUNNING)))
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError as error:
            # Whether it is RUNNING by now or not: nobody will be there to end it.
            self._spawn(self._end_after(begun, error))
            raise
        with self._lock:
            self._is_running = True
        self._plan_heartbeat()
        if self._run_state.has_news:
            self._wake()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        # In a task of its own: cancelled once more, only the waiting ends.
        ended = self._spawn(self._end(exception))
        try:
            await asyncio.shield(ended)
        except EmitError as error:
            if exception is None:
                raise
            if not isinstance(exception, LeaseLost):  # which says it itself
                self._intake.report(f"the end of job '{self.job_id}' could not be reported: {error}")

    async def _end_after(self, begun: "asyncio.Task[None]", error: BaseException) -> None:
        await asyncio.wait([begun])
        if begun.exception() is None:
            await self._end(error)

    async def _end(self, exception: BaseException | None) -> None:
        await self._stop_ticking()
        await self._drive(end(self._run_state, exception))

    async def _drive(self, steps: Steps) -> None:
        await drive_async(steps, self._send)

    async def _send(self, record: pb.LogRecord) -> Receipt:
        return Receipt(ReceiptState.COMMITTED, await self._intake.emit(record))

    def _wake(self) -> None:
        """See to it that what is due is sent, if it is not on its way already. From any thread."""
        with self._lock:
            if not self._is_running or self._ticking:
                return
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop was closed under us: nobody is left to send
                self._loop.call_soon_threadsafe(self._start_ticking)
                self._ticking = True

    def _start_ticking(self) -> None:
        with self._lock:
            if self._is_running:
                self._ticks = self._spawn(self._tick())

    async def _stop_ticking(self) -> None:
        with self._lock:
            self._is_running = False
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._ticks is not None:
            self._ticks.cancel()  # what it is sending may still arrive, and is stale if it is late
            await asyncio.wait([self._ticks])

    async def _tick(self) -> None:
        """Send what is due, again and again while there is some. Trouble is told, and left to the next report."""
        while self._still_due():
            self._heartbeat_due = False
            try:
                receipt = await self._send(self._run_state.report(pb.JOB_STATE_RUNNING))
                self._run_state.take_notice(receipt.job.stale_reason, receipt.job.cancel_requested)
            except EmitError as error:
                self._intake.report(f"news of job '{self.job_id}' was not taken: {error}")
                self._take_failure(error)
            self._plan_heartbeat()
            await asyncio.sleep(TICK_INTERVAL_SECONDS)

    def _take_failure(self, error: EmitError) -> None:
        if error.retryable:
            # The lease does not wait for news; but what has stopped answers at once, and would be asked in a circle.
            self._heartbeat_due = (
                self._run_state.lease_seconds is not None and self._intake.service.is_running
            )
        elif self._run_state.withhold_refused():
            self._heartbeat_due = True  # the progress may be taken
        else:
            self._news_refused = True

    def _still_due(self) -> bool:
        with self._lock:
            has_news = self._run_state.has_news and not self._news_refused
            is_due = (has_news or self._heartbeat_due) and not self._run_state.is_lost
            self._ticking = is_due and self._is_running
            return self._ticking

    def _plan_heartbeat(self) -> None:
        """Let a report be due by the time that the lease needs it, counted from now."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._run_state.lease_seconds is not None:
            assert self._loop is not None
            interval_seconds = self._run_state.lease_seconds / HEARTBEATS_A_LEASE
            self._heartbeat = self._loop.call_later(interval_seconds, self._beat)

    def _beat(self) -> None:
        if not self._intake.service.is_running:
            self._plan_heartbeat()
            return
        self._heartbeat_due = True
        self._wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._intake.spawn(work, f"emitd-job-{self.job_id}")


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncJobReporter] = InProcessJob
