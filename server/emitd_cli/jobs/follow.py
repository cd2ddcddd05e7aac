"""Following jobs over as many connections as it takes: one by WatchJob, or all that match a filter by WatchJobs."""

import time
from threading import Lock

import grpc

from emitd.v1 import (
    Job,
    LogServiceStub,
    WatchJobRequest,
    WatchJobResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from emitd_cli.connection import cannot_tell, describe, is_refusal, is_retryable, refused, retry_seconds
from emitd_cli.errors import CannotTell
from emitd_cli.jobs.streams import Arrived, JobStreams, Note


class Patience:
    """How long a server that went away is waited for: one for all the streams of a command, which tells it once.

    `retry_seconds` None: until it is back. Every method is for any thread.
    """

    def __init__(
        self, streams: JobStreams, address: str, *, retry_seconds: float | None, is_patient: bool
    ) -> None:
        self._streams = streams
        self._address = address
        self._retry_seconds = retry_seconds
        #: Whether to try again when the server does not answer. One that has not answered at all is more likely
        #: to be a wrong address.
        self._is_patient = is_patient
        #: Since when it has not answered, and when the stream was opened by which it was back. By the monotonic clock.
        self._lost_at: float | None = None
        self._back_at = 0.0
        self._lock = Lock()

    def answered(self, opened_at: float) -> bool:
        """Note that a stream that was opened at this time brings something; return whether the server had been away."""
        with self._lock:
            self._is_patient = True
            if self._lost_at is None or opened_at < self._lost_at:  # sent before another stream broke
                return False
            self._lost_at, self._back_at = None, opened_at
            return True

    def wait(self, error: grpc.RpcError, opened_at: float) -> None:
        """Return when it is worth opening a stream again. Raises CannotTell if it is not, and StreamsClosed."""
        if not is_retryable(error) or not self._is_patient:
            raise cannot_tell(error, self._address) from error
        now, pause = time.monotonic(), retry_seconds(error)
        with self._lock:
            # One that is older than the server's return broke when the others did.
            is_first = self._lost_at is None and opened_at >= self._back_at
            since = now if self._lost_at is None else self._lost_at
            if self._retry_seconds is not None and now + pause > since + self._retry_seconds:
                raise cannot_tell(error, self._address) from error
            if is_first:
                self._lost_at = now
        if is_first:
            self._streams.put(Note(f"{describe(error, self._address)}; trying again {self._how_long()}"))
        self._streams.pause(pause)

    def _how_long(self) -> str:
        if self._retry_seconds is None:
            return "until it answers (Ctrl-C ends it)"
        return f"for {self._retry_seconds:g} s"


class JobFollower:
    """Follows one job to its end; no change of status is left out."""

    def __init__(
        self, stub: LogServiceStub, streams: JobStreams, patience: Patience, request: WatchJobRequest
    ) -> None:
        self._stub = stub
        self._streams = streams
        self._patience = patience
        self._request = request
        #: What was last told; the next connection goes on from there.
        self._job: Job | None = None

    def follow(self) -> None:
        """Let every message arrive until the job has ended. Raises CannotTell, StreamsClosed."""
        while True:
            opened_at = time.monotonic()
            try:
                with self._streams.opened(self._stub.WatchJob, self._request) as responses:
                    begins = True
                    for response in responses:
                        self._take(response, opened_at, begins)
                        begins = begins and response.heartbeat
            except grpc.RpcError as error:
                self._patience.wait(error, opened_at)
            else:
                if self._job is None:
                    raise CannotTell(f"the server ended the watch of '{self._request.job_id}' without a word")
                return

    def _take(self, response: WatchJobResponse, opened_at: float, begins: bool) -> None:
        self._patience.answered(opened_at)
        if response.heartbeat:
            return
        # The first message of a new connection may bring nothing that was not told before the old one broke.
        is_news = self._job is None or response.job != self._job or response.transitions
        self._job = response.job
        self._request.after_revision = self._job.revision
        if response.history_truncated:
            self._streams.put(Note(f"some changes of '{self._job.job_id}' are not known any more"))
        if is_news:
            self._streams.put(Arrived(response, begins))


class FilterFollower:
    """Follows all jobs that match a filter, for ever."""

    def __init__(
        self,
        stub: LogServiceStub,
        streams: JobStreams,
        patience: Patience,
        request: WatchJobsRequest,
        address: str,
    ) -> None:
        self._stub = stub
        self._streams = streams
        self._patience = patience
        self._request = request
        self._address = address

    def follow(self) -> None:
        """Let every message but heartbeats arrive. Raises CannotTell, Refused, StreamsClosed."""
        while True:
            opened_at = time.monotonic()
            try:
                with self._streams.opened(self._stub.WatchJobs, self._request) as responses:
                    begins = True
                    for response in responses:
                        self._take(response, opened_at, begins)
                        begins = begins and response.heartbeat
            except grpc.RpcError as error:
                if is_refusal(error):
                    raise refused(error, self._address) from error
                self._patience.wait(error, opened_at)
            else:
                raise CannotTell("the server ended the stream without a word")

    def _take(self, response: WatchJobsResponse, opened_at: float, begins: bool) -> None:
        if self._patience.answered(opened_at):
            self._streams.put(Note(f"{self._address} answers again"))
        if not response.heartbeat:
            self._streams.put(Arrived(response, begins))
