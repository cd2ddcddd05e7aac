"""Pages of jobs and of their history, and the tokens that say where the next page begins.

A page ends early, so that it is one message: see `room`.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from emitd_handlers.errors import JobQueryInvalid
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobTransition, TransitionPage, TransitionQuery
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.page_token import make_token, read_token
from emitd_handlers.room import MAX_PAGE_BYTES, MAX_PART_BYTES, Room

T = TypeVar("T")

#: The most that a job or a transition takes in a message besides its texts, and each label besides its own.
OVERHEAD_BYTES = 220
LABEL_OVERHEAD_BYTES = 12
#: Changes in one part of a history.
MAX_PART_TRANSITIONS = 1000
#: What databases have room for.
MAX_REVISION = 2**63 - 1


def job_page(query: JobQuery, jobs: Iterable[Job]) -> JobPage:
    """Return the page that begins with `jobs`, which are those after the query's token, one more than asked for."""
    page, has_more = cut(jobs, Room(query.page_size, query.page_bytes), job_bytes)
    if not has_more:
        return JobPage(page, "")
    return JobPage(page, make_token(_filters(query), page[-1].create_time_unix_nano, page[-1].job_id))


def read_job_token(query: JobQuery) -> tuple[int, str] | None:
    """Return creation and id of the last page's last job; None: there is none. Raises JobQueryInvalid."""
    if not query.page_token:
        return None
    kind = tuple[bytes, int, str]
    create_time, job_id = read_token(
        query.page_token, _filters(query), kind, JobQueryInvalid, "other filters"
    )
    return create_time, job_id


def transition_page(
    query: TransitionQuery, transitions: Iterable[JobTransition], *, kept_after: int
) -> TransitionPage:
    """Return the page that begins with `transitions`, one more than asked for.

    `kept_after` is the revision up to which history was removed.
    """
    page, has_more = cut(transitions, Room(query.page_size, MAX_PAGE_BYTES), transition_bytes)
    token = make_token((query.job_id, query.after_revision), page[-1].revision) if has_more else ""
    return TransitionPage(page, token, query.after_revision < kept_after)


def read_transition_token(query: TransitionQuery) -> int:
    """Return the revision after which the page begins. Raises JobQueryInvalid."""
    revision = query.after_revision
    if query.page_token:
        made_for = (query.job_id, query.after_revision)
        (revision,) = read_token(
            query.page_token, made_for, tuple[bytes, int], JobQueryInvalid, "another request"
        )
    return min(revision, MAX_REVISION)


def history_part(job: Job, transitions: Iterable[JobTransition], after_revision: int) -> JobHistory:
    """Return the history after a revision, or as much of it as one message has room for."""
    part, has_more = cut(transitions, Room(MAX_PART_TRANSITIONS, MAX_PART_BYTES), transition_bytes)
    return JobHistory(
        replace(job, revision=part[-1].revision) if has_more else job, part, after_revision, has_more
    )


def job_bytes(job: Job) -> int:
    """Return the most that a job takes in a message."""
    texts = [job.job_id, job.job_type, job.message, job.details_json, job.source]
    texts += [job.failure_reason, job.failure_message, job.cancel_reason, *job.labels, *job.labels.values()]
    return OVERHEAD_BYTES + LABEL_OVERHEAD_BYTES * len(job.labels) + len("".join(texts).encode())


def transition_bytes(transition: JobTransition) -> int:
    """Return the most that a transition takes in a message."""
    return OVERHEAD_BYTES + len((transition.failure_reason + transition.failure_message).encode())


def cut(items: Iterable[T], room: Room, size_of: Callable[[T], int]) -> tuple[list[T], bool]:
    """Return the first items that have room, and whether there are more."""
    page: list[T] = []
    for item in items:
        if not room.take(size_of(item)):
            return page, True
        page.append(item)
    return page, False


def _filters(query: JobQuery) -> object:
    return (
        query.job_type,
        sorted(set(query.statuses)),
        sorted(set(query.job_ids)),
        sorted(query.labels.items()),
        query.updated_after_unix_nano,
    )
