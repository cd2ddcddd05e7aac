"""Streams that go on over as many connections as it takes: of one job, of many jobs, of audit events, of log lines.

Pure: the client opens the connections and waits. It first makes the call `probe`, with a deadline, to learn whether
there is a server: a stream is silent while nothing happens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import grpc

from emitd.errors import AuditNotFound, EmitError, Unavailable
from emitd.requests import Call, list_events
from emitd.runtime.backoff import Backoff
from emitd.transport.reply import details_of, goes_on, is_retryable, request_error, retry_delay
from emitd.v1 import audit_service_pb2 as audit
from emitd.v1 import job_pb2
from emitd.v1 import log_line_pb2 as log_lines_pb

__all__ = ["AuditTail", "JobWatch", "JobsWatch", "LogTail", "OnOutage", "Watch"]

Response = TypeVar("Response")

#: Called with the error when a connection breaks, before the pause and the next try; with None when the server answers
#: again. What it raises ends the stream.
OnOutage: TypeAlias = Callable[[EmitError | None], None]


class Watch(ABC, Generic[Response]):
    """What was received so far, and so where the next connection goes on."""

    def __init__(self, request: Any, backoff: Backoff, on_outage: OnOutage | None = None) -> None:
        """Watch as the request says."""
        #: For the next connection, whose request `take` changes; and the call that is made first.
        self.call, self.probe = self._calls(request)
        self._backoff = backoff
        self._on_outage = on_outage
        self._attempts = 0

    def take(self, response: Response) -> Response | None:
        """Note a message; return what is new in it, or None."""
        if self._attempts and self._on_outage is not None:
            self._on_outage(None)
        self._attempts = 0
        return self._news(response)

    def pause_after(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next connection. Raises EmitError if there is no point in one."""
        if goes_on(error):
            return 0.0
        failure = request_error(error, self.call.not_found)
        if not is_retryable(error):
            raise failure from error
        failure.__cause__ = error
        if self._on_outage is not None:
            self._on_outage(failure)
        self._attempts += 1
        return max(self._backoff.pause(self._attempts), retry_delay(details_of(error)) or 0.0)

    def end(self) -> None:
        """Note that the server ended the stream. Raises Unavailable if that is not how it ends."""
        raise Unavailable("the server ended the stream without an error")

    @abstractmethod
    def _calls(self, request: Any) -> tuple[Call[Response], Call[Any]]: ...

    @abstractmethod
    def _news(self, response: Response) -> Response | None: ...


class JobWatch(Watch[job_pb2.WatchJobResponse]):
    """One job, until it has ended."""

    _job: job_pb2.Job | None = None

    def end(self) -> None:
        """Accept the end: the job has ended."""

    def _calls(self, request: job_pb2.WatchJobRequest) -> tuple[Call[job_pb2.WatchJobResponse], Call[Any]]:
        probe = Call("GetJob", job_pb2.GetJobRequest(job_id=request.job_id), job_pb2.GetJobResponse)
        return Call("WatchJob", request, job_pb2.WatchJobResponse), probe

    def _news(self, response: job_pb2.WatchJobResponse) -> job_pb2.WatchJobResponse | None:
        if response.heartbeat:
            return response
        # The first message of a new connection may bring nothing new.
        is_news = response.job != self._job or response.transitions or response.history_truncated
        self._job = response.job
        self.call.request.after_revision = response.job.revision
        return response if is_news else None


class JobsWatch(Watch[job_pb2.WatchJobsResponse]):
    """All jobs that match a filter, for ever.

    A later connection begins with a snapshot: what is known of it is left out, and known jobs that it lacks have left.
    """

    #: The ids in the snapshot of a later connection, until it is complete.
    _in_snapshot: set[str] | None = None
    _has_snapshot = False

    def __init__(self, request: Any, backoff: Backoff, on_outage: OnOutage | None = None) -> None:
        """Watch as the request says."""
        super().__init__(request, backoff, on_outage)
        #: By id, what identifies the last state of a job that matches.
        self._known: dict[str, tuple[int, int, bool]] = {}

    def pause_after(self, error: grpc.RpcError) -> float:
        """Do what `Watch` does; a new snapshot comes next."""
        pause = super().pause_after(error)
        self._in_snapshot = set()
        return pause

    def _calls(self, request: job_pb2.WatchJobsRequest) -> tuple[Call[job_pb2.WatchJobsResponse], Call[Any]]:
        probe = Call("ListJobs", job_pb2.ListJobsRequest(page_size=1), job_pb2.ListJobsResponse)
        return Call("WatchJobs", request, job_pb2.WatchJobsResponse), probe

    def _news(self, response: job_pb2.WatchJobsResponse) -> job_pb2.WatchJobsResponse | None:
        if response.heartbeat:
            return response
        changes = [change for change in response.changes if self._note(change)]
        if self._in_snapshot is None:
            self._has_snapshot = self._has_snapshot or response.snapshot_end
            return response
        self._in_snapshot.update(change.job.job_id for change in response.changes)
        if response.snapshot_end:
            changes += [self._leave(job_id) for job_id in self._known.keys() - self._in_snapshot]
            self._in_snapshot = None
        is_first_snapshot = response.snapshot_end and not self._has_snapshot
        self._has_snapshot = self._has_snapshot or response.snapshot_end
        if not changes and not is_first_snapshot:
            return None
        return job_pb2.WatchJobsResponse(changes=changes, snapshot_end=is_first_snapshot)

    def _note(self, change: job_pb2.JobChange) -> bool:
        """Note a change; return whether it brings anything new."""
        job = change.job
        if change.left_filter:
            self._known.pop(job.job_id, None)
            return True
        state = (job.revision, job.create_time_unix_nano, job.cancel_requested)
        is_news = self._known.get(job.job_id) != state
        self._known[job.job_id] = state
        return is_news

    def _leave(self, job_id: str) -> job_pb2.JobChange:
        revision = self._known.pop(job_id)[0]
        return job_pb2.JobChange(job=job_pb2.Job(job_id=job_id, revision=revision), left_filter=True)


class AuditTail(Watch[audit.TailAuditEventsResponse]):
    """Audit events as they are committed, for ever; each once."""

    def _calls(
        self, request: audit.TailAuditEventsRequest
    ) -> tuple[Call[audit.TailAuditEventsResponse], Call[Any]]:
        probe = list_events(audit.ListAuditEventsRequest(log_id=request.log_id, page_size=1))
        method = "AuditService/TailAuditEvents"
        return Call(method, request, audit.TailAuditEventsResponse, AuditNotFound), probe

    def _news(self, response: audit.TailAuditEventsResponse) -> audit.TailAuditEventsResponse:
        # Another connection goes on here, and in no other log.
        self.call.request.log_id, self.call.request.from_index = response.log_id, response.next_index
        return response


class LogTail(Watch[log_lines_pb.TailLogsResponse]):
    """Log lines as they are accepted, for ever; each once, or counted as missed."""

    def _calls(
        self, request: log_lines_pb.TailLogsRequest
    ) -> tuple[Call[log_lines_pb.TailLogsResponse], Call[Any]]:
        # It looks for lines that cannot be there yet, so that nothing is searched.
        nothing = log_lines_pb.ListLogsRequest(received_after_unix_nano=2**63 - 1, page_size=1)
        probe = Call("ListLogs", nothing, log_lines_pb.ListLogsResponse)
        return Call("TailLogs", request, log_lines_pb.TailLogsResponse), probe

    def _news(self, response: log_lines_pb.TailLogsResponse) -> log_lines_pb.TailLogsResponse:
        # Another connection goes on here. Without a token, the lines from before the beginning are still to come.
        if response.resume_token:
            self.call.request.resume_token = response.resume_token
        return response
