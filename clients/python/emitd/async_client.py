"""`AsyncLogClient`: what `LogClient` is, for asyncio. It implements `emitd.AsyncLogger`.

    async with AsyncLogClient(source="shop") as client:
        client.info("order taken", order=17)
        await client.audit("order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17})

Records go the same way as those of `LogClient`, by the same threads. What reads, reads by grpc.aio, so that a thousand
watches need no thousand threads.
"""

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

import grpc

from emitd.base_client import LogVerbs, MoreSettings
from emitd.errors import JobNotFound, Unavailable
from emitd.jobs.async_reporter import RemoteJob
from emitd.jobs.requests import list_request, watch_request
from emitd.jobs.track import AsyncTrack
from emitd.jobs.watch import JobWatch
from emitd.receipt import Receipt, ReceiptState
from emitd.records.audit import audit_record
from emitd.records.encoding import as_field
from emitd.transport.async_calls import AsyncReader
from emitd.v1 import job_pb2
from emitd.v1 import record_pb2 as pb

if TYPE_CHECKING:
    from emitd.interface import AsyncLogger

__all__ = ["AsyncLogClient"]

T = TypeVar("T")


class AsyncLogClient(LogVerbs):
    """Plain calls from any thread, awaited ones from one event loop: that of the first. See `emitd.AsyncLogger`."""

    def __init__(
        self,
        address: str | None = None,
        *,
        source: str | None = None,
        level: str | int | None = None,
        **settings: Unpack[MoreSettings],
    ) -> None:
        """Take settings from the arguments, else from the environment (`EMITD_ADDRESS`, ...), else the defaults.

        Nothing is connected or started before the first record. Raises ValueError naming a setting that is wrong.
        """
        super().__init__(address, source=source, level=level, **settings)
        self._reader = AsyncReader(self._settings, self._engine.refuse_if_closed)
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
        total: int | None = None,
        lease: int | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> RemoteJob:
        """Return the reporter of one run of a job."""
        run_state = self._run_state(
            job_id, job_type, total=total, lease=lease, labels=labels, details=details
        )
        return RemoteJob(self._engine, run_state, self._send_report, self._spawn)

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        job_type: str,
        job_id: str | None = None,
        total: int | None = None,
        lease: int | None = 60,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncTrack[T]:
        """Return an iterator over `items` that reports them as a job."""
        track = AsyncTrack(
            items,
            lambda job_id, total: self.job(job_id, job_type, total=total, lease=lease, labels=labels),
            self._spawn,
            job_id=job_id,
            total=total,
        )
        self._tracks.add(track)
        return track

    async def get_job(self, job_id: str) -> job_pb2.Job | None:
        """Return a job as it stands, or None."""
        request = job_pb2.GetJobRequest(job_id=as_field(job_id))
        try:
            return (await self._reader.ask("GetJob", request, job_pb2.GetJobResponse)).job
        except JobNotFound:
            return None

    async def list_jobs(
        self,
        *,
        job_type: str = "",
        statuses: Iterable[str] = (),
        updated_after_unix_nano: int = 0,
        page_size: int = 100,
    ) -> AsyncGenerator[job_pb2.Job, None]:
        """Yield jobs, newest first."""
        request = list_request(job_type, statuses, updated_after_unix_nano, page_size)
        while True:
            page = await self._reader.ask("ListJobs", request, job_pb2.ListJobsResponse)
            for job in page.jobs:
                yield job
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_job(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        wait_for_creation: bool = False,
        follow: bool = False,
        min_interval_ms: int = 0,
    ) -> AsyncGenerator[job_pb2.WatchJobResponse, None]:
        """Yield the job's state and its changes, over as many connections as it takes."""
        request = watch_request(
            job_id,
            after_revision=after_revision,
            wait_for_creation=wait_for_creation,
            follow=follow,
            min_interval_ms=min_interval_ms,
        )
        watch = JobWatch(request, self._settings.backoff)
        await self.get_job(request.job_id)  # raises Unavailable in time where nobody answers
        while True:
            call = self._reader.stream("WatchJob", watch.request, job_pb2.WatchJobResponse)
            try:
                async for response in call:
                    if watch.take(response):
                        yield response
                return
            except grpc.RpcError as error:
                self._engine.refuse_if_closed()
                pause = watch.pause_after(error)
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every line logged so far, and every job's news, is delivered or counted as dropped."""
        return await _in_thread(self._engine.flush, timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Flush for so many seconds (None: `close_timeout`), then end."""
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
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
            self._engine.drop_abandoned(pb.LEVEL_AUDIT, why)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call what blocks in another thread; at the end of the program, which has none to spare, in this one."""
    if not threading.main_thread().is_alive():
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncLogger] = cast("type[AsyncLogger]", AsyncLogClient)
