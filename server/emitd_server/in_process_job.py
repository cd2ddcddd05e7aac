"""`InProcessJob`: reports one run of a job to the service of this process; implements `emitd.AsyncJobReporter`.

Every report carries the whole current state (progress, message, details), so that a report that was left out, or
merged into the next, takes nothing away.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from emitd.errors import EmitError, JobNotApplied, RecordRejected
from emitd.json_encoding import as_field, as_text, encode_details
from emitd.v1 import record_pb2 as pb
from emitd_handlers.uuid7 import uuid7
from emitd_server.intake import Intake

if TYPE_CHECKING:
    from emitd.interface import AsyncJobReporter

__all__ = ["InProcessJob"]

#: The least time between two reports that only bring news; as often as watchers are told by default.
TICK_INTERVAL_SECONDS = 0.1
#: Texts are cut to so many characters: a report must not fail for its own length.
MAX_REASON_CHARACTERS = 60
MAX_FAILURE_CHARACTERS = 4_000
MAX_MESSAGE_CHARACTERS = 4_000
#: The reason of a job whose task was cancelled.
CANCELLED = "CANCELLED"


class InProcessJob:
    """One run of a job, for `async with`; the docstrings of `emitd.AsyncJobReporter` are the contract."""

    def __init__(
        self,
        intake: Intake,
        refuse_if_closed: Callable[[], None],
        envelope: pb.LogRecord,
        job_id: str,
        job_type: str,
        *,
        total: int | None,
        labels: Mapping[str, str],
        details_json: str,
    ) -> None:
        """Report through `intake`; `envelope` has what every report of this job carries.

        `refuse_if_closed` raises for a job that is begun too early or too late. One that has begun ends, also after
        its client was closed.
        """
        if total is not None and total < 1:
            raise ValueError(f"total: {total} is not a number of steps; expected at least 1")
        self._intake = intake
        self._refuse_if_closed = refuse_if_closed
        self._envelope = envelope
        self._job_id = as_field(job_id)
        self._job_type = as_field(job_type)
        self._labels = {as_text(key): as_text(value) for key, value in labels.items()}
        self._attempt = 0
        self._total = total
        # What is noted by plain calls, from any thread, stands under the lock.
        self._lock = threading.RLock()
        self._steps = 0
        self._progress: int | None = None
        self._message = ""
        self._details_json = details_json
        self._has_news = False
        self._is_running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = False
        self._ticks: asyncio.Task[None] | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._job_id

    @property
    def attempt(self) -> int:
        """Which run of the job this is; 0 before it was opened."""
        return self._attempt

    async def queued(self) -> None:
        """Open the attempt with QUEUED."""
        self._refuse_if_closed()
        if self._attempt:
            raise RuntimeError(f"job '{self._job_id}': its attempt {self._attempt} is open already")
        await self._report(pb.JOB_STATE_QUEUED)

    def advance(self, steps: int = 1, /) -> None:
        """Note so many more steps done."""
        if self._total is None:
            raise ValueError(f"job '{self._job_id}' was made without `total`: use `progress`")
        with self._lock:
            self._steps += steps
            self._note_progress(min(max(100 * self._steps // self._total, 0), 100))

    def progress(self, percent: float, /) -> None:
        """Note the progress."""
        if not 0 <= percent <= 100:
            raise ValueError(f"percent: {percent} is not from 0 to 100")
        with self._lock:
            self._note_progress(int(percent))

    def message(self, text: str, /) -> None:
        """Note what the job is doing."""
        with self._lock:
            self._message = as_text(text)[:MAX_MESSAGE_CHARACTERS]
            self._wake()

    def details(self, details: Mapping[str, object], /) -> None:
        """Note the job's own data."""
        details_json = encode_details(details)
        with self._lock:
            self._details_json = details_json
            self._wake()

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError(f"job '{self._job_id}': a reporter is for one run; make another")
        self._refuse_if_closed()
        self._loop = asyncio.get_running_loop()
        begun = self._spawn(self._report(pb.JOB_STATE_RUNNING))
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError as error:
            # Whether it is RUNNING by now or not: nobody will be there to end it.
            self._spawn(self._end_after(begun, error))
            raise
        with self._lock:
            self._is_running = True
            if self._has_news:
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
            self._intake.report(f"the end of job '{self._job_id}' could not be reported: {error}")

    async def _end_after(self, begun: "asyncio.Task[None]", error: BaseException) -> None:
        await asyncio.wait([begun])
        if begun.exception() is None:
            await self._end(error)

    async def _end(self, exception: BaseException | None) -> None:
        """Stop the ticks, then report COMPLETED or FAILED.

        Where the last news is refused for good, the job ends as FAILED without it, and the refusal is raised.
        """
        with self._lock:
            self._is_running = False
        if self._ticks is not None:
            self._ticks.cancel()  # what it is sending may still arrive, and is stale if it is late
            await asyncio.wait([self._ticks])
        try:
            if exception is None:
                await self._report(pb.JOB_STATE_COMPLETED)
            else:
                await self._report_failure(exception)
        except RecordRejected as error:
            with self._lock:  # what the job has is kept by a report without a text of its own
                self._message = self._details_json = ""
            await self._report_failure(exception or error)
            raise

    async def _report_failure(self, exception: BaseException) -> None:
        reason = as_text(type(exception).__name__)[:MAX_REASON_CHARACTERS]
        if isinstance(exception, asyncio.CancelledError):
            reason = CANCELLED
        await self._report(pb.JOB_STATE_FAILED, reason, _failure_message(exception))

    async def _report(self, status: pb.JobState, failure_reason: str = "", failure_message: str = "") -> None:
        """Send the current state. Raises JobNotApplied if that changed nothing, and what `emit` raises."""
        with self._lock:
            self._has_news = False
            progress = None if status == pb.JOB_STATE_COMPLETED else self._progress
            job = pb.JobStatus(
                job_id=self._job_id,
                job_type=self._job_type,
                status=status,
                progress=progress,
                details_json=self._details_json,
                labels=self._labels,
                failure_reason=failure_reason,
                failure_message=failure_message,
                attempt=self._attempt,
                new_attempt=not self._attempt,
            )
            record = pb.LogRecord(record_id=uuid7(), message=self._message, job=job)
        record.MergeFrom(self._envelope)
        receipt = await self._intake.emit(record)
        if receipt.job.stale_reason:
            raise JobNotApplied(self._job_id, receipt.job.stale_reason)
        if not self._attempt:
            self._attempt = receipt.job.attempt

    def _note_progress(self, percent: int) -> None:
        if percent != self._progress:
            self._progress = percent
            self._wake()

    def _wake(self) -> None:
        """See to it that the news is sent, if it is not on its way already."""
        self._has_news = True
        if self._is_running and not self._ticking:
            assert self._loop is not None
            self._ticking = True
            self._loop.call_soon_threadsafe(self._start_ticking)

    def _start_ticking(self) -> None:
        with self._lock:
            if self._is_running:
                self._ticks = self._spawn(self._tick())

    async def _tick(self) -> None:
        """Send the news, again and again while there is some. Trouble is told, and left to the last report."""
        while self._still_has_news():
            try:
                await self._report(pb.JOB_STATE_RUNNING)
            except EmitError as error:
                self._intake.report(f"news of job '{self._job_id}' was not taken: {error}")
                if not error.retryable:
                    return  # and no more ticks: `_ticking` stays set
            await asyncio.sleep(TICK_INTERVAL_SECONDS)

    def _still_has_news(self) -> bool:
        with self._lock:
            self._ticking = self._has_news and self._is_running
            return self._ticking

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._intake.spawn(work, f"emitd-job-{self._job_id}")


def _failure_message(exception: BaseException) -> str:
    try:
        return as_text(str(exception))[:MAX_FAILURE_CHARACTERS]
    except Exception as error:  # somebody's __str__
        return f"<its text could not be made: {type(error).__name__}>"


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncJobReporter] = InProcessJob
