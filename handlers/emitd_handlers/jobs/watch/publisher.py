"""`ChangePublisher`: sends changes to all watchers; `ChangePoller`: finds the changes that other processes made.

In a shared database notifications say at once which jobs other processes have changed. A notification can be lost, with
its connection or behind a pooler, so the poller also asks from time to time: for the revisions of the jobs that are
watched one by one, and for the ids of all that changed since it last asked. A lost notification delays a change, but
none is missed.
"""

import asyncio
from collections.abc import Sequence

from emitd_handlers.clock import is_set_within
from emitd_handlers.diagnostics import Report, report
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.store import JobHistory, SharedJobStore
from emitd_handlers.jobs.watch.broadcaster import JobBroadcaster, LoadHistory
from emitd_handlers.jobs.watch.filtered import FilteredWatch, ListJobs


class ChangePublisher:
    """As a container it has the ids of the watched jobs."""

    def __init__(self, load_history: LoadHistory, list_jobs: ListJobs, *, is_shared: bool = False) -> None:
        """`is_shared`: other processes may change jobs too."""
        self.broadcaster = JobBroadcaster(load_history, is_shared=is_shared)
        self.filtered_watch = FilteredWatch(list_jobs)

    def __bool__(self) -> bool:
        return self.filtered_watch.has_readers or bool(self.broadcaster.watched)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self.filtered_watch or job_id in self.broadcaster.watched

    def publish(self, changes: Sequence[JobHistory]) -> None:
        """Send the changes of one transaction; to be called in the order of commits."""
        for change in changes:
            self.broadcaster.publish(change.job, change.transitions, after_revision=change.after_revision)
        if self.filtered_watch.has_readers:
            for change in changes:
                self.filtered_watch.publish(change.job)

    def remove(self, job_ids: Sequence[str]) -> None:
        """Send the removal of jobs."""
        self.broadcaster.remove(job_ids)
        self.filtered_watch.remove(job_ids)

    def close(self, reason: str) -> None:
        """End every watch with HandlerUnavailable and this reason."""
        self.broadcaster.close(reason)
        self.filtered_watch.close(reason)


#: How many jobs are asked for at once.
MAX_JOBS = 1000


class ChangePoller:
    """For one event loop."""

    def __init__(
        self,
        store: SharedJobStore,
        publisher: ChangePublisher,
        *,
        interval_seconds: float,
        report: Report = report,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._interval = interval_seconds
        self._report = report
        self._noticed: set[str] = set()
        self._looks_at_all = False
        self._woken = asyncio.Event()
        #: As `SharedJobStore.changes_since`.
        self._mark: int | None = None

    def notice(self, job_ids: Sequence[str] | None) -> None:
        """Look soon at jobs that another process has changed; None: at all."""
        if job_ids is None:
            self._looks_at_all = True
        else:
            self._noticed.update(job_id for job_id in job_ids if job_id in self._publisher)
        if self._looks_at_all or self._noticed:
            self._woken.set()

    async def run(self) -> None:
        """Look at jobs that were noticed, and at each interval at all; until cancelled."""
        clock = asyncio.get_running_loop().time
        next_look = clock()
        while True:
            looks_at_all = self._looks_at_all or clock() >= next_look
            noticed, self._noticed = self._noticed, set()
            self._looks_at_all = False
            self._woken.clear()
            try:
                if noticed:
                    await self._refresh_watched(list(noticed))
                    await self._refresh_filtered(list(noticed))
                if looks_at_all:
                    next_look = clock() + self._interval
                    await self._look_at_all()
            except Exception as error:
                if not isinstance(error, HandlerUnavailable):
                    self._report(f"could not look for changes of jobs by others: {error!r}")
                self._noticed |= noticed
                await asyncio.sleep(self._interval)
            await is_set_within(self._woken, next_look - clock())

    async def _look_at_all(self) -> None:
        known = self._publisher.broadcaster.known()
        changed: list[str] = []
        for job_ids in _parts(list(known)):
            revisions = await self._store.revisions(job_ids)
            changed += [job_id for job_id in job_ids if revisions.get(job_id) != known[job_id]]
        await self._refresh_watched(changed)
        await self._look_at_changes()

    async def _look_at_changes(self) -> None:
        """Send what has changed since the last look to the watchers of many jobs."""
        filtered_watch = self._publisher.filtered_watch
        # Without a reader only the mark is needed: the next look begins there.
        since = self._mark if filtered_watch.has_readers else None
        mark, changed = await self._store.changes_since(since)
        if self._mark is not None and mark < self._mark:
            filtered_watch.reset("the database was set back: watch again")
        elif since is None and filtered_watch.has_readers:
            # They may have begun to read before this mark was made.
            if self._mark is not None:
                return  # and look from the mark before it, next time
            filtered_watch.reset("the service had only begun to look for changes: watch again")
        await self._refresh_filtered(changed)
        self._mark = mark

    async def _refresh_watched(self, job_ids: Sequence[str]) -> None:
        broadcaster = self._publisher.broadcaster
        unclear = {job_id for job_id in job_ids if job_id in broadcaster.watched}
        if len(unclear) > 1:  # mostly it is progress: one query for all of them
            for part in _parts(list(unclear)):
                for job in await self._store.load_many(part):
                    if broadcaster.learn_progress(job):
                        unclear.discard(job.job_id)
        for job_id in unclear:
            await broadcaster.refresh(job_id)

    async def _refresh_filtered(self, job_ids: Sequence[str]) -> None:
        filtered_watch = self._publisher.filtered_watch
        for part in _parts([job_id for job_id in job_ids if job_id in filtered_watch]):
            await filtered_watch.refresh(part, self._store.load_many)


def _parts(job_ids: Sequence[str]) -> Sequence[Sequence[str]]:
    return [job_ids[start : start + MAX_JOBS] for start in range(0, len(job_ids), MAX_JOBS)]
