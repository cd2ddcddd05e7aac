"""`JobStore`: what `DatabaseJobHandler` asks of a database, and gets alike from each."""

from collections.abc import Container, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobTransition, TransitionPage, TransitionQuery
from emitd_handlers.outcome import Outcome, RecentCommit
from emitd_handlers.record import LogRecord

__all__ = ["Applied", "JobHistory", "JobStore", "Removed", "Retention", "SharedJobStore"]


class JobHistory(msgspec.Struct, frozen=True):
    """A job and how it came to be so."""

    job: Job
    #: All changes of status after `after_revision`, oldest first.
    transitions: Sequence[JobTransition]
    #: At most the job's revision.
    after_revision: int


class Applied(msgspec.Struct, frozen=True, gc=False):
    """What a transaction has done."""

    #: For each record, in order.
    outcomes: Sequence[Outcome] = ()
    #: What happened to those jobs that were asked for.
    changes: Sequence[JobHistory] = ()


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of jobs that have ended; None: everything. Of other jobs everything always is."""

    #: How long after its end a job is kept.
    ended_seconds: float | None = None
    #: How many ended jobs are kept, those that ended last.
    ended_count: int | None = None
    #: How long after its end a job's history is kept.
    history_seconds: float | None = None


class Removed(msgspec.Struct, frozen=True):
    """What was removed."""

    #: Of jobs that have gone. Others may have lost their history.
    job_ids: Sequence[str]
    #: There may be more that is not to be kept.
    has_more: bool


class JobStore(Protocol):
    """One database.

    Whatever changes jobs runs in one transaction and is on the medium when it returns. Those methods are called one
    after the other, by whoever holds the handler's turn; the others any number at a time. `interest` has the ids of the
    jobs whose changes are asked for; it is looked at after the commit. Every method raises HandlerUnavailable when the
    database cannot do it, and nothing has changed then.
    """

    async def open(self) -> None:
        """Connect, and make the tables or bring them up to date. May be called again after `close`."""

    async def close(self) -> None:
        """Let go of the database. Harmless without `open`."""

    async def apply(self, records: Sequence[LogRecord], interest: Container[str]) -> Applied:
        """Merge the reports in `records`, in order. A report that makes no sense is refused alone."""

    async def end_expired(
        self, interval_seconds: float, waited_seconds: float, interest: Container[str]
    ) -> Sequence[JobHistory]:
        """Make one pass over the leases: end the attempts whose lease has run out, and stamp when that was done.

        Where the last stamp is older than twice `interval_seconds`, nobody watched: all leases are first put off by the
        time for which they ran unwatched (see `merge.put_off`). A lease that ran out less than `waited_seconds` ago
        is left for the next pass: reports may have come in that time which have not been looked at.
        """

    async def request_cancel(
        self, job_id: str, reason: str, interest: Container[str]
    ) -> tuple[Job | None, Sequence[JobHistory]]:
        """Record the wish to cancel a job; return the job as it then stands (None: there is none), and the change."""

    async def remove_ended(self, retention: Retention, limit: int) -> Removed:
        """Remove what `retention` does not keep, of at most `limit` jobs."""

    async def get(self, job_id: str) -> Job | None:
        """Return the job as it stands, or None."""

    async def list(self, query: JobQuery) -> JobPage:
        """Return a page of jobs; see `JobSource.list`."""

    async def list_transitions(self, query: TransitionQuery) -> TransitionPage | None:
        """Return a page of a job's history; see `ManagedJobSource.list_transitions`."""

    async def load_history(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        """Return the job with its changes of status after a revision, all of one moment; None: there is no such job.

        After a later revision where those before exist no more; `after_revision` None: no changes are asked for.
        """

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Return the last reports with a record_id, oldest first, at most `limit`; keep so many from now on."""


@runtime_checkable
class SharedJobStore(JobStore, Protocol):
    """A database to which other processes write too.

    It calls `on_foreign_change` (see its constructor) with the ids of jobs that others have changed, or with None when
    it does not know which; the caller also looks for itself now and then, because such a call can be lost.
    """

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the revisions of those of the jobs that exist."""

    async def changes_since(self, mark: int | None) -> tuple[int, Sequence[str]]:
        """Return a new mark, and the ids of all jobs that may have changed since an earlier one (None: since now)."""

    async def load_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Return those of the jobs that exist, as they stand."""
