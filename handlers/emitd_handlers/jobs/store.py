"""`JobStore`: what `DatabaseJobHandler` asks of a database."""

from collections.abc import Container, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobTransition, TransitionPage, TransitionQuery
from emitd_handlers.outcome import Outcome, RecentCommit
from emitd_handlers.record import LogRecord


class JobHistory(msgspec.Struct, frozen=True):
    """A job and its last changes of status."""

    job: Job
    #: All changes of status after `after_revision`, oldest first.
    transitions: Sequence[JobTransition]
    #: At most the job's revision.
    after_revision: int
    #: More changes follow: `job` is the newest state, but its revision is that of the last of `transitions`.
    has_more: bool = False


class Applied(msgspec.Struct, frozen=True, gc=False):
    """The result of a transaction: an outcome for each record, in order, and the changes of the jobs of interest."""

    outcomes: Sequence[Outcome] = ()
    changes: Sequence[JobHistory] = ()


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Which ended jobs to keep; None: all. Jobs that have not ended are always kept."""

    #: How long to keep a job after its end.
    ended_seconds: float | None = None
    #: How many ended jobs to keep, those that ended last.
    ended_count: int | None = None
    #: How long to keep a job's history after its end.
    history_seconds: float | None = None


class Removed(msgspec.Struct, frozen=True):
    """The jobs that were removed (others may have lost their history), and whether there is more to remove."""

    job_ids: Sequence[str]
    has_more: bool


class JobStore(Protocol):
    """One database.

    A method that changes jobs runs one transaction, which is on the medium when it returns. The handler calls these
    methods one after the other, and the others any number at a time. `interest` holds the ids of the jobs whose changes
    are to be returned; it is read after the commit. Every method raises HandlerUnavailable if the database fails; then
    nothing has changed.
    """

    async def open(self) -> None:
        """Connect, and make or migrate the tables. May be called again after `close`."""

    async def close(self) -> None:
        """Close all connections. Harmless without `open`."""

    async def apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        """Merge the reports in order. An invalid report is refused alone."""

    async def end_expired(
        self, interval_seconds: float, waited_seconds: float, interest: Container[str]
    ) -> Sequence[JobHistory]:
        """Make one pass over the leases: end the attempts whose lease has run out, and record when that was done.

        If the last pass is longer ago than twice `interval_seconds`, nobody watched: all leases are first put off by
        the time for which they ran unwatched (see `merge.put_off`). The first pass, and the first after a step of the
        clock, also set them right. A lease that ran out less than `waited_seconds` ago is left for the next pass: a
        report that renews it may be waiting.
        """

    async def request_cancel(
        self, job_id: str, reason: str, interest: Container[str]
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        """Record a request to cancel a job; return the job after it (None: there is none), and the change."""

    async def remove_ended(self, retention: Retention, limit: int) -> Removed:
        """Remove what `retention` does not keep, of at most `limit` jobs."""

    async def get(self, job_id: str) -> Job | None:
        """Return the job's current state, or None."""

    async def list(self, query: JobQuery) -> JobPage:
        """Return a page of jobs; see `JobSource.list`."""

    async def list_transitions(self, query: TransitionQuery) -> TransitionPage | None:
        """Return a page of a job's history; see `ManagedJobSource.list_transitions`."""

    async def load_history(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        """Return the job with its changes of status after a revision, in one snapshot; None: there is no such job.

        `after_revision` None asks for no changes. If older changes were removed, those after a later revision. A long
        history comes in parts: see `paging.history_part`.
        """

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Return the last reports with a record_id, oldest first, at most `limit`; keep that many from now on."""


@runtime_checkable
class SharedJobStore(JobStore, Protocol):
    """A database to which other processes write too.

    It calls `on_foreign_change` (see its constructor) with the ids of jobs that others have changed, or with None if it
    does not know which. Such a call can be lost, so the handler also asks from time to time.
    """

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the revisions of those of the jobs that exist."""

    async def changes_since(self, mark: int | None) -> tuple[int, Sequence[str]]:
        """Return a new mark, and the ids of all jobs that may have changed since `mark` (None: since now)."""

    async def load_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Return the current states of those of the jobs that exist."""
