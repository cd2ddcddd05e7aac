"""`JobCache`: the rows of jobs that were reported lately, in memory."""

from collections.abc import Iterable

from emitd_handlers.jobs.transaction import ReadJob

__all__ = ["CachedJob", "JobCache"]


class CachedJob(ReadJob, gc=False):
    """A job, the row that it stands in, and whether it is too large to be kept in memory."""

    rowid: int = 0
    is_large: bool = False


class JobCache:
    """Keeps about `size` jobs and drops those that were not asked for the longest time.

    It has two generations. What is asked for goes to the young one; when that is half the size, it takes the
    place of the old one, which is dropped. So there is no bookkeeping for each job.
    """

    def __init__(self, size: int) -> None:
        self._generation_size = size // 2
        self._young: dict[str, CachedJob] = {}
        self._old: dict[str, CachedJob] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, job_id: str) -> CachedJob | None:
        """Return the job, or None if it is not here."""
        cached = self._young.get(job_id)
        if cached is None:
            cached = self._old.get(job_id)
            if cached is not None:
                self._young[job_id] = cached
        return cached

    def add(self, cached: CachedJob) -> None:
        """Keep a job that is not here; at least until `trim`."""
        self._young[cached.job.job_id] = cached

    def trim(self, unwanted: Iterable[str]) -> None:
        """Drop the jobs with the ids given, and those that are too many."""
        for job_id in unwanted:
            self._young.pop(job_id, None)
            self._old.pop(job_id, None)
        if len(self._young) > self._generation_size:
            self._old, self._young = self._young, {}
