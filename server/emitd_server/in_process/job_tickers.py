"""`JobTickers`: send the news of the jobs that run in this process, and renew their leases.

`emitd.jobs.run_state` decides what a report says. When one is sent is decided here: news after a pause, so that it
coalesces, and a heartbeat if there is a lease and no news.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress

from emitd.errors import EmitError
from emitd.jobs.run_state import JobRunState
from emitd.jobs.ticker import HEARTBEATS_A_LEASE, JobTicker
from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb
from emitd_handlers.diagnostics import Report

#: The least time between two reports that only bring news: the default of watchers too.
TICK_INTERVAL_SECONDS = 0.1

Emit = Callable[[pb.LogRecord], Awaitable[log_service_pb2.Receipt]]


class JobTickers:
    """For the service's event loop; `news` is for any thread. What `SendScheduler` is for a remote client."""

    def __init__(self, emit: Emit, is_running: Callable[[], bool], report: Report) -> None:
        """Send by `emit`, while `is_running` says that the service takes records."""
        self._arguments = emit, is_running, report
        self._senders: dict[JobTicker, _NewsSender] = {}

    def watch(self, ticker: JobTicker) -> None:
        """Send the news of a job that is RUNNING, and keep its lease, until `forget`."""
        self._senders[ticker] = _NewsSender(ticker.run_state, *self._arguments)

    def news(self, ticker: JobTicker) -> None:
        """Send the news of a job, if it is watched, when it is due. From any thread."""
        if (sender := self._senders.get(ticker)) is not None:
            sender.wake()

    def forget(self, ticker: JobTicker) -> None:
        """Send no more for a job. A report under way may still arrive, and is stale if it is late."""
        if (sender := self._senders.pop(ticker, None)) is not None:
            sender.stop()


class _NewsSender:
    def __init__(
        self, run_state: JobRunState, emit: Emit, is_running: Callable[[], bool], report: Report
    ) -> None:
        self._run_state = run_state
        self._emit = emit
        self._is_running = is_running
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._has_news = asyncio.Event()
        self._is_woken = False
        #: Whether news was refused for good, for another reason than its content.
        self._is_refused = False
        self._heartbeat_at: float | None = None
        self._plan_heartbeat()
        self._task = self._loop.create_task(self._run(), name=f"emitd-ticks-{run_state.job_id}")

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop was closed: no task is left to send
                self._loop.call_soon_threadsafe(self._has_news.set)

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        is_due = False
        while not self._run_state.is_lost:
            if not is_due:
                await self._wait_until_due()
            is_due = await self._send()
            self._plan_heartbeat()
            await asyncio.sleep(TICK_INTERVAL_SECONDS)

    async def _wait_until_due(self) -> None:
        while True:
            self._is_woken = False
            self._has_news.clear()
            if self._run_state.has_news and not self._is_refused:
                return
            try:
                async with asyncio.timeout_at(self._heartbeat_at):
                    await self._has_news.wait()
            except TimeoutError:
                if self._is_running():
                    return
                self._plan_heartbeat()

    async def _send(self) -> bool:
        """Send a report; return whether the next one is due without news."""
        try:
            receipt = await self._emit(self._run_state.report(pb.JOB_STATE_RUNNING))
        except EmitError as error:
            self._report(f"news of job '{self._run_state.job_id}' was not taken: {error}")
            if error.retryable:
                # The lease does not wait for news. But a service that has stopped would answer at once, for ever.
                return self._run_state.lease_seconds is not None and self._is_running()
            if self._run_state.withhold_refused():
                return True  # the progress may be taken
            self._is_refused = True
        except Exception:  # a fault of its own: the lease is kept, and the next news is tried
            self._report(
                f"internal error with news of job '{self._run_state.job_id}': {traceback.format_exc()}"
            )
            self._run_state.has_news = False
        else:
            self._run_state.take_notice(receipt.job.stale_reason, receipt.job.cancel_requested)
        return False

    def _plan_heartbeat(self) -> None:
        """Let a report be due by the time that the lease needs it, counted from now."""
        if self._run_state.lease_seconds is not None:
            self._heartbeat_at = self._loop.time() + self._run_state.lease_seconds / HEARTBEATS_A_LEASE
