"""`JobSenders`: whoever reports on jobs in a simulation, or asks for them to be cancelled."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.record import JobStatus, LogRecord
from support.jobs.random_reports import JOB_IDS, RandomReports, in_short
from support.jobs.simulated import SimulatedSqlite, check_answer

__all__ = ["JobSenders"]


class JobSenders:
    """They send to `handler`, which changes with each restart, and hold each answer against the model."""

    def __init__(
        self, database: SimulatedSqlite, random: Random, note: Callable[[str, object], None]
    ) -> None:
        """`note(what, detail)` is told what they do."""
        self.handler: DatabaseJobHandler
        #: Those who work or wait for an answer.
        self.sending: set[asyncio.Task[None]] = set()
        self._database = database
        self._random = random
        self._note = note
        self._reports = RandomReports(random)
        self._problems: list[BaseException] = []

    async def report(self) -> None:
        """Send a batch, and mostly do not wait for the answer."""
        model, now = self._database.model, self._database.now()
        task = self._send(
            [self._reports.make(model, now) for _ in range(self._random.choice([1, 1, 1, 2, 6]))]
        )
        if self._random.random() < 0.3:
            await asyncio.wait([task])

    async def begin_work(self) -> None:
        """Let a worker report on a job for a while, always within its lease."""
        self._start(self._work(self._random.choice(JOB_IDS), self._random.choice([0.5, 1.2, 1.9])))

    async def request_cancel(self) -> None:
        """Ask for a job to be cancelled, and do not wait for the answer."""
        reason = self._random.choice(["", "too slow"])
        self._note("cancel", reason)
        self._start(self._request_cancel(self._random.choice(JOB_IDS), reason))

    async def wait(self) -> None:
        """Wait until all have their answers."""
        while self.sending:
            await asyncio.wait(self.sending)

    def cancel(self) -> Sequence[asyncio.Task[None]]:
        """End all of them, as if their connections were lost; return those that are ending."""
        sending = list(self.sending)
        for task in sending:
            task.cancel()
        return sending

    def check(self) -> None:
        """Raise what they have found wrong."""
        if self._problems:
            raise self._problems[0]

    async def _work(self, job_id: str, interval: float) -> None:
        for _ in range(self._random.randint(1, 20)):
            self._send([self._reports.make_tick(self._database.model, self._database.now(), job_id)])
            await asyncio.sleep(interval)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="sender")
        self.sending.add(task)
        task.add_done_callback(self._on_end)
        return task

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self.sending.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._problems.append(error)

    def _send(self, records: Sequence[LogRecord]) -> asyncio.Task[None]:
        for record in records:
            assert isinstance(record.payload, JobStatus)
            self._database.submitted[record.received_unix_nano] = (
                record.payload.job_id,
                self._database.now(),
            )
            self._note("report", in_short(record))
        return self._start(self._emit(records))

    async def _emit(self, records: Sequence[LogRecord]) -> None:
        try:
            outcomes = await self.handler.emit_batch(records)
        except HandlerUnavailable as error:
            self._note("unavailable", error)
            for record in records:
                self._database.submitted.pop(record.received_unix_nano, None)
            return
        for record, outcome in zip(records, outcomes, strict=True):
            answer = self._database.answers.pop(record.received_unix_nano)
            check_answer(record, answer, outcome)
            if not answer.refused:
                assert isinstance(record.payload, JobStatus)
                self._database.model.raise_floor(record.payload.job_id, answer.life, answer.revision)

    async def _request_cancel(self, job_id: str, reason: str) -> None:
        try:
            job = await self.handler.request_cancel(job_id, reason)
            assert job is None or job.cancel_requested or job.status.ended
        except HandlerUnavailable as error:
            self._note("unavailable", error)
