"""The text of a job's server-sent events, and what a page says when it comes back.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from emitd.records.encoding import encode_attributes

if TYPE_CHECKING:
    from emitd import v1

__all__ = ["HEARTBEAT", "describe_job", "job_event", "read_last_event_id", "retry"]

#: A comment, which readers pass over.
HEARTBEAT = b": still here\n\n"

_MAX_REVISION = 2**64 - 1
#: In JSON they stand between tokens only, where a space means the same; in an event they would end the line.
_LINE_BREAKS = str.maketrans("\r\n", "  ")


def describe_job(job: "v1.Job") -> Mapping[str, object]:
    """Return what a page gets to know of a job: all but labels, source, lease and times."""
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "status": _name(job.status),
        "progress": job.progress,
        "message": job.message,
        "details": msgspec.Raw(job.details_json.encode() or b"{}"),
        "attempt": job.attempt,
        "failure_reason": job.failure_reason,
        "failure_message": job.failure_message,
        "cancel_requested": job.cancel_requested,
    }


def job_event(update: "v1.WatchJobResponse", data: Mapping[str, object]) -> bytes:
    """Return the event of a job's state: `progress`, or `end` where it has ended; its id is the job's revision.

    `data`, with the changes of status as `transitions`, becomes JSON in one line, so that no text of anybody's can
    forge an event.
    """
    job = update.job
    name = "end" if job.ended else "progress"
    transitions = [_describe_transition(transition) for transition in update.transitions]
    text = encode_attributes({**data, "transitions": transitions}).translate(_LINE_BREAKS)
    return f"id: {job.revision}\nevent: {name}\ndata: {text}\n\n".encode()


def retry(milliseconds: int) -> bytes:
    """Return what tells a browser when to come back after a break."""
    return b"retry: %d\n\n" % milliseconds


def read_last_event_id(text: str) -> int | None:
    """Return the revision that a page has seen; None where it says nothing, or nothing that makes sense."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_MAX_REVISION)):
        return None
    revision = int(text)
    return revision if revision <= _MAX_REVISION else None


def _describe_transition(transition: "v1.JobTransition") -> Mapping[str, object]:
    return {
        "revision": transition.revision,
        "attempt": transition.attempt,
        "status": _name(transition.status),
        "progress": transition.progress,
        "time_unix_ms": transition.time_unix_nano // 1_000_000,  # a page's numbers end at 2^53
    }


def _name(state: "v1.JobState") -> str:
    from emitd import v1

    return v1.JobState.Name(state).removeprefix("JOB_STATE_")
