"""`Ingress`: takes the records that are made in this process, as the gRPC edge takes those of others.

    pb.LogRecord ─> RecordReader ─> Dispatcher.dispatch ─> outcomes ─> receipt

A record passes the same checks and limits as there, and gets the same receipt. All clients of a service share one
ingress.
"""

import asyncio
import math
import time
import traceback
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

from emitd.errors import EmitError, RecordRejected, Unavailable
from emitd.jobs.ticker import JobTicker
from emitd.runtime.backoff import Backoff
from emitd.transport.channel import CallFailed
from emitd.transport.reply import STATUS_DETAILS, is_retryable
from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb
from emitd_handlers.clock import is_set_within
from emitd_handlers.errors import EmitdError, HandlerTimeout
from emitd_handlers.outcome import Committed, Outcome
from emitd_handlers.record import LogRecord
from emitd_server.access.trail import AccessTrail
from emitd_server.convert.records import RecordReader, receipt_to_wire
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.errors import ServiceStopping
from emitd_server.in_process.line_queue import LineQueue
from emitd_server.rpc.audit_servicer import AuditServicer
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.rpc.methods import GRPC_CODES
from emitd_server.rpc.status import status_of

#: How long an awaited record is tried again, while that can help, if its caller does not say.
RETRY_SECONDS = 10.0
BACKOFF = Backoff(initial=0.1, maximum=2.0)
#: How often a batch of log lines is offered again to a committed handler that failed.
MAX_LINE_RETRIES = 5
#: The least time for lines that are logged while the rest is being finished.
LAST_LINES_SECONDS = 0.5

T = TypeVar("T")


class Ingress:
    """Opened and closed by its service."""

    def __init__(self, service: Dispatcher) -> None:
        self.service = service
        self.report = service.report
        #: Records by what became of them: `sent`, `failed` (their callers know), and `dropped_` with the cause.
        self.counts: Counter[str] = Counter()
        #: The event loop of the service, from its start on.
        self._loop: asyncio.AbstractEventLoop | None = None
        self.lines = LineQueue(self._send_lines, self.counts, service.report, service.memory)
        self._reader = RecordReader(service.settings.limits, service.clock.now, service.redactor)
        self._tasks: set[asyncio.Task[Any]] = set()
        # Their streams end with the handlers, and so after the last change of the jobs that end with the application.
        trail = AccessTrail(service.own_events)
        self.servicers = {
            "LogService": LogServicer(service, trail),
            "AuditService": AuditServicer(service, trail),
        }
        self.tickers = JobTickers(self)

    @classmethod
    def of(cls, service: Dispatcher) -> Self:
        """Return the ingress of a service, which all its clients share."""
        ingress = service.producer(lambda: cls(service))
        assert isinstance(ingress, cls)
        return ingress

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in the service's event loop, once the service takes records."""
        self._loop = loop
        self.lines.open(loop)

    def refuse_other_loops(self) -> None:
        """Raise RuntimeError in another event loop than the service's: waiting there might never end."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "await this in the event loop that the service was started in, such as in an `async def` route; "
                "from elsewhere, `asyncio.run_coroutine_threadsafe` brings it there"
            )

    async def flush(self) -> None:
        """Wait until every line logged so far is with its handlers, or counted as dropped."""
        await self.lines.flush(None)

    async def close(self, timeout: float) -> None:
        """Send what there is for at most `timeout` seconds, and give up on the rest."""
        deadline = asyncio.get_running_loop().time() + timeout
        await asyncio.gather(self._finish_tasks(timeout), self.lines.flush(timeout))
        await self.lines.close(max(LAST_LINES_SECONDS, deadline - asyncio.get_running_loop().time()))

    async def _finish_tasks(self, timeout: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Run `work` in a task of its own, which `close` waits for."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def emit(self, record: pb.LogRecord, timeout: float | None = None) -> log_service_pb2.Receipt:
        """Dispatch one record and return its receipt; try again while that can help, for `timeout` seconds.

        Raises the errors of clients. A cancelled caller only ends the waiting: what is being committed will be.
        """
        try:
            receipt = await self._emit(record, RETRY_SECONDS if timeout is None else timeout)
        except EmitdError as error:
            self.counts["failed"] += 1
            raise record_error(error) from error
        self.counts["sent"] += 1
        return receipt

    async def _emit(self, message: pb.LogRecord, timeout: float) -> log_service_pb2.Receipt:
        records, _, bad = self._reader.read_all([message])
        if bad:
            raise bad[0]
        failure: EmitdError = HandlerTimeout(f"no outcome within {timeout:g} s; it may still be committed")
        attempts = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    (outcome,) = await self.service.dispatch(records, message.ByteSize())
                    if isinstance(outcome, Committed):
                        return receipt_to_wire(records[0], outcome, self.service.route(records[0]))
                    failure = outcome.error
                    if failure.retry_after_seconds is None:
                        raise failure
                    attempts += 1
                    await asyncio.sleep(BACKOFF.pause(attempts))
        except TimeoutError:
            raise failure from None

    async def _send_lines(self, lines: Sequence[pb.LogRecord], size: int) -> None:
        records, _, bad = self._reader.read_all(lines)
        for error in bad.values():
            self.lines.drop("invalid", why=str(error))
        for attempt in range(MAX_LINE_RETRIES + 1):
            if not records:
                return
            if attempt:
                await asyncio.sleep(BACKOFF.pause(attempt))
            try:
                records = self._resolve(records, await self.service.dispatch(records, size))
            except ServiceStopping:
                self.lines.drop("closed", len(records))
                return
        self.lines.drop("retries_exhausted", len(records))

    def _resolve(self, records: Sequence[LogRecord], outcomes: Sequence[Outcome]) -> Sequence[LogRecord]:
        """Count what is resolved; return the records that are worth another try."""
        again: list[LogRecord] = []
        for record, outcome in zip(records, outcomes, strict=True):
            if isinstance(outcome, Committed):
                self.counts["sent"] += 1
            elif outcome.error.retry_after_seconds is not None:
                again.append(record)
            else:
                self.lines.drop("refused", why=str(outcome.error))
        return again


def call_failure(error: EmitdError) -> CallFailed:
    """Return an error of the service as a call of a remote client would have failed."""
    status = status_of(error)
    return CallFailed(
        GRPC_CODES[status.code], status.message, ((STATUS_DETAILS, status.SerializeToString()),)
    )


def record_error(error: EmitdError) -> EmitError:
    """Return the client's error for a record that the service refused."""
    if is_retryable(call_failure(error)):
        return Unavailable(str(error), field=error.field)
    return RecordRejected(str(error), field=error.field)


class JobTickers:
    """Send the news of the jobs that run in this process, and renew their leases; `JobTicker` says when.

    For the service's event loop; `news` is for any thread. What `SendScheduler` is for a remote client.
    """

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self._senders: dict[JobTicker, _NewsSender] = {}

    def watch(self, ticker: JobTicker) -> None:
        """Send the news of a job that is RUNNING, and keep its lease, until `forget`."""
        self._senders[ticker] = _NewsSender(ticker, self._ingress)

    def news(self, ticker: JobTicker) -> None:
        """Send the news of a job, if it is watched, when it is due. From any thread."""
        if (sender := self._senders.get(ticker)) is not None:
            sender.wake()

    def forget(self, ticker: JobTicker) -> None:
        """Send no more for a job. A report under way may still arrive, and is stale if it is late."""
        if (sender := self._senders.pop(ticker, None)) is not None:
            sender.stop()


class _NewsSender:
    def __init__(self, ticker: JobTicker, ingress: Ingress) -> None:
        self._ticker = ticker
        self._job_id = ticker.run_state.job_id
        self._ingress = ingress
        self._loop = asyncio.get_running_loop()
        self._has_news = asyncio.Event()
        self._is_woken = False
        #: Why the last news was refused; it is reported once.
        self._refusal = ""
        ticker.start()
        self._task = self._loop.create_task(self._run(), name=f"emitd-ticks-{self._job_id}")

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop was closed: no task is left to send
                self._loop.call_soon_threadsafe(self._has_news.set)

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        due = math.inf
        while not self._ticker.run_state.is_lost:
            self._is_woken = False
            self._has_news.clear()
            due = min(due, self._ticker.next_due())
            if due > time.monotonic():
                await is_set_within(self._has_news, due - time.monotonic())
            elif self._ticker.has_news or self._ingress.service.is_running:
                due = await self._send()
            else:  # a service that has stopped would refuse each heartbeat
                self._ticker.start()
                due = math.inf

    async def _send(self) -> float:
        """Send a report; return when the next one is due without news and for the lease."""
        try:
            return self._ticker.accept(await self._ingress.emit(self._ticker.make()))
        except EmitError as error:
            if error.retryable or str(error) != self._refusal:
                self._ingress.report(f"news of job '{self._job_id}' was not taken: {error}")
            if not error.retryable:
                self._refusal = str(error)
                return self._ticker.reject(error)
            # The lease does not wait for news. But a service that has stopped would answer at once, for ever.
            has_lease = self._ticker.run_state.lease_seconds is not None
            return (
                time.monotonic() + self._ticker.interval
                if has_lease and self._ingress.service.is_running
                else math.inf
            )
        except Exception:  # a fault of its own: the lease is kept, and the next news is tried
            self._ingress.report(
                f"internal error with news of job '{self._job_id}': {traceback.format_exc()}"
            )
            return math.inf
