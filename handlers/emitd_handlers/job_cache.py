"""`JobCache`: the rows of jobs that were changed lately, in memory."""

from collections.abc import Mapping

import msgspec

from emitd_handlers.job import Job

__all__ = ["JobCache", "StoredJob"]

#: A job with more text than this is not kept, so that the number of jobs bounds the memory.
MAX_CHARACTERS = 4096
#: Nor is one with more labels, which are two short strings each.
MAX_LABELS = 8


class StoredJob(msgspec.Struct, frozen=True, gc=False):
    """A job and the row that it stands in."""

    rowid: int
    job: Job


class JobCache:
    """Keeps about `size` jobs, at most, and drops those that were not changed for the longest time.

    It has two generations. What is changed goes to the young one; when that is half the size, the old one is
    dropped and the young one takes its place. So there is no bookkeeping for each job.
    """

    def __init__(self, size: int) -> None:
        self._generation_size = size // 2
        self._young: dict[str, StoredJob] = {}
        self._old: dict[str, StoredJob] = {}

    def get(self, job_id: str) -> StoredJob | None:
        """Return the job, or None if it is not here."""
        return self._young.get(job_id) or self._old.get(job_id)

    def keep(self, jobs: Mapping[str, StoredJob]) -> None:
        """Keep the jobs, by id, in place of what was kept of them before."""
        young = self._young
        young.update(jobs)
        for job_id in [
            job_id
            for job_id, stored in jobs.items()
            if len((job := stored.job).message) + len(job.details_json) + len(job.failure_message)
            > MAX_CHARACTERS
            or len(job.labels) > MAX_LABELS
        ]:
            del young[job_id]
            self._old.pop(job_id, None)
        if len(young) > self._generation_size:
            self._old, self._young = young, {}
