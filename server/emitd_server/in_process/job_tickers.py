"""`JobTickers`: send the news of the jobs that run in this process, and renew their leases. `JobTicker` says when."""

import asyncio
import math
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress

from emitd.errors import EmitError
from emitd.jobs.ticker import JobTicker
from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb
from emitd_handlers.diagnostics import Report

Emit = Callable[[pb.LogRecord], Awaitable[log_service_pb2.Receipt]]


class JobTickers:
    """For the service's event loop; `news` is for any thread. What `SendScheduler` is for a remote client."""

    def __init__(self, emit: Emit, is_running: Callable[[], bool], report: Report) -> None:
        """Send by `emit`, while `is_running` says that the service takes records."""
        self._arguments = emit, is_running, report
        self._senders: dict[JobTicker, _NewsSender] = {}

    def watch(self, ticker: JobTicker) -> None:
        """Send the news of a job that is RUNNING, and keep its lease, until `forget`."""
        self._senders[ticker] = _NewsSender(ticker, *self._arguments)

    def news(self, ticker: JobTicker) -> None:
        """Send the news of a job, if it is watched, when it is due. From any thread."""
        if (sender := self._senders.get(ticker)) is not None:
            sender.wake()

    def forget(self, ticker: JobTicker) -> None:
        """Send no more for a job. A report under way may still arrive, and is stale if it is late."""
        if (sender := self._senders.pop(ticker, None)) is not None:
            sender.stop()


class _NewsSender:
    def __init__(self, ticker: JobTicker, emit: Emit, is_running: Callable[[], bool], report: Report) -> None:
        self._ticker = ticker
        self._job_id = ticker.run_state.job_id
        self._emit = emit
        self._is_running = is_running
        self._report = report
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
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._has_news.wait(), due - time.monotonic())
            elif self._ticker.has_news or self._is_running():
                due = await self._send()
            else:  # a service that has stopped would refuse each heartbeat
                self._ticker.start()
                due = math.inf

    async def _send(self) -> float:
        """Send a report; return when the next one is due without news and for the lease."""
        try:
            return self._ticker.accept(await self._emit(self._ticker.make()))
        except EmitError as error:
            if error.retryable or str(error) != self._refusal:
                self._report(f"news of job '{self._job_id}' was not taken: {error}")
            if not error.retryable:
                self._refusal = str(error)
                return self._ticker.reject(error)
            # The lease does not wait for news. But a service that has stopped would answer at once, for ever.
            has_lease = self._ticker.run_state.lease_seconds is not None
            return time.monotonic() + self._ticker.interval if has_lease and self._is_running() else math.inf
        except Exception:  # a fault of its own: the lease is kept, and the next news is tried
            self._report(f"internal error with news of job '{self._job_id}': {traceback.format_exc()}")
            return math.inf
