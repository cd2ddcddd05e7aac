"""Jobs as handlers keep them and readers see them; `JobSource` and `ManagedJobSource`, the ways to read them."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.record import JobState

__all__ = [
    "Job",
    "JobChange",
    "JobFilter",
    "JobPage",
    "JobQuery",
    "JobSource",
    "JobTransition",
    "JobUpdate",
    "ManagedJobSource",
    "TransitionPage",
    "TransitionQuery",
]


class Job(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The current state of a job. Times are nanoseconds since 1970-01-01T00:00:00Z."""

    job_id: str
    job_type: str
    status: JobState
    #: Percent, 0 to 100.
    progress: int = 0
    #: The message of the last report applied.
    message: str = ""
    #: One JSON object as text, or empty.
    details_json: str = ""
    labels: dict[str, str] = {}
    #: Who sent the last report applied.
    source: str = ""
    #: The newest attempt, from 1.
    attempt: int = 1
    #: How many reports were applied so far; grows by one with each.
    revision: int = 1
    #: By the server's clock, as are `update_time_unix_nano` and `lease_expire_time_unix_nano`.
    create_time_unix_nano: int = 0
    update_time_unix_nano: int = 0
    #: When the last report applied happened, by its sender's word, but never later than its receipt.
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
    #: No change of status: kept because the handler is told to keep progress.
    progress_only: bool = False
    #: The record that opened the attempt here with `new_attempt`; empty: none did.
    opened_by: str = ""


class JobUpdate(msgspec.Struct, frozen=True):
    """What a watcher is told at once: the whole current state, and what led to it since the last update."""

    job: Job
    #: Changes of status since the update before, oldest first.
    transitions: tuple[JobTransition, ...] = ()
    #: Applied reports without a change of status that are left out since the update before.
    coalesced_count: int = 0
    #: Transitions that the watcher asked for exist no more, or it asked from beyond the job's revision.
    history_truncated: bool = False


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are asked for: those that match in every respect."""

    #: Empty: any.
    job_type: str = ""
    #: Empty: any.
    statuses: tuple[JobState, ...] = ()
    #: Empty: any.
    job_ids: tuple[str, ...] = ()
    #: Labels that a job must have, with their values.
    labels: dict[str, str] = {}

    def matches(self, job: Job) -> bool:
        """Return whether it is one of those jobs."""
        return (
            (not self.job_type or job.job_type == self.job_type)
            and (not self.statuses or job.status in self.statuses)
            and (not self.job_ids or job.job_id in self.job_ids)
            and (not self.labels or self.labels.items() <= job.labels.items())
        )


class JobQuery(JobFilter, frozen=True, kw_only=True):
    """Which jobs to list, newest first by (creation, job_id)."""

    #: Only jobs updated later than this; 0: at any time.
    updated_after_unix_nano: int = 0
    page_size: int = 100
    #: `next_page_token` of the page before, or empty.
    page_token: str = ""


class JobPage(msgspec.Struct, frozen=True):
    """One page of jobs."""

    jobs: Sequence[Job]
    #: Empty after the last page.
    next_page_token: str


class JobChange(msgspec.Struct, frozen=True, gc=False):
    """News of one of many watched jobs."""

    job_id: str
    revision: int
    #: The newest state; None: the job was removed.
    job: Job | None = None
    #: It was told before, and matches no longer or was removed.
    left_filter: bool = False


class TransitionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a job's history to list, oldest first."""

    job_id: str
    after_revision: int = 0
    page_size: int = 100
    #: `next_page_token` of the page before, or empty.
    page_token: str = ""


class TransitionPage(msgspec.Struct, frozen=True):
    """One page of a job's history."""

    transitions: Sequence[JobTransition]
    #: Empty after the last page.
    next_page_token: str
    #: Something that was asked for exists no more.
    history_truncated: bool = False


@runtime_checkable
class JobSource(Protocol):
    """What a handler offers beside `emit` so that GetJob, ListJobs and WatchJob can be served from it.

    At most one active handler of a service may. All three are called from the service's event loop, any
    number of them at once, and must not block it. They may raise `HandlerUnavailable`.
    """

    async def get(self, job_id: str) -> Job | None:
        """Return the job as it stands, or None if there is none."""

    async def list(self, query: JobQuery) -> JobPage:
        """Return a page of jobs.

        Pages go by a stable key, so that jobs which nobody touches are neither repeated nor left out however
        much is written meanwhile. Raises `JobQueryInvalid` for a token it did not make for this query.
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

        The first update brings the transitions after `after_revision` (None: none; 0: all). An update with
        transitions is never held back; one without comes no sooner than `min_interval_seconds` after the
        one before. What happens between two updates is coalesced into the later one, without any queue for
        each watcher: transitions complete and in order, each once over the whole iteration. None is yielded
        whenever there was nothing to tell for `idle_seconds` (None: never), also while there is no job yet, so
        that whoever sends the updates on can send a sign of life. The iterator does not end by itself; closing
        it, or cancelling the task that waits for it, frees whatever it holds.
        """


@runtime_checkable
class ManagedJobSource(JobSource, Protocol):
    """What a `JobSource` may offer beyond, so that WatchJobs, ListJobTransitions and RequestCancel can be served."""

    def watch_many(
        self,
        job_filter: JobFilter,
        *,
        max_jobs: int,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Sequence[JobChange] | None, None]:
        """Yield all jobs that match, in as many parts as that takes, then an empty part, then changes.

        None is yielded whenever there was nothing to tell for `idle_seconds` (None: never). Of several changes of a
        job only the newest may be told; one that changes a status is never held back, others come no sooner than
        `min_interval_seconds` after the part before. A job that was told and matches no longer, or was removed, is
        told once more with `left_filter`. Raises `JobQueryInvalid` when more than `max_jobs` match. The iterator does
        not end by itself; closing it frees whatever it holds.
        """

    async def list_transitions(self, query: TransitionQuery) -> TransitionPage | None:
        """Return a page of a job's history, or None if there is no such job.

        Raises `JobQueryInvalid` for a token it did not make for this query.
        """

    async def request_cancel(self, job_id: str, reason: str) -> Job | None:
        """Record the wish that a job be cancelled; return the job as it then stands, or None if there is none.

        Nothing changes where the wish stands already, or the job has ended.
        """
