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
        self.broadcaster = JobBroadcaster(load_history, is_shared=is_shared)
        self.filtered_watch = FilteredWatch(list_jobs)

    def __bool__(self) -> bool:
        return self.filtered_watch.has_readers or bool(self.broadcaster.watched)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self.filtered_watch or job_id in self.broadcaster.watched

    def publish(self, changes: Sequence[JobHistory]) -> None:
        """Tell what one transaction has done; to be called in the order of commits."""
        for change in changes:
            self.broadcaster.publish(change.job, change.transitions, after_revision=change.after_revision)
        if self.filtered_watch.has_readers:
            for change in changes:
                self.filtered_watch.publish(change.job)

    def remove(self, job_ids: Sequence[str]) -> None:
        """Tell that jobs exist no more."""
        self.broadcaster.remove(job_ids)
        self.filtered_watch.remove(job_ids)

    def close(self, reason: str) -> None:
        """End every watch with HandlerUnavailable and this reason."""
        self.broadcaster.close(reason)
        self.filtered_watch.close(reason)
