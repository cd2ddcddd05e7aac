"""The watchers of `emitd demo`: a WatchJob stream for each job, and one queue that all of them fill."""

from collections.abc import Iterator, Sequence
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import NamedTuple

import grpc

from emitd.v1 import LogServiceStub, WatchJobRequest, WatchJobResponse
from emitd_cli.errors import CommandError

#: A stream that takes longer is broken; the demo takes a quarter of it.
WATCH_SECONDS = 60.0
#: How often it is looked whether all have ended.
POLL_SECONDS = 0.05


class _Ended(NamedTuple):
    """A stream's end, and what was wrong if it did not end well."""

    job_id: str
    problem: str


class JobWatches:
    """Watches jobs that need not exist yet. Its streams end with the jobs, or with the channel."""

    def __init__(self, stub: LogServiceStub, job_ids: Sequence[str]) -> None:
        self._stub = stub
        self._arrived: Queue[WatchJobResponse | _Ended] = Queue()
        self._open = len(job_ids)
        for job_id in job_ids:
            Thread(target=self._follow, args=(job_id,), daemon=True).start()

    def until(self, deadline: float) -> Iterator[WatchJobResponse]:
        """Yield what comes before `deadline`, a time of the monotonic clock. Raises CommandError."""
        while (seconds := deadline - monotonic()) > 0:
            try:
                message = self._arrived.get(timeout=seconds)
            except Empty:
                return
            if isinstance(message, WatchJobResponse):
                yield message
                continue
            self._open -= 1
            if message.problem:
                raise CommandError(f"the watch of job '{message.job_id}' broke off: {message.problem}")

    def until_ended(self) -> Iterator[WatchJobResponse]:
        """Yield what comes until all streams have ended. Raises CommandError."""
        deadline = monotonic() + WATCH_SECONDS
        while self._open:
            if monotonic() > deadline:
                raise CommandError(f"{self._open} jobs have not ended within {WATCH_SECONDS:g} s")
            yield from self.until(monotonic() + POLL_SECONDS)

    def _follow(self, job_id: str) -> None:
        # All of the history: a stream that opens late still tells every change of status.
        request = WatchJobRequest(job_id=job_id, after_revision=0, wait_for_creation=True)
        try:
            for response in self._stub.WatchJob(request, timeout=WATCH_SECONDS):
                if not response.heartbeat:
                    self._arrived.put(response)
        except grpc.RpcError as error:
            self._arrived.put(_Ended(job_id, f"{error.code().name}: {error.details()}"))
        else:
            self._arrived.put(_Ended(job_id, ""))
