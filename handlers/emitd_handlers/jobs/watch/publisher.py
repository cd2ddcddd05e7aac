"""`ChangePublisher`: everybody who is to be told of changes, whether they watch one job or many."""

from collections.abc import Sequence

from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.watch.broadcaster import JobBroadcaster, LoadHistory
from emitd_handlers.jobs.watch.filtered import FilteredWatch, ListJobs

__all__ = ["ChangePublisher"]


class ChangePublisher:
    """As a container it has the ids of the jobs whose changes somebody wants to hear of."""

    def __init__(self, load_history: LoadHistory, list_jobs: ListJobs, *, is_shared: bool = False) -> None:
        """`is_shared`: others may change jobs too, and tell of it later."""
        self.hub = JobBroadcaster(load_history, is_shared=is_shared)
        self.feed = FilteredWatch(list_jobs)

    def __bool__(self) -> bool:
        return self.feed.has_readers or bool(self.hub.watched)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self.feed or job_id in self.hub.watched

    def publish(self, changes: Sequence[JobHistory]) -> None:
        """Tell what one transaction has done; to be called in the order of commits."""
        for change in changes:
            self.hub.publish(change.job, change.transitions, after_revision=change.after_revision)
        if self.feed.has_readers:
            for change in changes:
                self.feed.publish(change.job)

    def remove(self, job_ids: Sequence[str]) -> None:
        """Tell that jobs exist no more."""
        self.hub.remove(job_ids)
        self.feed.remove(job_ids)

    def close(self, reason: str) -> None:
        """End every watch with HandlerUnavailable and this reason."""
        self.hub.close(reason)
        self.feed.close(reason)
