"""`FilteredWatch`: sends changes of jobs to the watchers of many, within one process and event loop.

    filtered_watch = FilteredWatch(list_jobs)
    filtered_watch.publish(job)                            # for each new state of a job
    async for part in filtered_watch.watch(job_filter, max_jobs=1000): ...  # as `ManagedJobSource.watch_many`

A watch first subscribes to what is published, then reads the snapshot page by page, and then sends what was published
since and the snapshot did not have.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from msgspec.structs import asdict

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.source import Job, JobChange, JobFilter, JobPage, JobQuery
from emitd_handlers.jobs.watch.subscription import Subscription
from emitd_handlers.jobs.watch.waiter import Turns, Waiter
from emitd_handlers.room import MAX_PART_BYTES

#: Jobs in one part of a snapshot, if they fit into one message.
SNAPSHOT_PAGE_SIZE = 500

ListJobs: TypeAlias = Callable[[JobQuery], Awaitable[JobPage]]
#: Returns those of the jobs that exist.
LoadJobs: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Job]]]


class FilteredWatch:
    """For one event loop. As a container it has the ids of the watched jobs."""

    def __init__(self, list_jobs: ListJobs) -> None:
        self._list_jobs = list_jobs
        self._readers: set[Subscription] = set()
        #: The readers of jobs with any id, and the others by the ids that they watch.
        self._of_any: set[Subscription] = set()
        self._of_id: dict[str, set[Subscription]] = {}
        self._turns = Turns()
        self._closed = ""
        #: What was published since a load began, None for a removal; None: nothing is being loaded.
        self._overtaking: dict[str, Job | None] | None = None

    @property
    def has_readers(self) -> bool:
        """Whether there is a watch."""
        return bool(self._readers)

    def __contains__(self, job_id: object) -> bool:
        return bool(self._of_any) or job_id in self._of_id

    def publish(self, job: Job) -> None:
        """Send the new state of a job to its readers."""
        self._publish(job.job_id, job)

    def remove(self, job_ids: Iterable[str]) -> None:
        """Send the removal of jobs to their readers."""
        for job_id in job_ids:
            self._publish(job_id, None)

    async def refresh(self, job_ids: Sequence[str], load: LoadJobs) -> None:
        """Load jobs that another process may have changed or removed, and publish them.

        One call at a time. Raises what `load` does.
        """
        while job_ids:
            overtaking: dict[str, Job | None] = {}
            self._overtaking = overtaking
            try:
                jobs = {job.job_id: job for job in await load(job_ids)}
            finally:
                self._overtaking = None
            job_ids = self._publish_loaded(job_ids, jobs, overtaking)

    def reset(self, reason: str) -> None:
        """End the open watches with HandlerUnavailable: what they were sent may no longer be true."""
        for reader in self._readers:
            reader.end(HandlerUnavailable(reason))

    def close(self, reason: str) -> None:
        """End every watch, now and from now on, with HandlerUnavailable and this reason."""
        self._closed = reason
        self.reset(reason)

    async def watch(
        self,
        job_filter: JobFilter,
        *,
        max_jobs: int,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[JobChange] | None, None]:
        """Yield all jobs that match, an empty part, then changes: see `ManagedJobSource.watch_many`."""
        if self._closed:
            raise HandlerUnavailable(self._closed)
        loop = asyncio.get_running_loop()
        waiter = Waiter(self._turns, idle_seconds)
        reader = Subscription(job_filter, max_jobs)
        self._join(reader)
        try:
            page_token: str | None = ""
            while page_token is not None:
                reader.is_reading = True
                query = JobQuery(
                    **asdict(job_filter),
                    page_size=SNAPSHOT_PAGE_SIZE,
                    page_bytes=MAX_PART_BYTES,
                    page_token=page_token,
                )
                page = await self._list_jobs(query)
                page_token = page.next_page_token or None
                reader.refuse_if_ended()
                # A database does not know what the reader may see.
                if changes := reader.take_page(filter(job_filter.matches, page.jobs)):
                    yield changes
            reader.refuse_if_ended()
            earliest = 0.0
            yield ()
            waiter.restart()
            while True:
                has_changed = await reader.wait_for_change(waiter, earliest)
                reader.refuse_if_ended()
                if not has_changed:
                    yield None
                elif changes := reader.take_changes():
                    earliest = loop.time() + min_interval_seconds
                    yield changes
                waiter.restart()
        finally:
            waiter.close()
            self._leave(reader)

    def _publish(self, job_id: str, job: Job | None) -> None:
        if self._overtaking is not None:
            self._overtaking[job_id] = job
        for reader in chain(self._of_any, self._of_id.get(job_id, ())):
            reader.take(job_id, job)

    def _publish_loaded(
        self, job_ids: Iterable[str], jobs: Mapping[str, Job], overtaking: Mapping[str, Job | None]
    ) -> Sequence[str]:
        """Publish what was loaded, unless something newer was published during the load.

        Return the ids of the jobs whose order is unknown, because one of the states is a removal or another creation.
        """
        doubtful: list[str] = []
        for job_id in job_ids:
            loaded = jobs.get(job_id)
            if job_id not in overtaking:
                self._publish(job_id, loaded)
                continue
            published = overtaking[job_id]
            if loaded is None or published is None:
                if loaded is not published:
                    doubtful.append(job_id)
            elif loaded.create_time_unix_nano != published.create_time_unix_nano:
                doubtful.append(job_id)
            elif loaded.revision > published.revision:
                self._publish(job_id, loaded)
        return doubtful

    def _join(self, reader: Subscription) -> None:
        self._readers.add(reader)
        if not reader.job_ids:
            self._of_any.add(reader)
        for job_id in reader.job_ids:
            self._of_id.setdefault(job_id, set()).add(reader)

    def _leave(self, reader: Subscription) -> None:
        self._readers.discard(reader)
        self._of_any.discard(reader)
        for job_id in reader.job_ids:
            self._of_id[job_id].discard(reader)
            if not self._of_id[job_id]:
                del self._of_id[job_id]
