"""`JobBoard`: the state of the jobs that a command watches, and which of them fit into a frame."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from emitd.v1 import Job, JobChange, WatchJobResponse, WatchJobsResponse
from emitd_cli.command_line.values import STATUSES
from emitd_cli.jobs.text import has_ended
from emitd_cli.terminal.output import clip

#: How long a job stays in sight after it has left the filter.
LEFT_SECONDS = 5.0
NO_JOBS = "no job is like that"


@dataclass
class Row:
    """One job in sight."""

    #: Only the id, before the first message.
    job: Job
    #: The progress with which the newest attempt began to run, as far as that was seen.
    start_progress: int = 0
    #: When it left the filter, by the monotonic clock.
    left_at: float | None = None
    #: Why it cannot be watched further, or empty.
    problem: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it has not ended, and is still watched."""
        return self.left_at is None and not self.problem and not has_ended(self.job)


class BoardChange(NamedTuple):
    """What a message says of one job that was not known before."""

    job: Job
    #: It has left the filter; `job` is its last known state.
    has_left: bool = False
    #: It has left because it was removed.
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
        self.rows = {job_id: Row(Job(job_id=job_id)) for job_id in job_ids}
        #: Whether the user gave the order of the rows.
        self.has_order = bool(job_ids)
        #: Whether it is known which jobs there are; before, a frame shows nothing.
        self.is_complete = is_complete
        self._monotonic = monotonic
        #: During a snapshot: the jobs known before that it has not mentioned yet.
        self._missing: set[str] = set()

    def take(self, response: WatchJobResponse | WatchJobsResponse, *, begins: bool) -> list[BoardChange]:
        """Take a message, and return the changes in it; `begins`: it is the first of its connection."""
        if isinstance(response, WatchJobsResponse):
            return self._take_many(response, begins=begins)
        self.is_complete = True
        self._put(response.job)
        return [] if response.has_more else [BoardChange(response.job)]

    def forget(self) -> None:
        """Remove the jobs that have left some seconds ago."""
        oldest = self._monotonic() - LEFT_SECONDS
        for job_id, row in list(self.rows.items()):
            if row.left_at is not None and row.left_at <= oldest:
                del self.rows[job_id]

    def _take_many(self, response: WatchJobsResponse, *, begins: bool) -> list[BoardChange]:
        self.forget()
        if begins:
            self._missing = {job_id for job_id, row in self.rows.items() if row.left_at is None}
        changes = [found for change in response.changes if (found := self._change(change)) is not None]
        if response.snapshot_end:
            # The snapshot did not mention these: they have left the filter.
            changes += [self._leave(self.rows[job_id]) for job_id in sorted(self._missing)]
            self._missing.clear()
            self.is_complete = True
        return changes

    def _change(self, change: JobChange) -> BoardChange | None:
        job, row = change.job, self.rows.get(change.job.job_id)
        self._missing.discard(job.job_id)
        if row is not None and row.left_at is not None:
            row = None  # only people still see it
        is_removed = not job.status
        if change.left_filter:
            if row is None or (not is_removed and _version(job) < _version(row.job)):
                return None
            if not is_removed:
                self._put(job)
            return self._leave(row, is_removed=is_removed)
        if row is not None and (_version(job) < _version(row.job) or job == row.job):
            return None
        self._put(job)
        return BoardChange(job)

    def _leave(self, row: Row, *, is_removed: bool = False) -> BoardChange:
        row.left_at = self._monotonic()
        return BoardChange(row.job, has_left=True, is_removed=is_removed)

    def _put(self, job: Job) -> None:
        known = self.rows.get(job.job_id)
        row = Row(Job()) if known is None or known.left_at is not None else known
        if job.start_time_unix_nano != row.job.start_time_unix_nano:
            has_just_started = job.start_time_unix_nano == job.update_time_unix_nano
            row.start_progress = job.progress if has_just_started else 0
        row.job = job
        self.rows[job.job_id] = row


def watch_rows(board: JobBoard, height: int) -> list[Row]:
    """Return the rows of a frame: in the order of the ids on the command line, if all of them fit.

    Otherwise the active jobs come first; without ids, the newest of them.
    """
    rows = list(board.rows.values())
    if not board.has_order:
        rows.sort(key=lambda row: (row.job.create_time_unix_nano, row.job.job_id), reverse=True)
    elif len(rows) <= _room(height):
        return rows
    return sorted(rows, key=lambda row: not row.is_active)


def frame_lines(
    rows: Sequence[Row],
    width: int,
    height: int,
    draw: Callable[[Sequence[Row]], str],
    most: int | None = None,
) -> list[str]:
    """Return the lines of a frame no higher than `height`, with at most `most` of the rows.

    `draw` draws a heading and a line for each of the rows that it gets; a last line counts the others.
    """
    if not rows:
        return [clip(NO_JOBS, width)]
    room = _room(height)
    most = len(rows) if most is None else min(most, len(rows))
    if most > room or most < len(rows):
        most = min(most, max(room - 1, 1))
    rest = rows[most:]
    return [*draw(rows[:most]).splitlines(), *([clip(_how_many_more(rest), width)] if rest else ())]


def _version(job: Job) -> tuple[int, int]:
    """Return a key that grows with each state; a job that was removed and made again starts at revision 1."""
    return job.create_time_unix_nano, job.revision


def _room(height: int) -> int:
    # One line is for the heading, and one stays free for what the user types.
    return max(height - 2, 1)


def _how_many_more(rows: Sequence[Row]) -> str:
    counts = Counter(row.job.status for row in rows)
    each = [f"{counts[status]} {name}" for name, status in STATUSES.items() if counts[status]]
    return f"and {len(rows)} more{': ' if each else ''}{', '.join(each)}"
