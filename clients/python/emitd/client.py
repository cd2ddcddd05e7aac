"""`LogClient`: sends records of all kinds to a server, and reads jobs. For programs with threads; see `async_client`.

    with LogClient(source="shop") as client:
        client.info("order taken", order=17)
        client.audit("order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17})

There are two kinds of call. A plain one (`info`, `advance`) queues, never waits and never raises for trouble with the
delivery. A call that waits (`audit`, `get_job`) raises `emitd.EmitError`, whose `retryable` says whether another try
can help. What becomes of a record in each kind of trouble is a table in docs/client.md.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar

import grpc

from emitd.base_client import LogVerbs
from emitd.errors import JobNotFound, Unavailable
from emitd.jobs.reporter import JobReporter
from emitd.jobs.requests import list_request, watch_request
from emitd.jobs.track import Track
from emitd.jobs.watch import JobWatch
from emitd.receipt import Receipt, ReceiptState
from emitd.records.audit import audit_record
from emitd.records.encoding import as_field
from emitd.transport.reply import is_retryable, request_error
from emitd.v1 import job_pb2
from emitd.v1 import record_pb2 as pb

__all__ = ["LogClient"]

T = TypeVar("T")


class LogClient(LogVerbs):
    """A client for any thread, and for forked children, each of which has a queue and a connection of its own.

    One is enough for a program. It ends with the program, or with `close`, or as a context manager.
    """

    def audit(
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
        """Send an audit event, and return the receipt when it is safe: its `state` says where.

        `source_ip` is an address, or `unknown`; `time_unix_nano` is when it happened, 0: now. With a `record_id` of
        the caller's, a second call with the same content, attributes of `bind` included, is harmless: it gets the first
        receipt, marked `duplicate`. So that the content can be the same, such an event has no attributes of
        `log_context`, and the time of its receipt unless the caller gives one.

        COMMITTED is what the service has in its audit trail. If it is not there within `timeout` seconds (None: the
        client's default), the event is kept on this machine's disk, where there is a spool, and sent later: SPOOLED.
        With `require_commit`, or without a spool, that is Unavailable.

        Raises RecordRejected or Unavailable, and TypeError naming the key of `details` that is no JSON.
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
        return self._send(record, timeout, may_spool=not require_commit)

    def job(
        self,
        job_id: str,
        job_type: str,
        *,
        total: int | None = None,
        lease: int | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> JobReporter:
        """Return what reports how a job fares, for `with`. Nothing is sent yet.

        `total` is how many steps `advance` counts up to. With a `lease`, in whole seconds, a job from which nothing
        is heard for so long becomes FAILED by itself, with the reason LEASE_EXPIRED; the reporter renews it three times
        as often, in the background. None: the job of a worker that dies stays RUNNING.

        Raises TypeError as `audit` does, and ValueError naming the number that makes no sense.
        """
        run_state = self._run_state(
            job_id, job_type, total=total, lease=lease, labels=labels, details=details
        )
        return JobReporter(self._engine, run_state, self._send_report)

    def track(
        self,
        items: Iterable[T],
        *,
        job_type: str,
        job_id: str | None = None,
        total: int | None = None,
        lease: int | None = 60,
        labels: Mapping[str, str] | None = None,
    ) -> Track[T, JobReporter]:
        """Return an iterator over `items` that reports them as a job: see `emitd.jobs.track`.

        `job_id` None: a random one. `total` None: as many as `items` has, if it knows; where nobody knows, or with
        0, the job has no percentage until it is COMPLETED. The rest is as in `job`.
        """
        track = Track(
            items,
            lambda job_id, total: self.job(job_id, job_type, total=total, lease=lease, labels=labels),
            job_id=job_id,
            total=total,
        )
        self._engine.tracks.add(track)
        return track

    def get_job(self, job_id: str) -> job_pb2.Job | None:
        """Return a job as it stands; None if nobody has reported it. Raises RequestRejected for an empty id."""
        request = job_pb2.GetJobRequest(job_id=as_field(job_id))
        try:
            return self._ask("GetJob", request, job_pb2.GetJobResponse).job
        except JobNotFound:
            return None

    def list_jobs(
        self,
        *,
        job_type: str = "",
        statuses: Iterable[str] = (),
        updated_after_unix_nano: int = 0,
        page_size: int = 100,
    ) -> Iterator[job_pb2.Job]:
        """Yield jobs, newest first, reading a page at a time.

        `statuses` are names such as `RUNNING`; none: any. Raises RequestRejected for an unknown one.
        """
        request = list_request(job_type, statuses, updated_after_unix_nano, page_size)
        while True:
            page = self._ask("ListJobs", request, job_pb2.ListJobsResponse)
            yield from page.jobs
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch_job(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        wait_for_creation: bool = False,
        follow: bool = False,
        min_interval_ms: int = 0,
    ) -> Iterator[job_pb2.WatchJobResponse]:
        """Yield the job's state at once, then every change, until it has ended. See `emitd.v1.WatchJobRequest`.

        A connection that breaks is made again, for as long as it takes, and goes on after the last revision. Messages
        with `heartbeat` set bring nothing new; they come when nothing else does. Raises JobNotFound; Unavailable for
        a server that does not answer at all within `timeout`; ClientNotOpen when the client is closed.
        """
        request = watch_request(
            job_id,
            after_revision=after_revision,
            wait_for_creation=wait_for_creation,
            follow=follow,
            min_interval_ms=min_interval_ms,
        )
        watch = JobWatch(request, self._settings.backoff)
        self.get_job(request.job_id)  # raises Unavailable in time where nobody answers
        while True:
            self._engine.refuse_if_closed()
            try:
                for response in self._engine.transport.stream(
                    "WatchJob", watch.request, job_pb2.WatchJobResponse
                ):
                    if watch.take(response):
                        yield response
                return
            except grpc.RpcError as error:
                self._engine.refuse_if_closed()
                pause = watch.pause_after(error)
            time.sleep(pause)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every log line logged so far, and every job's news, is delivered or counted as dropped.

        Return False if `timeout` seconds were not enough; None: wait as long as it takes.
        """
        return self._engine.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flush for so many seconds (None: `close_timeout`), then end; what was not delivered is spooled or counted.

        Idempotent. Later plain calls are counted as dropped, others raise ClientNotOpen. A `track` that is still open
        ends as INCOMPLETE.
        """
        self._engine.close(timeout)

    def __enter__(self) -> Self:
        self._engine.refuse_if_closed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()

    def _send(self, record: pb.LogRecord, timeout: float | None = None, *, may_spool: bool) -> Receipt:
        """Send a record; return when it is committed or spooled. Raises RecordRejected, Unavailable, ClientNotOpen."""
        timeout = self._engine.shorten(self._settings.timeout if timeout is None else timeout)
        with self._engine.awaiting():
            entry = self._engine.submit(record)
            is_over = self._engine.send_alone(entry, timeout)
            failure: Exception
            try:
                return Receipt(ReceiptState.COMMITTED, entry.future.result(0.0 if is_over else timeout))
            except TimeoutError:
                if not self._engine.events.withdraw(entry):  # it came at the last moment
                    return Receipt(ReceiptState.COMMITTED, entry.future.result())
                failure = Unavailable(f"not committed within {timeout:g} s; it may still be: {entry.failure}")
            except Unavailable as error:
                failure = error
            if not may_spool:
                raise failure
            return self._engine.spool(record, failure)

    def _send_report(self, record: pb.LogRecord, may_spool: bool) -> Receipt:
        return self._send(record, may_spool=may_spool and self._settings.spool_records == "all")

    def _ask(self, method: str, request: object, response: type[T]) -> T:
        """Ask something, again while that can help. Raises EmitError."""
        give_up_at = time.monotonic() + self._settings.timeout
        attempts = 0
        while True:
            self._engine.refuse_if_closed()
            left = give_up_at - time.monotonic()
            try:
                return self._engine.transport.call(method, request, response, max(left, 0.001))
            except grpc.RpcError as error:
                if not is_retryable(error) or left <= 0:
                    raise request_error(error) from error
            attempts += 1
            time.sleep(min(self._settings.backoff.pause(attempts), max(give_up_at - time.monotonic(), 0)))
