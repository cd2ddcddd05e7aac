"""`Subscription`: the state of one watch of many jobs: what its reader was sent, and what to send next."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from emitd_handlers.errors import EmitdError, JobQueryInvalid
from emitd_handlers.jobs.paging import OVERHEAD_BYTES, job_bytes
from emitd_handlers.jobs.source import Job, JobChange, JobFilter
from emitd_handlers.jobs.watch.waiter import Waiter, wake_all
from emitd_handlers.record import JobState
from emitd_handlers.room import MAX_PART_BYTES, Room


class _Sent(NamedTuple):
    """The state of a job that a reader was last sent."""

    create_time_unix_nano: int
    revision: int
    attempt: int
    status: JobState


class Subscription:
    """Holds no queue, only the newest state of each job that is relevant for it.

    While a page of the snapshot is being read, each job that changes is relevant; otherwise one that matches or was
    sent.
    """

    def __init__(self, job_filter: JobFilter, max_jobs: int) -> None:
        #: Empty: any.
        self.job_ids = frozenset(job_filter.job_ids)
        #: A page of the snapshot is being read; its jobs may be sent although they no longer match.
        self.is_reading = False
        #: Without the ids: `take` gets no other jobs.
        self._filter = replace(job_filter, job_ids=())
        self._max_jobs = max_jobs
        self._sent: dict[str, _Sent] = {}
        #: The newest states not sent yet; None: the job was removed.
        self._pending: dict[str, Job | None] = {}
        #: Pending jobs that are sent without a pause.
        self._urgent: set[str] = set()
        #: Why the watch ends.
        self._end: EmitdError | None = None
        self._waiting: set[Waiter] = set()

    def take(self, job_id: str, job: Job | None) -> None:
        """Keep the new state of a job if it is relevant."""
        sent, noted = self._sent.get(job_id), self._pending.get(job_id)
        if self._end is not None or (job is not None and noted is not None and _is_older(job, noted)):
            return
        matches = job is not None and self._filter.matches(job)
        if not (self.is_reading or _is_relevant(sent, job, matches)):
            if sent is None:
                self._forget(job_id)
            return
        had_changes, was_urgent = bool(self._pending), bool(self._urgent)
        self._pending[job_id] = job
        if not matches or _changes_status(sent, job):
            self._urgent.add(job_id)
        else:
            self._urgent.discard(job_id)
        self._refuse_if_too_many()
        if not had_changes or (self._urgent and not was_urgent):
            wake_all(self._waiting)

    def end(self, error: EmitdError) -> None:
        """End the watch with an error."""
        self._end = error
        self._pending.clear()
        wake_all(self._waiting)

    def refuse_if_ended(self) -> None:
        """Raise the error of a watch that has ended."""
        if self._end is not None:
            raise self._end

    def take_page(self, jobs: Iterable[Job]) -> Sequence[JobChange]:
        """Return a page of the snapshot as changes. Raises JobQueryInvalid if the jobs are too many."""
        self.is_reading = False
        # A pending removal is that of the job in the page; otherwise changes of its successor are still to come.
        changes = [self._send(job) for job in jobs if self._pending.get(job.job_id, job) is not None]
        for job_id, job in list(self._pending.items()):
            matches = job is not None and self._filter.matches(job)
            if not _is_relevant(self._sent.get(job_id), job, matches):
                self._forget(job_id)
        return changes

    def take_changes(self) -> Sequence[JobChange]:
        """Return pending changes, as many as fit into one message. Raises JobQueryInvalid as above."""
        changes: list[JobChange] = []
        room = Room(len(self._pending), MAX_PART_BYTES)
        for job_id, job in list(self._pending.items()):
            size = OVERHEAD_BYTES + 4 * len(job_id) + (0 if job is None else job_bytes(job))
            if not room.take(size):
                break
            self._forget(job_id)
            sent = self._sent.get(job_id)
            if sent is not None and (job is None or job.create_time_unix_nano != sent.create_time_unix_nano):
                # Removed, and maybe another made under its id, whose revisions begin again.
                del self._sent[job_id]
                changes.append(JobChange(job_id, sent.revision, left_filter=True))
                sent = None
            if job is None:
                continue
            if self._filter.matches(job):
                changes.append(self._send(job))
            elif sent is not None:
                del self._sent[job_id]
                left = job if JobFilter(scope=self._filter.scope).matches(job) else None
                changes.append(JobChange(job_id, job.revision, left, left_filter=True))
        self._urgent.update(self._pending)  # the rest of a large part
        return changes

    async def wait_for_change(self, waiter: Waiter, earliest: float) -> bool:
        """Wait for a change, and unless one is of a status, until `earliest` by the loop's clock.

        Return False if the watch has been idle for too long.
        """
        while not self._pending and self._end is None:
            if not await waiter.wait_in(self._waiting):
                return False
        while waiter.now() < earliest and not self._urgent and self._end is None:
            if not await waiter.wait_in(self._waiting, earliest):
                return False
        return await waiter.take_turn()

    def _forget(self, job_id: str) -> None:
        self._pending.pop(job_id, None)
        self._urgent.discard(job_id)

    def _send(self, job: Job) -> JobChange:
        self._sent[job.job_id] = _Sent(job.create_time_unix_nano, job.revision, job.attempt, job.status)
        if len(self._sent) > self._max_jobs:
            raise self._too_many()
        return JobChange(job.job_id, job.revision, job)

    def _refuse_if_too_many(self) -> None:
        """End the watch if it would be sent too many jobs, so that a slow reader does not keep them all.

        Pending jobs that were not sent match, unless a page is being read.
        """
        if not self.is_reading and len(self._pending) > len(self._sent) + self._max_jobs:
            self.end(self._too_many())

    def _too_many(self) -> JobQueryInvalid:
        return JobQueryInvalid("", f"more than {self._max_jobs} jobs match: ask for fewer")


def _is_older(job: Job, noted: Job) -> bool:
    """Return whether a newer state of the job is already pending."""
    return job.create_time_unix_nano == noted.create_time_unix_nano and job.revision < noted.revision


def _is_relevant(sent: _Sent | None, job: Job | None, matches: bool) -> bool:
    """Return whether to send a state to a reader that was last sent `sent`."""
    if sent is None:
        return matches
    return (
        job is None or job.create_time_unix_nano != sent.create_time_unix_nano or job.revision > sent.revision
    )


def _changes_status(sent: _Sent | None, job: Job | None) -> bool:
    return (
        sent is None
        or job is None
        or job.status is not sent.status
        or job.attempt != sent.attempt
        or job.create_time_unix_nano != sent.create_time_unix_nano
    )
