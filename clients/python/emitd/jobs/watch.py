"""`JobWatch`: one watch of a job over as many connections as it takes. Pure: its owner opens the streams and waits.

Whether there is a server at all its owner asks first, by a call with a deadline: a stream, which is silent for as long
as nothing happens, cannot tell.
"""

import grpc

from emitd.runtime.backoff import Backoff
from emitd.transport.reply import is_retryable, request_error
from emitd.v1 import job_pb2

__all__ = ["JobWatch"]


class JobWatch:
    """What was told so far, and so where the next connection goes on."""

    def __init__(self, request: job_pb2.WatchJobRequest, backoff: Backoff) -> None:
        """Watch as the request says."""
        #: For the next connection.
        self.request = request
        self._backoff = backoff
        self._attempts = 0
        self._job: job_pb2.Job | None = None

    def take(self, response: job_pb2.WatchJobResponse) -> bool:
        """Note a message; return whether it is worth telling: the first of a new connection may bring nothing new."""
        self._attempts = 0
        if response.heartbeat:
            return True
        is_news = response.job != self._job or bool(response.transitions) or response.history_truncated
        self._job = response.job
        self.request.after_revision = response.job.revision
        return is_news

    def pause_after(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next connection. Raises EmitError where there is no point in one."""
        if not is_retryable(error):
            raise request_error(error) from error
        self._attempts += 1
        return self._backoff.pause(self._attempts)
