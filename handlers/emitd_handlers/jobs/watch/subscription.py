"""`Subscription`: one watch of many jobs: what its reader was told, and what it is to be told next."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from emitd_handlers.errors import EmitdError, JobQueryInvalid
from emitd_handlers.jobs.paging import MAX_PAGE_BYTES, OVERHEAD_BYTES, job_bytes
from emitd_handlers.jobs.source import Job, JobChange, JobFilter
from emitd_handlers.jobs.watch.waiter import Waiter, wake_all
from emitd_handlers.record import JobState

__all__ = ["Subscription"]


class _Told(NamedTuple):
    """What a reader was last told of a job."""

    create_time_unix_nano: int
    revision: int
    attempt: int
    status: JobState


class Subscription:
    """Holds no queue: of each job that concerns it, it notes the newest state alone.

    While a page of the snapshot is on its way, that is any job that changes; else the jobs that match or were told.
    """

    def __init__(self, job_filter: JobFilter, max_jobs: int) -> None:
        #: Empty: any.
        self.job_ids = frozenset(job_filter.job_ids)
        #: A page of the snapshot is on its way, with jobs that may be told although they match no longer.
        self.is_reading = False
        #: It is given no jobs but those with its ids.
        self._filter = replace(job_filter, job_ids=())
        self._max_jobs = max_jobs
        self._told: dict[str, _Told] = {}
        #: The newest states that are known and were not told; None: the job was removed.
        self._pending: dict[str, Job | None] = {}
        #: Whose news are not held back.
        self._urgent: set[str] = set()
        #: Why the watch ends.
        self._end: EmitdError | None = None
        self._waiting: set[Waiter] = set()

    def take(self, job_id: str, job: Job | None) -> None:
        """Note the state of a job, if that concerns this reader."""
        told, noted = self._told.get(job_id), self._pending.get(job_id)
        if self._end is not None or (job is not None and noted is not None and _is_older(job, noted)):
            return
        matches = job is not None and self._filter.matches(job)
        if not (self.is_reading or _is_news(told, job, matches)):
            if told is None:
                self._forget(job_id)
            return
        had_news, was_urgent = bool(self._pending), bool(self._urgent)
        self._pending[job_id] = job
        if not matches or _changes_status(told, job):
            self._urgent.add(job_id)
        else:
            self._urgent.discard(job_id)
        self._refuse_if_too_many()
        if not had_news or (self._urgent and not was_urgent):
            wake_all(self._waiting)

    def end(self, error: EmitdError) -> None:
        """Let the watch end with an error, and note nothing more."""
        self._end = error
        self._pending.clear()
        wake_all(self._waiting)

    def refuse_if_ended(self) -> None:
        """Raise the error that the watch ends with, if it does."""
        if self._end is not None:
            raise self._end

    def tell_page(self, jobs: Iterable[Job]) -> Sequence[JobChange]:
        """Return a part of the snapshot. Raises JobQueryInvalid when it becomes too large."""
        self.is_reading = False
        # Where a removal is noted, it is that of the job in the page; or else news of the next one are still to come.
        changes = [self._tell(job) for job in jobs if self._pending.get(job.job_id, job) is not None]
        for job_id, job in list(self._pending.items()):
            matches = job is not None and self._filter.matches(job)
            if not _is_news(self._told.get(job_id), job, matches):
                self._forget(job_id)
        return changes

    def tell_news(self) -> Sequence[JobChange]:
        """Return the changes that are noted, as many as go into one message. Raises JobQueryInvalid as above."""
        changes: list[JobChange] = []
        size = 0
        for job_id, job in list(self._pending.items()):
            if size >= MAX_PAGE_BYTES:
                break
            self._forget(job_id)
            told = self._told.get(job_id)
            if told is not None and (job is None or job.create_time_unix_nano != told.create_time_unix_nano):
                # Removed, and maybe another made under its id, whose revisions begin anew.
                del self._told[job_id]
                changes.append(JobChange(job_id, told.revision, left_filter=True))
                size += OVERHEAD_BYTES + len(job_id)
                told = None
            if job is None:
                continue
            if self._filter.matches(job):
                changes.append(self._tell(job))
                size += job_bytes(job)
            elif told is not None:
                del self._told[job_id]
                changes.append(JobChange(job_id, job.revision, job, left_filter=True))
                size += job_bytes(job)
        self._urgent.update(self._pending)  # the rest of a large part
        return changes

    async def wait_for_news(self, waiter: Waiter, earliest: float) -> bool:
        """Wait for something to tell, and if it changes no status until `earliest`, by the loop's clock.

        Return False when the watch has been idle for too long.
        """
        while not self._pending and self._end is None:
            if not await waiter.wait_in(self._waiting):
                return False
        while waiter.now() < earliest and not self._urgent and self._end is None:
            if not await waiter.wait_in(self._waiting, earliest):
                return False
        return await waiter.take_turn()

    def _forget(self, job_id: str) -> None:
        """Tell nothing of a job, or what was noted has been told."""
        self._pending.pop(job_id, None)
        self._urgent.discard(job_id)

    def _tell(self, job: Job) -> JobChange:
        self._told[job.job_id] = _Told(job.create_time_unix_nano, job.revision, job.attempt, job.status)
        if len(self._told) > self._max_jobs:
            raise self._too_many()
        return JobChange(job.job_id, job.revision, job)

    def _refuse_if_too_many(self) -> None:
        """End the watch when it would be told too many jobs, so that a slow reader does not keep them all.

        Whatever is noted of jobs that were not told matches, unless a page is on its way.
        """
        if not self.is_reading and len(self._pending) > len(self._told) + self._max_jobs:
            self.end(self._too_many())

    def _too_many(self) -> JobQueryInvalid:
        return JobQueryInvalid("", f"more than {self._max_jobs} jobs match: ask for fewer")


def _is_older(job: Job, noted: Job) -> bool:
    """Return whether a job that is published late is known in a newer state."""
    return job.create_time_unix_nano == noted.create_time_unix_nano and job.revision < noted.revision


def _is_news(told: _Told | None, job: Job | None, matches: bool) -> bool:
    """Return whether a state is to be told to who was told `told`."""
    if told is None:
        return matches
    return (
        job is None or job.create_time_unix_nano != told.create_time_unix_nano or job.revision > told.revision
    )


def _changes_status(told: _Told | None, job: Job | None) -> bool:
    return (
        told is None
        or job is None
        or job.status is not told.status
        or job.attempt != told.attempt
        or job.create_time_unix_nano != told.create_time_unix_nano
    )
