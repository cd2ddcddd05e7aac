"""Jobs as handlers keep them and readers see them, and `JobSource`, the way to read them."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.record import JobState

__all__ = ["Job", "JobPage", "JobQuery", "JobSource", "JobTransition", "JobUpdate"]


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


class JobTransition(msgspec.Struct, frozen=True, gc=False):
    """A change of a job's status, or the start of an attempt."""

    revision: int
    attempt: int
    status: JobState
    progress: int
    #: When it happened, as the report said.
    time_unix_nano: int


class JobUpdate(msgspec.Struct, frozen=True):
    """What a watcher is told at once: the whole current state, and what led to it since the last update."""

    job: Job
    #: Changes of status since the update before, oldest first.
    transitions: tuple[JobTransition, ...] = ()
    #: Applied reports without a change of status that are left out since the update before.
    coalesced_count: int = 0
    #: Transitions that the watcher asked for exist no more, or it asked from beyond the job's revision.
    history_truncated: bool = False


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list: those that match every filter, newest first by (creation, job_id)."""

    #: Empty: any.
    job_type: str = ""
    #: Empty: any.
    statuses: tuple[JobState, ...] = ()
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
