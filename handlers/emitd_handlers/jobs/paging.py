"""Pages of jobs and of their history, and the tokens that say where the next page begins.

A page ends early, so that it is one message: see `room`.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from emitd_handlers.errors import JobQueryInvalid
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobTransition, TransitionPage, TransitionQuery
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.room import MAX_PAGE_BYTES, MAX_PART_BYTES, Room

T = TypeVar("T")

#: The most that a job or a transition takes in a message besides its texts, and each label besides its own.
OVERHEAD_BYTES = 220
LABEL_OVERHEAD_BYTES = 12
#: Changes in one part of a history.
MAX_PART_TRANSITIONS = 1000
#: What databases have room for.
MAX_REVISION = 2**63 - 1

_encode = msgspec.msgpack.Encoder().encode
#: A digest of the query; the creation, as in `Job`, and the id of the page's last job.
_decode_job_token = msgspec.msgpack.Decoder(tuple[bytes, int, str]).decode
#: A digest of the query; the page's last revision.
_decode_transition_token = msgspec.msgpack.Decoder(tuple[bytes, int]).decode


def job_page(query: JobQuery, jobs: Iterable[Job]) -> JobPage:
    """Return the page that begins with `jobs`, which are those after the query's token, one more than asked for."""
    page, has_more = cut(jobs, Room(query.page_size, query.page_bytes), job_bytes)
    return JobPage(page, _token(query, page[-1].create_time_unix_nano, page[-1].job_id) if has_more else "")


def read_job_token(query: JobQuery) -> tuple[int, str] | None:
    """Return creation and id of the last page's last job; None: there is none. Raises JobQueryInvalid."""
    if not query.page_token:
        return None
    create_time, job_id = _read(query, _decode_job_token, "other filters")
    return create_time, job_id


def transition_page(
    query: TransitionQuery, transitions: Iterable[JobTransition], *, kept_after: int
) -> TransitionPage:
    """Return the page that begins with `transitions`, one more than asked for.

    `kept_after` is the revision up to which history was removed.
    """
    page, has_more = cut(transitions, Room(query.page_size, MAX_PAGE_BYTES), transition_bytes)
    token = _token(query, page[-1].revision) if has_more else ""
    return TransitionPage(page, token, query.after_revision < kept_after)


def read_transition_token(query: TransitionQuery) -> int:
    """Return the revision after which the page begins. Raises JobQueryInvalid."""
    revision = query.after_revision
    if query.page_token:
        (revision,) = _read(query, _decode_transition_token, "another request")
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


def _token(query: JobQuery | TransitionQuery, *last: object) -> str:
    return urlsafe_b64encode(_encode((_digest(query), *last))).decode()


def _read(
    query: JobQuery | TransitionQuery, decode: Callable[[bytes], tuple[Any, ...]], foreign: str
) -> list[Any]:
    try:
        digest, *last = decode(urlsafe_b64decode(query.page_token))
    except (ValueError, msgspec.MsgspecError):
        raise JobQueryInvalid("page_token", "is none that this server has made") from None
    if digest != _digest(query):
        raise JobQueryInvalid("page_token", f"was made for {foreign}")
    return last


def _digest(query: JobQuery | TransitionQuery) -> bytes:
    """Return a digest that tells the filters of two queries apart."""
    if isinstance(query, TransitionQuery):
        filters: object = (query.job_id, query.after_revision)
    else:
        filters = (
            query.job_type,
            sorted(set(query.statuses)),
            sorted(set(query.job_ids)),
            sorted(query.labels.items()),
            query.updated_after_unix_nano,
        )
    return blake2b(_encode(filters), digest_size=8).digest()
