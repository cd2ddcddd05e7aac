"""`AsyncLogClient`: what `LogClient` is, for asyncio. It implements `emitd.AsyncLogger`, which is the contract.

    async with AsyncLogClient(source="shop") as client:
        client.info("order taken", order=17)
        await client.audit("order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17})

The threads of `LogClient` send the records. Reading goes by grpc.aio: a thousand watches need no thousand threads.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401  # now, not with the first call that blocks
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, SupportsFloat, TypeVar, Unpack, cast

import grpc

from emitd import line_requests, requests
from emitd.base_client import LogVerbs
from emitd.errors import Unavailable
from emitd.jobs.interface import DEFAULT_LEASE_SECONDS
from emitd.jobs.reporter import RemoteJob
from emitd.jobs.run_state import drive_async
from emitd.jobs.track import AsyncTrack
from emitd.receipt import Receipt, ReceiptState, check_receipt, place_of
from emitd.records.audit import audit_record
from emitd.transport.async_reader import AsyncReader
from emitd.v1 import audit_service_pb2 as audit_pb
from emitd.v1 import job_pb2
from emitd.v1 import log_line_pb2 as log_lines_pb
from emitd.v1 import record_pb2 as pb
from emitd.watches import AuditTail, JobsWatch, JobWatch, LogTail, OnOutage, Watch

if TYPE_CHECKING:
    from emitd import v1
    from emitd.interface import AsyncLogger

__all__ = ["AsyncLogClient"]

T = TypeVar("T")


class AsyncLogClient(LogVerbs):
    """Plain calls from any thread, awaited ones from one event loop: that of the first. See `emitd.AsyncLogger`."""

    def _prepare(self) -> None:
        self._reader = AsyncReader(self._settings, self._engine.refuse_if_closed, self._engine.credentials)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tracks: weakref.WeakSet[AsyncTrack[Any]] = weakref.WeakSet()

    async def audit(
        self,
        event_name: str,
        *,
        user_id: str,
        source_ip: str = "unknown",
        details: Mapping[str, object] | None = None,
        message: str = "",
        record_id: str = "",
        time_unix_nano: int = 0,
        timeout: float | None = None,
        require_commit: bool = False,
    ) -> Receipt:
        """Send an audit event, and return the receipt when it is committed or spooled.

        A caller that is cancelled only stops waiting. If the event can neither be committed nor spooled then, it is
        dropped, as `abandoned`.
        """
        record = audit_record(
            event_name,
            user_id=user_id,
            source_ip=source_ip,
            details=details,
            message=message,
            record_id=record_id,
            time_unix_nano=time_unix_nano,
            source=self._settings.source,
            bound=self._bound,
        )
        sending = self._spawn(self._send(record, timeout, may_spool=not require_commit), "emitd-audit")
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:  # only the waiting ends: what happened is to be in the trail
            sending.add_done_callback(self._note_abandoned)
            raise

    def job(
        self,
        job_id: str,
        job_type: str,
        *,
        total: SupportsFloat | None = None,
        lease: int | None = DEFAULT_LEASE_SECONDS,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> RemoteJob:
        """Return the reporter of one run of a job."""
        ticker = self._ticker(job_id, job_type, total=total, lease=lease, labels=labels, details=details)
        return RemoteJob(self._engine, ticker, self._send_report, self._spawn)

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        job_type: str,
        job_id: str | None = None,
        total: SupportsFloat | None = None,
        lease: int | None = DEFAULT_LEASE_SECONDS,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncTrack[T]:
        """Return an iterator over `items` that reports them as a job."""

        def make_job(job_id: str, total: SupportsFloat | None) -> RemoteJob:
            return self.job(job_id, job_type, total=total, lease=lease, labels=labels)

        track = AsyncTrack(items, make_job, self._spawn, job_id=job_id, total=total)
        self._tracks.add(track)
        return track

    async def get_job(self, job_id: str) -> job_pb2.Job | None:
        """Return a job as it stands, or None."""
        return await drive_async(requests.get_job(job_id), self._ask)

    async def list_jobs(
        self,
        *,
        job_type: str = "",
        statuses: Iterable[str] = (),
        updated_after_unix_nano: int = 0,
        page_size: int = 100,
        job_ids: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[job_pb2.Job, None]:
        """Yield jobs, newest first. See `LogClient.list_jobs`."""
        call = requests.list_jobs(job_type, statuses, updated_after_unix_nano, page_size, job_ids, labels)
        async for page in self._pages(call):
            for job in page.jobs:
                yield job

    def watch_job(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        wait_for_creation: bool = False,
        follow: bool = False,
        min_interval_ms: int = 0,
        on_outage: OnOutage | None = None,
    ) -> AsyncGenerator[job_pb2.WatchJobResponse, None]:
        """See `LogClient.watch_job`."""
        make_request = partial(
            requests.watch_request,
            job_id,
            after_revision=after_revision,
            wait_for_creation=wait_for_creation,
            follow=follow,
            min_interval_ms=min_interval_ms,
        )
        return self._follow(JobWatch, make_request, on_outage)

    def watch_jobs(
        self, *, on_outage: OnOutage | None = None, **jobs: Unpack[requests.JobsFilter]
    ) -> AsyncGenerator[job_pb2.WatchJobsResponse, None]:
        """See `LogClient.watch_jobs`."""
        return self._follow(JobsWatch, partial(requests.watch_jobs_request, **jobs), on_outage)

    async def job_history(self, job_id: str, *, after_revision: int = 0) -> requests.JobHistory:
        """See `LogClient.job_history`."""
        return await drive_async(requests.job_history(job_id, after_revision), self._ask)

    async def request_cancel(self, job_id: str, reason: str = "") -> job_pb2.Job:
        """See `LogClient.request_cancel`."""
        return (await self._ask(requests.request_cancel(job_id, reason))).job

    async def audit_events(
        self, **events: Unpack[requests.AuditQuery]
    ) -> AsyncGenerator[audit_pb.AuditEntry, None]:
        """See `LogClient.audit_events`."""
        async for page in self._pages(requests.audit_events(**events)):
            for entry in page.entries:
                yield entry

    def tail_audit_events(
        self,
        *,
        from_index: int | None = None,
        on_outage: OnOutage | None = None,
        **events: Unpack[requests.AuditFilter],
    ) -> AsyncGenerator[audit_pb.TailAuditEventsResponse, None]:
        """See `LogClient.tail_audit_events`."""
        return self._follow(AuditTail, partial(requests.tail_request, from_index, **events), on_outage)

    async def log_lines(
        self, **lines: Unpack[line_requests.LineQuery]
    ) -> AsyncGenerator[log_lines_pb.LogLine, None]:
        """See `LogClient.log_lines`."""
        async for page in self._pages(line_requests.log_lines(**lines)):
            for line in page.lines:
                yield line

    def tail_log_lines(
        self,
        *,
        since: line_requests.Moment | None = None,
        last: int | None = None,
        on_outage: OnOutage | None = None,
        **lines: Unpack[line_requests.LineFilter],
    ) -> AsyncGenerator[log_lines_pb.TailLogsResponse, None]:
        """See `LogClient.tail_log_lines`."""
        return self._follow(LogTail, partial(line_requests.tail_request, since, last, **lines), on_outage)

    async def audit_event(
        self, event: str | int, *, source: str | None = None, log_id: str = ""
    ) -> audit_pb.AuditEntry | None:
        """See `LogClient.audit_event`."""
        return await drive_async(requests.audit_event(event, source, log_id), self._ask)

    async def checkpoint(self, log_id: str = "") -> audit_pb.GetCheckpointResponse:
        """See `LogClient.checkpoint`."""
        return await self._ask(requests.checkpoint(log_id))

    async def inclusion_proof(
        self, event: str | int, *, tree_size: int = 0, source: str | None = None, log_id: str = ""
    ) -> audit_pb.GetInclusionProofResponse:
        """See `LogClient.inclusion_proof`."""
        return await self._ask(requests.inclusion_proof(event, tree_size, source, log_id))

    async def consistency_proof(
        self, old_size: int, new_size: int = 0, *, log_id: str = ""
    ) -> audit_pb.GetConsistencyProofResponse:
        """See `LogClient.consistency_proof`."""
        return await self._ask(requests.consistency_proof(old_size, new_size, log_id))

    async def verify_receipt(
        self, receipt: "Receipt | v1.AuditReceipt", vkey: str
    ) -> audit_pb.GetInclusionProofResponse:
        """See `LogClient.verify_receipt`."""
        place = place_of(receipt)
        proof = await self._ask(requests.inclusion_proof(place.leaf_index, 0, None, place.log_id))
        return check_receipt(place, vkey, proof)

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every line logged so far, and every job's news, is delivered or counted as dropped."""
        return await _in_thread(self._engine.flush, timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Flush for at most `timeout` seconds (None: `close_timeout`), then end."""
        if self._engine.is_closed:
            return
        for track in list(self._tracks):
            await track.aclose()
        if self._tasks:
            await asyncio.wait(
                self._tasks, timeout=self._settings.close_timeout if timeout is None else timeout
            )
        await _in_thread(self._engine.close, timeout)
        await _in_thread(self._reader.close)

    async def __aenter__(self) -> Self:
        self._engine.refuse_if_closed()
        return self

    async def __aexit__(self, kind: object, exception: object, trace: object, /) -> None:
        await self.close()

    async def _send(self, record: pb.LogRecord, timeout: float | None = None, *, may_spool: bool) -> Receipt:
        """Send a record; return when it is committed or spooled. Raises RecordRejected, Unavailable, ClientNotOpen."""
        timeout = self._engine.shorten(self._settings.timeout if timeout is None else timeout)
        with self._engine.awaiting():
            entry = self._engine.submit(record)
            failure: Exception
            try:
                if self._engine.send_alone(entry, timeout):
                    return Receipt(ReceiptState.COMMITTED, entry.future.result(0.0))
                # Shielded, so that it is `withdraw` alone that decides whether it came in time.
                answer = asyncio.shield(asyncio.wrap_future(entry.future))
                return Receipt(ReceiptState.COMMITTED, await asyncio.wait_for(answer, timeout))
            except TimeoutError:
                if not self._engine.events.withdraw(entry):  # it came at the last moment
                    return Receipt(ReceiptState.COMMITTED, entry.future.result())
                failure = Unavailable(f"not committed within {timeout:g} s; it may still be: {entry.failure}")
            except Unavailable as error:
                failure = error
            except asyncio.CancelledError:
                self._engine.events.withdraw(entry)
                raise
            if not may_spool:
                raise failure
            return await _in_thread(self._engine.spool, record, failure)

    async def _send_report(self, record: pb.LogRecord, may_spool: bool) -> Receipt:
        return await self._send(record, may_spool=may_spool and self._settings.spool_records == "all")

    def _note_abandoned(self, sending: "asyncio.Task[Receipt]") -> None:
        if sending.cancelled() or sending.exception() is not None:
            why = "its task was cancelled" if sending.cancelled() else str(sending.exception())
            self._engine.drop("abandoned", pb.LEVEL_AUDIT, why)

    async def _ask(self, call: requests.Call[T]) -> T:
        return await self._reader.ask(*call)

    async def _pages(self, call: requests.Call[T]) -> AsyncGenerator[T, None]:
        while True:
            page: Any = await self._ask(call)
            yield page
            if not page.next_page_token:
                return
            call.request.page_token = page.next_page_token

    async def _follow(
        self, kind: type[Watch[T]], make_request: Callable[[], Any], on_outage: OnOutage | None
    ) -> AsyncGenerator[T, None]:
        """Yield what is new in a stream, over as many connections as it takes."""
        watch = kind(make_request(), self._settings.backoff, on_outage)
        with suppress(watch.call.not_found):  # the stream says so itself, unless it waits for the job
            await self._ask(watch.probe)  # raises Unavailable in time if no server answers
        while True:
            stream = self._reader.stream(watch.call.method, watch.call.request, watch.call.response)
            try:
                async for response in stream:
                    if (news := watch.take(response)) is not None:
                        yield news
                watch.end()
                return
            except grpc.RpcError as error:
                self._engine.refuse_if_closed()
                pause = watch.pause_after(error)
            finally:
                await stream.aclose()
            await asyncio.sleep(pause)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call what blocks in another thread; if none can be started, as at the end of the program, in this one."""
    running: asyncio.Future[T] | None = None
    if threading.main_thread().is_alive():
        with suppress(RuntimeError, MemoryError):
            running = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    return function(*arguments) if running is None else await running


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncLogger] = cast("type[AsyncLogger]", AsyncLogClient)
