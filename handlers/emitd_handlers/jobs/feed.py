"""`JobFeed`: tells everybody who watches many jobs, within one process and event loop.

    feed = JobFeed(list_jobs)
    feed.publish(job)                            # whenever the newest state of a job is known
    async for part in feed.watch(job_filter, max_jobs=1000): ...  # as `ManagedJobSource.watch_many`

A watch first takes note of what is published, then reads the snapshot page by page, and then tells what it noted
and what the snapshot had not. It holds no queue: of each job it notes the newest state alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from emitd_handlers.errors import HandlerUnavailable, JobQueryInvalid
from emitd_handlers.job import Job, JobChange, JobFilter, JobPage, JobQuery
from emitd_handlers.jobs.paging import MAX_PAGE_BYTES, job_bytes
from emitd_handlers.jobs.waiter import Waiter, wake_all
from emitd_handlers.record import JobState

__all__ = ["JobFeed"]

#: Jobs in one part of a snapshot.
SNAPSHOT_PAGE_SIZE = 500

ListJobs: TypeAlias = Callable[[JobQuery], Awaitable[JobPage]]
#: Returns those of the jobs that exist.
LoadJobs: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Job]]]


class JobFeed:
    """Every method is for one event loop."""

    def __init__(self, list_jobs: ListJobs) -> None:
        self._list_jobs = list_jobs
        self._readers: set[_Reader] = set()
        self._closed = ""
        #: What was published since a load began; None: none is under way.
        self._overtaking: dict[str, Job] | None = None

    @property
    def has_readers(self) -> bool:
        """Whether anybody watches: only then changes need to be published."""
        return bool(self._readers)

    def publish(self, job: Job) -> None:
        """Tell whom it concerns what a job is now."""
        if self._overtaking is not None:
            self._overtaking[job.job_id] = job
        for reader in self._readers:
            reader.take(job.job_id, job)

    async def refresh(self, job_ids: Sequence[str], load: LoadJobs) -> None:
        """Load jobs that somebody else may have changed or removed, and tell whom it concerns.

        One call at a time. Raises what `load` does.
        """
        overtaking: dict[str, Job] = {}
        self._overtaking = overtaking
        try:
            jobs = await load(job_ids)
        finally:
            self._overtaking = None
        gone = set(job_ids).difference(overtaking)
        for job in jobs:
            gone.discard(job.job_id)
            newer = overtaking.get(job.job_id)
            if newer is None or _is_newer(job, newer):
                self.publish(job)
        self.remove(gone)

    def remove(self, job_ids: Iterable[str]) -> None:
        """Tell whom it concerns that jobs exist no more."""
        for job_id in job_ids:
            for reader in self._readers:
                reader.take(job_id, None)

    def close(self, reason: str) -> None:
        """End every watch, now and from now on, with HandlerUnavailable and this reason."""
        self._closed = reason
        for reader in self._readers:
            reader.close()

    async def watch(
        self,
        job_filter: JobFilter,
        *,
        max_jobs: int,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[JobChange] | None, None]:
        """Yield all jobs that match, an empty part, then changes: see `ManagedJobSource.watch_many`."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop, idle_seconds)
        reader = _Reader(job_filter, max_jobs)
        self._readers.add(reader)
        try:
            page_token: str | None = ""
            while page_token is not None:
                self._refuse_if_closed()
                page = await self._list_jobs(_query(job_filter, page_token))
                page_token = page.next_page_token or None
                if page.jobs:
                    yield reader.tell_all(page.jobs)
            reader.is_complete = True
            earliest = 0.0
            yield ()
            while True:
                waiter.expect_news()
                has_news = await reader.wait_for_news(waiter, earliest)
                self._refuse_if_closed()
                if not has_news:
                    yield None
                elif changes := reader.tell_news():
                    earliest = loop.time() + min_interval_seconds
                    yield changes
        finally:
            waiter.close()
            self._readers.discard(reader)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise HandlerUnavailable(self._closed)


class _Told(NamedTuple):
    """What a reader was last told of a job."""

    create_time_unix_nano: int
    revision: int
    attempt: int
    status: JobState


class _Reader:
    """One watch: what it was told, and what it is to be told next."""

    def __init__(self, job_filter: JobFilter, max_jobs: int) -> None:
        #: The snapshot has been told: from here on only what matches, or did, needs to be noted.
        self.is_complete = False
        self._filter = job_filter
        self._max_jobs = max_jobs
        self._told: dict[str, _Told] = {}
        #: The newest states that are known; None: the job was removed.
        self._news: dict[str, Job | None] = {}
        self._is_urgent = False
        self._closed = False
        self._waiting: set[Waiter] = set()

    def take(self, job_id: str, job: Job | None) -> None:
        """Note the state of a job, if that concerns this reader."""
        told, noted = self._told.get(job_id), self._news.get(job_id)
        is_foreign = told is None and job_id not in self._news
        if is_foreign and self.is_complete and (job is None or not self._filter.matches(job)):
            return
        if job is not None and noted is not None and not _is_newer(job, noted):
            return
        had_news = bool(self._news)
        self._news[job_id] = job
        if not self._is_urgent and self._changes_status(told, job):
            self._is_urgent = True
            wake_all(self._waiting)
        elif not had_news:
            wake_all(self._waiting)

    def close(self) -> None:
        """End the wait, for good."""
        self._closed = True
        wake_all(self._waiting)

    def tell_all(self, jobs: Iterable[Job]) -> Sequence[JobChange]:
        """Return a part of the snapshot. Raises JobQueryInvalid when it becomes too large."""
        return [self._tell(job) for job in jobs]

    def tell_news(self) -> Sequence[JobChange]:
        """Return the changes that are noted, as many as go into one message. Raises JobQueryInvalid as above."""
        changes: list[JobChange] = []
        size = 0
        while self._news and size < MAX_PAGE_BYTES:
            job_id = next(iter(self._news))
            job = self._news.pop(job_id)
            told = self._told.get(job_id)
            if told is not None and (job is None or job.create_time_unix_nano != told.create_time_unix_nano):
                # Removed, and maybe another made under its id, whose revisions begin anew.
                del self._told[job_id]
                changes.append(JobChange(job_id, told.revision, left_filter=True))
                told = None
            if job is None or (told is not None and job.revision <= told.revision):
                continue
            if self._filter.matches(job):
                changes.append(self._tell(job))
            elif told is not None:
                del self._told[job_id]
                changes.append(JobChange(job_id, job.revision, job, left_filter=True))
            size += job_bytes(job)
        self._is_urgent = bool(self._news)
        return changes

    async def wait_for_news(self, waiter: Waiter, earliest: float) -> bool:
        """Wait for something to tell, and if it changes no status until `earliest`, by the loop's clock.

        Return False when the watch has been idle for too long.
        """
        while not self._news and not self._closed:
            if not await waiter.wait_in(self._waiting):
                return False
        while waiter.now() < earliest and not self._is_urgent and not self._closed:
            if not await waiter.wait_in(self._waiting, earliest):
                return False
        return True

    def _tell(self, job: Job) -> JobChange:
        self._told[job.job_id] = _Told(job.create_time_unix_nano, job.revision, job.attempt, job.status)
        if len(self._told) > self._max_jobs:
            raise JobQueryInvalid("", f"more than {self._max_jobs} jobs match: ask for fewer")
        return JobChange(job.job_id, job.revision, job)

    def _changes_status(self, told: _Told | None, job: Job | None) -> bool:
        return (
            told is None
            or job is None
            or job.status is not told.status
            or job.attempt != told.attempt
            or not self._filter.matches(job)
        )


def _is_newer(job: Job, known: Job) -> bool:
    return job.revision > known.revision or job.create_time_unix_nano > known.create_time_unix_nano


def _query(job_filter: JobFilter, page_token: str) -> JobQuery:
    return JobQuery(
        job_type=job_filter.job_type,
        statuses=job_filter.statuses,
        job_ids=job_filter.job_ids,
        labels=job_filter.labels,
        page_size=SNAPSHOT_PAGE_SIZE,
        page_token=page_token,
    )
