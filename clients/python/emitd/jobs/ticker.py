"""`JobTicker`: what a running job sends by itself: its news, and what renews its lease."""

import math
import time

from emitd.errors import EmitError
from emitd.jobs.run_state import JobRunState
from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb

#: A lease is renewed this many times before it would run out: two reports may fail.
HEARTBEATS_A_LEASE = 3


class JobTicker:
    """Says when a running job has something to send, and makes it; for one report at a time. Keeps the lease."""

    def __init__(self, run_state: JobRunState, interval: float) -> None:
        self.run_state = run_state
        self.interval = interval
        self.due = math.inf
        self.attempts = 0
        self._sent_at = time.monotonic()
        self._is_stopped = False

    def start(self) -> None:
        """Count from now on: the job was just reported as RUNNING."""
        self._sent_at = time.monotonic()

    @property
    def has_news(self) -> bool:
        """Whether there is something to send."""
        return self.run_state.has_news and not self._is_stopped

    def next_due(self) -> float:
        """Return when to send: the news soon, else what keeps the lease."""
        if self._is_stopped or self.run_state.is_lost:
            return math.inf
        if self.has_news:
            return self._sent_at + self.interval
        lease = self.run_state.lease_seconds
        return math.inf if lease is None else self._sent_at + lease / HEARTBEATS_A_LEASE

    def stop(self) -> None:
        """Send nothing more: the job has ended, or is about to."""
        self._is_stopped = True

    def make(self) -> pb.LogRecord:
        """Return a new report of how the job stands."""
        self._sent_at = time.monotonic()
        self.run_state.has_news = False  # also if there is no report: another try would fail as this one
        return self.run_state.report(pb.JOB_STATE_RUNNING)

    def take(self) -> bytes | None:
        """Return a new report, serialised; None: the job has ended."""
        return None if self._is_stopped or self.run_state.is_lost else self.make().SerializeToString()

    def accept(self, receipt: log_service_pb2.Receipt) -> float:
        """Note whether the job is lost, or is to be cancelled."""
        self.run_state.take_notice(receipt.job.stale_reason, receipt.job.cancel_requested)
        return self.next_due()

    def reject(self, error: EmitError) -> float:
        """Leave out what was refused, and go on."""
        if self.run_state.withhold_refused():
            return self._sent_at + self.interval
        return self.next_due()

    def note_failure(self, why: str) -> None:
        """Nobody waits to know: the end of the job says it."""
