"""`JobBoard`: what is known of the jobs that a command watches, merged from whatever streams tell of them."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from emitd.v1 import Job, JobChange, WatchJobResponse, WatchJobsResponse
from emitd_cli.jobs.durations import ServerClock
from emitd_cli.jobs.text import has_ended

#: So long a job that matches no longer stays in sight.
LEFT_SECONDS = 5.0


@dataclass
class Row:
    """One job in sight."""

    #: Of a job that nothing is known of yet only the id.
    job: Job
    #: Where its newest attempt stood when it began to run, as far as that was seen.
    start_progress: int = 0
    #: When it was told to match no longer, by the monotonic clock.
    left_at: float | None = None
    #: Why nothing more is to be learned of it, or empty.
    problem: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it is yet to end, and still to be watched."""
        return self.left_at is None and not self.problem and not has_ended(self.job)


class BoardChange(NamedTuple):
    """What a message says of one job that was not known before."""

    job: Job
    #: It matches the filter no longer; `job` is its last known state.
    has_left: bool = False
    #: It left because it exists no more.
    is_removed: bool = False


class JobBoard:
    """The rows of all jobs in sight, by their ids; `job_ids` are in sight from the beginning, in this order."""

    def __init__(
        self,
        job_ids: Sequence[str] = (),
        *,
        is_complete: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = ServerClock()
        self.rows = {job_id: Row(Job(job_id=job_id)) for job_id in job_ids}
        #: Whether the rows have an order that people gave them.
        self.has_order = bool(job_ids)
        #: Whether it is known which jobs there are: before, there is nothing to show.
        self.is_complete = is_complete
        self._monotonic = monotonic
        #: In a snapshot: the jobs known before that it has not told yet.
        self._untold: set[str] = set()
        self._is_snapshot = True

    def take(self, response: WatchJobResponse | WatchJobsResponse, *, begins: bool) -> list[BoardChange]:
        """Take a message, and return what is new in it; `begins`: it is the first of its connection."""
        if isinstance(response, WatchJobsResponse):
            return self._take_many(response, begins=begins)
        self.is_complete = True
        self._put(response.job, is_live=not begins)
        return [] if response.has_more else [BoardChange(response.job)]

    def forget(self) -> None:
        """Remove the jobs that have left some seconds ago."""
        oldest = self._monotonic() - LEFT_SECONDS
        left = [(job_id, row.left_at) for job_id, row in self.rows.items() if row.left_at is not None]
        for job_id, left_at in left:
            if left_at <= oldest:
                del self.rows[job_id]

    def newest_first(self) -> list[Row]:
        """Return the rows in the order of a list of jobs."""
        return sorted(self.rows.values(), key=_newest, reverse=True)

    def _take_many(self, response: WatchJobsResponse, *, begins: bool) -> list[BoardChange]:
        self.forget()
        if begins:
            self._is_snapshot = True
            self._untold = {job_id for job_id, row in self.rows.items() if row.left_at is None}
        changes = [found for change in response.changes if (found := self._change(change)) is not None]
        if response.snapshot_end:
            # What the snapshot has not told matches no longer.
            changes += [self._leave(self.rows[job_id]) for job_id in sorted(self._untold)]
            self._untold.clear()
            self._is_snapshot, self.is_complete = False, True
        return changes

    def _change(self, change: JobChange) -> BoardChange | None:
        job, row = change.job, self.rows.get(change.job.job_id)
        self._untold.discard(job.job_id)
        if row is not None and row.left_at is not None:
            row = None  # it is in sight only for people
        is_removed = not job.status
        if change.left_filter:
            if row is None or (not is_removed and _version(job) < _version(row.job)):
                return None
            if not is_removed:
                self._put(job, is_live=not self._is_snapshot)
            return self._leave(row, is_removed=is_removed)
        if row is not None and (_version(job) < _version(row.job) or job == row.job):
            return None
        self._put(job, is_live=not self._is_snapshot)
        return BoardChange(job)

    def _leave(self, row: Row, *, is_removed: bool = False) -> BoardChange:
        row.left_at = self._monotonic()
        return BoardChange(row.job, has_left=True, is_removed=is_removed)

    def _put(self, job: Job, *, is_live: bool) -> None:
        known = self.rows.get(job.job_id)
        row = Row(Job()) if known is None or known.left_at is not None else known
        # What changed the job is what made the server send this, if it has changed.
        is_changed = job.update_time_unix_nano > row.job.update_time_unix_nano
        self.clock.saw(job.update_time_unix_nano, is_live=is_live and is_changed)
        if job.start_time_unix_nano != row.job.start_time_unix_nano:
            has_just_started = job.start_time_unix_nano == job.update_time_unix_nano
            row.start_progress = job.progress if has_just_started else 0
        row.job = job
        self.rows[job.job_id] = row


def active_first(rows: Collection[Row]) -> list[Row]:
    """Return the rows with those of active jobs first, else in their order."""
    return sorted(rows, key=lambda row: not row.is_active)


def _version(job: Job) -> tuple[int, int]:
    """What is greater of a later state; a job that was made anew under its id begins with revision 1."""
    return job.create_time_unix_nano, job.revision


def _newest(row: Row) -> tuple[int, str]:
    return row.job.create_time_unix_nano, row.job.job_id
