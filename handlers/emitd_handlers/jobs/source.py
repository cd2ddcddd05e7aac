"""The state and history of jobs as readers see them; `JobSource` and `ManagedJobSource`, the ways to read them."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.record import JobState, Level
from emitd_handlers.room import MAX_PAGE_BYTES
from emitd_handlers.scope import EVERYTHING, Scope

__all__ = ["Job", "JobChange", "JobFilter", "JobPage", "JobQuery", "JobSource", "JobTransition", "JobUpdate"]
__all__ += ["ManagedJobSource", "TransitionPage", "TransitionQuery"]


class Job(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The current state of a job. Times are nanoseconds since 1970-01-01T00:00:00Z."""

    job_id: str
    job_type: str
    status: JobState
    #: Percent, 0 to 100.
    progress: int = 0
    #: The message of the last applied report.
    message: str = ""
    #: One JSON object as text, or empty.
    details_json: str = ""
    labels: dict[str, str] = {}
    #: The sender of the last applied report.
    source: str = ""
    #: The newest attempt, from 1.
    attempt: int = 1
    #: The number of reports applied; grows by one with each.
    revision: int = 1
    #: By the server's clock, as are `update_time_unix_nano` and `lease_expire_time_unix_nano`.
    create_time_unix_nano: int = 0
    update_time_unix_nano: int = 0
    #: When the last applied report happened, as its sender said, but never later than its receipt.
    event_time_unix_nano: int = 0
    lease_seconds: int = 0
    #: 0: no lease.
    lease_expire_time_unix_nano: int = 0
    failure_reason: str = ""
    failure_message: str = ""
    cancel_requested: bool = False
    cancel_reason: str = ""
    #: When the newest attempt was first RUNNING, and when it ended, by the server's clock; 0: not yet.
    start_time_unix_nano: int = 0
    end_time_unix_nano: int = 0
    #: The principal, or its group as `group:NAME`, that may report on the job; empty: the next that does takes it.
    owner: str = ""


class JobTransition(msgspec.Struct, frozen=True, gc=False):
    """A change of a job's status, or the start of an attempt; in a history also mere progress."""

    revision: int
    attempt: int
    status: JobState
    progress: int
    #: When it happened, as the report said.
    time_unix_nano: int
    failure_reason: str = ""
    failure_message: str = ""
    #: No change of status; kept because of the setting `keep_progress`.
    progress_only: bool = False
    #: The record that opened the attempt with `new_attempt`; empty: none did.
    opened_by: str = ""
    #: The source of that record, to which its id belongs.
    opened_by_source: str = ""


class JobUpdate(msgspec.Struct, frozen=True):
    """One update for a watcher: the whole current state, and the changes since the last update."""

    job: Job
    #: Changes of status since the last update, oldest first.
    transitions: tuple[JobTransition, ...] = ()
    #: How many applied reports without a change of status were left out since the last update.
    coalesced_count: int = 0
    #: Transitions that the watcher asked for were removed, or it asked from beyond the job's revision.
    history_truncated: bool = False
    #: More transitions follow at once: `job` is the newest state, but its `revision` is that of the last one here.
    has_more: bool = False


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects the jobs that match in every respect; an empty field matches any."""

    job_type: str = ""
    statuses: tuple[JobState, ...] = ()
    job_ids: tuple[str, ...] = ()
    #: Labels that a job must have, with their values.
    labels: dict[str, str] = {}
    #: What the caller may read.
    scope: Scope = EVERYTHING

    def matches(self, job: Job) -> bool:
        """Return whether the job matches."""
        return (
            (self.scope is EVERYTHING or self.scope.has(Level.JOB_STATUS, job.source, job.job_type))
            and (not self.job_type or job.job_type == self.job_type)
            and (not self.statuses or job.status in self.statuses)
            and (not self.job_ids or job.job_id in self.job_ids)
            and (not self.labels or self.labels.items() <= job.labels.items())
        )


class JobQuery(JobFilter, frozen=True, kw_only=True):
    """Which jobs to list, newest first by (creation, job_id)."""

    #: Only jobs updated later than this; 0: at any time.
    updated_after_unix_nano: int = 0
    page_size: int = 100
    page_bytes: int = MAX_PAGE_BYTES
    #: `next_page_token` of the last page, or empty.
    page_token: str = ""


class JobPage(msgspec.Struct, frozen=True):
    """One page of jobs."""

    jobs: Sequence[Job]
    #: Empty after the last page.
    next_page_token: str


class JobChange(msgspec.Struct, frozen=True, gc=False):
    """A change of one of many watched jobs."""

    job_id: str
    revision: int
    #: The newest state; None: the job was removed, or is no longer for the watcher to read.
    job: Job | None = None
    #: It was sent before, and matches no longer or was removed.
    left_filter: bool = False


class TransitionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a job's history to list, oldest first."""

    job_id: str
    after_revision: int = 0
    page_size: int = 100
    #: `next_page_token` of the last page, or empty.
    page_token: str = ""


class TransitionPage(msgspec.Struct, frozen=True):
    """One page of a job's history."""

    transitions: Sequence[JobTransition]
    #: Empty after the last page.
    next_page_token: str
    #: Some of the history that was asked for has been removed.
    history_truncated: bool = False


@runtime_checkable
class JobSource(Protocol):
    """The methods by which a handler also serves GetJob, ListJobs and WatchJob.

    At most one active handler of a service may have them. They are called from the service's event loop, any number of
    them at once, and must not block it. They may raise `HandlerUnavailable`.
    """

    async def get(self, job_id: str) -> Job | None:
        """Return the job's current state, or None if there is no such job."""

    async def list(self, query: JobQuery) -> JobPage:
        """Return a page of jobs.

        Pages go by a stable key: a job that does not change is neither repeated nor left out, however much is written
        between two pages. Raises `JobQueryInvalid` for a token that was not made for this query.
        """

    def watch(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[JobUpdate | None, None]:
        """Yield the job's state at once (or as soon as the job exists), then every change.

        The first update has the transitions after `after_revision` (None: none; 0: all). An update with transitions is
        sent at once; one without comes at least `min_interval_seconds` after the last. Changes between two updates are
        coalesced into the later one, without a queue for each watcher; transitions are complete, in order, each sent
        once. What is too much for one message comes in several updates, all but the last with `has_more`. After
        `idle_seconds` without an update (None: never) None is yielded, for a heartbeat, even if there is no such job
        yet. The iterator does not end by itself; close it, or cancel the task that waits for it.
        """


@runtime_checkable
class ManagedJobSource(JobSource, Protocol):
    """The methods by which a `JobSource` also serves WatchJobs, ListJobTransitions and RequestCancel."""

    def watch_many(
        self,
        job_filter: JobFilter,
        *,
        max_jobs: int,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[JobChange] | None, None]:
        """Yield all jobs that match, in as many parts as that takes, then an empty part, then changes.

        After `idle_seconds` without a change (None: never) None is yielded. Of several changes of a job only the newest
        may be sent. A change of status is sent at once; others come at least `min_interval_seconds` after the last
        part. A job that was sent, and no longer matches or was removed, is sent once more with `left_filter`. Raises
        `JobQueryInvalid` if more than `max_jobs` match. The iterator does not end by itself; close it.
        """

    async def list_transitions(self, query: TransitionQuery) -> TransitionPage | None:
        """Return a page of a job's history, or None if there is no such job.

        Raises `JobQueryInvalid` for a token that was not made for this query.
        """

    async def request_cancel(self, job_id: str, reason: str) -> Job | None:
        """Record a request to cancel a job; return the job after it, or None if there is no such job.

        Nothing changes if the job was already asked to cancel, or has ended.
        """
