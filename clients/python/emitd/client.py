"""`LogClient`: sends records of all kinds to a server, and reads jobs and the audit trail. For programs with threads.

    with LogClient(source="shop") as client:
        client.info("order taken", order=17)
        client.audit("order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17})

The calls that `emitd.AsyncLogger` has too do what they do there; those that are awaited there wait here. docs/client.md
has a table of what becomes of a record in each kind of trouble.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, SupportsFloat, TypeVar, Unpack

import grpc

from emitd import line_requests, requests
from emitd.base_client import LogVerbs
from emitd.errors import Unavailable
from emitd.jobs.interface import DEFAULT_LEASE_SECONDS
from emitd.jobs.reporter import JobReporter
from emitd.jobs.run_state import drive
from emitd.jobs.track import Track
from emitd.receipt import Receipt, ReceiptState, check_receipt, place_of
from emitd.records.audit import audit_record
from emitd.transport.reply import is_retryable, request_error
from emitd.v1 import audit_service_pb2 as audit_pb
from emitd.v1 import job_pb2
from emitd.v1 import log_line_pb2 as log_lines_pb
from emitd.v1 import record_pb2 as pb
from emitd.watches import AuditTail, JobsWatch, JobWatch, LogTail, OnOutage, Watch

if TYPE_CHECKING:
    from emitd import v1

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
        """Send an audit event, and return the receipt when it is safe. See `emitd.AsyncLogger.audit`.

        If the event is not committed within `timeout` seconds, it is kept in the spool and sent later: SPOOLED. With
        `require_commit`, or without a spool, that is Unavailable.
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
        total: SupportsFloat | None = None,
        lease: int | None = DEFAULT_LEASE_SECONDS,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> JobReporter:
        """Return the reporter of one run of a job, for `with`. See `emitd.AsyncLogger.job`.

        The lease is renewed in the background.
        """
        ticker = self._ticker(job_id, job_type, total=total, lease=lease, labels=labels, details=details)
        return JobReporter(self._engine, ticker, self._send_report)

    def track(
        self,
        items: Iterable[T],
        *,
        job_type: str,
        job_id: str | None = None,
        total: SupportsFloat | None = None,
        lease: int | None = DEFAULT_LEASE_SECONDS,
        labels: Mapping[str, str] | None = None,
    ) -> Track[T, JobReporter]:
        """Return an iterator over `items` that reports them as a job. See `emitd.AsyncLogger.track`."""

        def make_job(job_id: str, total: SupportsFloat | None) -> JobReporter:
            return self.job(job_id, job_type, total=total, lease=lease, labels=labels)

        track = Track(items, make_job, job_id=job_id, total=total)
        self._engine.tracks.add(track)
        return track

    def get_job(self, job_id: str) -> job_pb2.Job | None:
        """Return a job as it stands; None if there is none. Raises RequestRejected for an empty id."""
        return drive(requests.get_job(job_id), self._ask)

    def list_jobs(
        self,
        *,
        job_type: str = "",
        statuses: Iterable[str] = (),
        updated_after_unix_nano: int = 0,
        page_size: int = 100,
        job_ids: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[job_pb2.Job]:
        """Yield jobs, newest first, reading a page at a time.

        `statuses` are names such as `RUNNING`; none: any. An unknown one raises RequestRejected.
        """
        call = requests.list_jobs(job_type, statuses, updated_after_unix_nano, page_size, job_ids, labels)
        for page in self._pages(call):
            yield from page.jobs

    def watch_job(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        wait_for_creation: bool = False,
        follow: bool = False,
        min_interval_ms: int = 0,
        on_outage: OnOutage | None = None,
    ) -> Iterator[job_pb2.WatchJobResponse]:
        """Yield the job's state at once, then every change, until it has ended. See `emitd.v1.WatchJobRequest`.

        A broken connection is made again, for as long as it takes, and goes on after the last revision. `on_outage` is
        called with the error when a connection breaks, and with None when the server answers again; an exception from
        it ends the watch. Messages with `heartbeat` set bring nothing new.

        Raises JobNotFound; Unavailable if no server answers within `timeout`; ClientNotOpen if the client is closed.
        """
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
    ) -> Iterator[job_pb2.WatchJobsResponse]:
        """Yield all jobs that match a filter, then every change of them, for ever. See `emitd.v1.WatchJobsResponse`.

        The filter is `job_type`, `statuses`, `job_ids`, `labels`, and `min_interval_ms` as in `watch_job`. The message
        with `snapshot_end` completes the jobs that match at the beginning. After an outage the changes that it hid
        follow; a job that no longer matches has `left_filter`, and only its id and last known revision.
        """
        return self._follow(JobsWatch, partial(requests.watch_jobs_request, **jobs), on_outage)

    def job_history(self, job_id: str, *, after_revision: int = 0) -> requests.JobHistory:
        """Return the transitions of a job after a revision, over all its attempts. Raises JobNotFound."""
        return drive(requests.job_history(job_id, after_revision), self._ask)

    def request_cancel(self, job_id: str, reason: str = "") -> job_pb2.Job:
        """Ask a job to stop by itself, and return the job. Raises JobNotFound.

        Its reporter and its watchers see `cancel_requested`; the status does not change. If the job has `ended`,
        nothing changes.
        """
        return self._ask(requests.request_cancel(job_id, reason)).job

    def audit_events(self, **events: Unpack[requests.AuditQuery]) -> Iterator[audit_pb.AuditEntry]:
        """Yield audit events, in the order of the log or from its end, reading a page at a time.

        The query is `event_name_prefix`, `user_id`, `source_ip`, `received_after_unix_nano`,
        `received_before_unix_nano`, `newest_first`, `page_size`, and `log_id` if the server has several logs. Raises
        AuditNotFound if there is no such log.
        """
        for page in self._pages(requests.audit_events(**events)):
            yield from page.entries

    def tail_audit_events(
        self,
        *,
        from_index: int | None = None,
        on_outage: OnOutage | None = None,
        **events: Unpack[requests.AuditFilter],
    ) -> Iterator[audit_pb.TailAuditEventsResponse]:
        """Yield audit events as they are committed, in order, each once, for ever.

        The first is line `from_index`; None: the next one to come. A line beyond that raises AuditNotFound. The filter
        is `event_name_prefix`, `user_id`, `source_ip` and `log_id`. Outages and heartbeats are as in `watch_job`.
        """
        return self._follow(AuditTail, partial(requests.tail_request, from_index, **events), on_outage)

    def log_lines(self, **lines: Unpack[line_requests.LineQuery]) -> Iterator[log_lines_pb.LogLine]:
        """Yield log lines that the server keeps, in the order of receipt or from its end, reading a page at a time.

        The query is `min_level` (that level or above), `sources` (patterns with `*`), `text`, `job_id`, `trace_id`,
        `since`, `until`, `newest_first` and `page_size`: see `emitd.line_requests.LineQuery`.
        """
        for page in self._pages(line_requests.log_lines(**lines)):
            yield from page.lines

    def tail_log_lines(
        self,
        *,
        since: line_requests.Moment | None = None,
        last: int | None = None,
        on_outage: OnOutage | None = None,
        **lines: Unpack[line_requests.LineFilter],
    ) -> Iterator[log_lines_pb.TailLogsResponse]:
        """Yield log lines as they are accepted, in order, each once, for ever.

        It begins with those received `since` then, or with the `last` that match, at most 1,000; else with the next one
        to come. The filter is that of `log_lines`. A message with `missed_count` or `history_truncated` says that lines
        before its own are missing, because they were read too slowly or are no longer kept. Outages and heartbeats are
        as in `watch_job`; after an outage the lines that it hid follow, as far as the server keeps them.
        """
        return self._follow(LogTail, partial(line_requests.tail_request, since, last, **lines), on_outage)

    def audit_event(
        self, event: str | int, *, source: str | None = None, log_id: str = ""
    ) -> audit_pb.AuditEntry | None:
        """Return one audit event, by its id or by its index in the log; None if the log does not have it.

        An id belongs to its `source`. None: any source; raises RequestRejected, naming the sources, if several have
        events with this id. Of one source's events with this id it is the newest.

        By index only what a checkpoint covers is found: for a newer line the call waits, at most `timeout` seconds.
        """
        return drive(requests.audit_event(event, source, log_id), self._ask)

    def checkpoint(self, log_id: str = "") -> audit_pb.GetCheckpointResponse:
        """Return the newest checkpoint of an audit log, as the server shows it: nothing is verified."""
        return self._ask(requests.checkpoint(log_id))

    def inclusion_proof(
        self, event: str | int, *, tree_size: int = 0, source: str | None = None, log_id: str = ""
    ) -> audit_pb.GetInclusionProofResponse:
        """Return the proof that an event, by id or index, is in the tree; size 0: that of the newest checkpoint.

        `source` is as in `audit_event`. Nothing is verified: see `verify_receipt`. Raises AuditNotFound.
        """
        return self._ask(requests.inclusion_proof(event, tree_size, source, log_id))

    def consistency_proof(
        self, old_size: int, new_size: int = 0, *, log_id: str = ""
    ) -> audit_pb.GetConsistencyProofResponse:
        """Return the proof that the tree of `old_size` lines is a beginning of that of `new_size`. Nothing is verified.

        `new_size` 0: that of the newest checkpoint.
        """
        return self._ask(requests.consistency_proof(old_size, new_size, log_id))

    def verify_receipt(
        self, receipt: "Receipt | v1.AuditReceipt", vkey: str
    ) -> audit_pb.GetInclusionProofResponse:
        """Prove that the event of a receipt is in the log that the key has signed; return the proof.

        `vkey` is the log's public key, from a source other than this server; several are separated by spaces. The call
        waits for a checkpoint that covers the event, at most `timeout` seconds. Needs `pip install 'emitd[audit]'`.

        Raises VerificationFailed if the receipt does not hold; RequestRejected for a malformed key, and for a receipt
        of no committed audit event; AuditNotFound; Unavailable.
        """
        place = place_of(receipt)
        proof = self._ask(requests.inclusion_proof(place.leaf_index, 0, None, place.log_id))
        return check_receipt(place, vkey, proof)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all log lines, and the news of all jobs, are delivered or counted as dropped.

        Return False if `timeout` seconds were not enough; None: wait as long as it takes.
        """
        return self._engine.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flush for at most `timeout` seconds (None: `close_timeout`), then end; the rest is spooled or counted.

        Idempotent. Later plain calls are counted as dropped, others raise ClientNotOpen. A `track` that is still open
        ends as INCOMPLETE.
        """
        self._engine.close(timeout)

    def __enter__(self) -> Self:
        self._engine.refuse_if_closed()
        return self

    def __exit__(self, *_: object) -> None:
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

    def _ask(self, call: requests.Call[T]) -> T:
        """Ask something, again while that can help. Raises EmitError."""
        give_up_at = time.monotonic() + self._settings.timeout
        attempts = 0
        failed: grpc.RpcError | None = None
        while True:
            self._engine.refuse_if_closed()
            left = give_up_at - time.monotonic()
            try:
                return self._engine.transport.call(call.method, call.request, call.response, max(left, 0.001))
            except grpc.RpcError as error:
                if not is_retryable(error):
                    raise request_error(error, call.not_found) from error
                # The last try may have no time to learn anything.
                failed = failed if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and failed else error
                if left <= 0:
                    raise request_error(failed, call.not_found) from error
            attempts += 1
            time.sleep(min(self._settings.backoff.pause(attempts), max(give_up_at - time.monotonic(), 0)))

    def _pages(self, call: requests.Call[T]) -> Iterator[T]:
        while True:
            page: Any = self._ask(call)
            yield page
            if not page.next_page_token:
                return
            call.request.page_token = page.next_page_token

    def _follow(
        self, kind: type[Watch[T]], make_request: Callable[[], Any], on_outage: OnOutage | None
    ) -> Iterator[T]:
        """Yield what is new in a stream, over as many connections as it takes."""
        watch = kind(make_request(), self._settings.backoff, on_outage)
        call = watch.call
        with suppress(call.not_found):  # the stream says so itself, unless it waits for the job
            self._ask(watch.probe)  # raises Unavailable in time if no server answers
        while True:
            self._engine.refuse_if_closed()
            try:
                for response in self._engine.transport.stream(call.method, call.request, call.response):
                    if (news := watch.take(response)) is not None:
                        yield news
                watch.end()
                return
            except grpc.RpcError as error:
                self._engine.refuse_if_closed()
                pause = watch.pause_after(error)
            time.sleep(pause)
