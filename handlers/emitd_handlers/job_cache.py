"""`JobCache`: the rows that were used lately, in memory."""

from collections.abc import Mapping

import msgspec

from emitd_handlers.job import Job

__all__ = ["JobCache", "StoredJob"]

#: A job with more characters of text than this is read from the database each time, so that the size of the
#: cache bounds its memory.
MAX_CACHED_CHARACTERS = 4096
#: A label is at most two strings of 256 bytes.
MAX_CACHED_LABELS = 8


class StoredJob(msgspec.Struct, frozen=True, gc=False):
    """A job and the row that it stands in."""

    rowid: int
    job: Job


class JobCache:
    """Keeps at most `size` jobs, those used least lately dropped first, in two generations.

    What is used moves to the young one; when that is half the size, the old one is dropped and the young one grows
    old. So a whole batch is kept with one `update`, without any bookkeeping for each job.
    """

    def __init__(self, size: int) -> None:
        self._generation_size = size // 2
        self._young: dict[str, StoredJob] = {}
        self._old: dict[str, StoredJob] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, job_id: str) -> StoredJob | None:
        """Return the job, or None if it is not here."""
        return self._young.get(job_id) or self._old.get(job_id)

    def keep(self, jobs: Mapping[str, StoredJob]) -> None:
        """Keep the jobs, by id, in place of what was kept of them before."""
        self._young.update(jobs)
        if len(self._young) > self._generation_size:
            self._old, self._young = self._young, {}
