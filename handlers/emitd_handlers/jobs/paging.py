"""Pages of jobs and of their history: where one ends, and the token that says where the next begins.

A page ends early, so that it stays well under what clients accept in one message.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from emitd_handlers.errors import JobQueryInvalid
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobTransition, TransitionPage, TransitionQuery

__all__ = [
    "MAX_PAGE_BYTES",
    "job_bytes",
    "job_page",
    "read_job_token",
    "read_transition_token",
    "transition_page",
]

#: A page ends with the item that makes it this large.
MAX_PAGE_BYTES = 2 * 1024 * 1024
#: What a job or a transition takes in a page beside its texts, about.
OVERHEAD_BYTES = 100
#: What databases have room for.
MAX_REVISION = 2**63 - 1

#: A digest of the query; the creation, as in `Job`, and the id of the last job of the page before.
_JobToken = tuple[bytes, int, str]
#: A digest of the query; the last revision of the page before.
_TransitionToken = tuple[bytes, int]

_encode = msgspec.msgpack.Encoder().encode
_decode_job_token = msgspec.msgpack.Decoder(_JobToken).decode
_decode_transition_token = msgspec.msgpack.Decoder(_TransitionToken).decode


def job_page(query: JobQuery, jobs: Iterable[Job]) -> JobPage:
    """Return the page that begins with `jobs`: those that match from the query's token on, one more than asked for."""
    page: list[Job] = []
    size = 0
    for job in jobs:
        if len(page) == query.page_size or size >= MAX_PAGE_BYTES:
            last = page[-1]
            token: _JobToken = (_digest(query), last.create_time_unix_nano, last.job_id)
            return JobPage(page, _to_text(token))
        page.append(job)
        size += job_bytes(job)
    return JobPage(page, "")


def read_job_token(query: JobQuery) -> tuple[int, str] | None:
    """Return creation and id of the last job of the page before; None: there is none. Raises JobQueryInvalid."""
    if not query.page_token:
        return None
    try:
        digest, create_time, job_id = _decode_job_token(urlsafe_b64decode(query.page_token))
    except (ValueError, msgspec.MsgspecError):
        raise _not_ours() from None
    if digest != _digest(query):
        raise JobQueryInvalid("page_token", "was made for other filters")
    return create_time, job_id


def transition_page(
    query: TransitionQuery, transitions: Iterable[JobTransition], *, kept_after: int
) -> TransitionPage:
    """Return the page that begins with `transitions`, one more than asked for.

    `kept_after` is the revision up to which history was removed.
    """
    is_truncated = query.after_revision < kept_after
    page: list[JobTransition] = []
    size = 0
    for item in transitions:
        if len(page) == query.page_size or size >= MAX_PAGE_BYTES:
            token: _TransitionToken = (_digest(query), page[-1].revision)
            return TransitionPage(page, _to_text(token), is_truncated)
        page.append(item)
        size += OVERHEAD_BYTES + len(item.failure_message.encode())
    return TransitionPage(page, "", is_truncated)


def read_transition_token(query: TransitionQuery) -> int:
    """Return the revision after which the page begins. Raises JobQueryInvalid."""
    if not query.page_token:
        return min(query.after_revision, MAX_REVISION)
    try:
        token: _TransitionToken = _decode_transition_token(urlsafe_b64decode(query.page_token))
    except (ValueError, msgspec.MsgspecError):
        raise _not_ours() from None
    digest, revision = token
    if digest != _digest(query):
        raise JobQueryInvalid("page_token", "was made for another request")
    return min(revision, MAX_REVISION)


def job_bytes(job: Job) -> int:
    """Return about how many bytes a job takes in a message."""
    texts = [job.job_id, job.job_type, job.message, job.details_json, job.source, job.failure_message]
    return OVERHEAD_BYTES + len("".join([*texts, *job.labels, *job.labels.values()]).encode())


def _digest(query: JobQuery | TransitionQuery) -> bytes:
    """Return what tells the filters of two queries apart."""
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


def _to_text(token: _JobToken | _TransitionToken) -> str:
    return urlsafe_b64encode(_encode(token)).decode()


def _not_ours() -> JobQueryInvalid:
    return JobQueryInvalid("page_token", "is none that this server has made")
