"""The records that handlers receive: `LogRecord` and its two payloads.

They are immutable and free of gRPC and protobuf. They are complete when a handler sees them: the server has assigned
the fields that the sender left to it (the time, an audit event's id).
"""

import zlib
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

import msgspec

from emitd_handlers.scope import ANYONE, Caller, Level
from emitd_handlers.text.address import MAX_IP_CHARACTERS, ip_of

__all__ = [
    "UNKNOWN_ADDRESS",
    "AuditEvent",
    "JobState",
    "JobStatus",
    "Level",
    "LogRecord",
    "Payload",
    "audit_fingerprint",
    "content_fingerprint",
    "earlier_fingerprints",
    "is_source_ip",
    "job_content",
    "name_of",
    "usual_source_ip",
]

#: The `source_ip` of an event without an address.
UNKNOWN_ADDRESS = "unknown"


class JobState(IntEnum):
    """Where a job stands; numbers as on the wire."""

    QUEUED = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4

    @property
    def ended(self) -> bool:
        """Whether this state is terminal for its attempt."""
        return self >= JobState.COMPLETED


# gc=False: none of these can be part of a reference cycle, and the collector need not walk them.
class AuditEvent(msgspec.Struct, frozen=True, gc=False):
    """An audit event, validated: every field is present and well-formed."""

    event_id: str
    event_name: str
    user_id: str
    #: An IPv4 or IPv6 address in the sender's spelling, or `unknown`. `usual_source_ip` tells which are the same.
    source_ip: str
    #: One JSON object as text, on one line, without duplicate keys; numbers spelt as the sender spelt them.
    details_json: str


class JobStatus(msgspec.Struct, frozen=True, gc=False):
    """A report on a job, validated."""

    job_id: str
    #: May be empty in any report but a job's first.
    job_type: str
    status: JobState
    #: Percent, 0 to 100; None: unchanged.
    progress: int | None = None
    #: One JSON object as text, on one line; empty: unchanged.
    details_json: str = ""
    #: Empty: unchanged.
    labels: dict[str, str] = {}
    failure_reason: str = ""
    failure_message: str = ""
    #: From 1. Meaningless with `new_attempt`.
    attempt: int = 1
    #: Open the next attempt; its number does not matter.
    new_attempt: bool = False
    #: None: as in the last report; 0: end the lease.
    lease_seconds: int | None = None


Payload: TypeAlias = AuditEvent | JobStatus


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One record, validated and complete.

    `payload` is an `AuditEvent` if `level` is AUDIT, a `JobStatus` if it is JOB_STATUS, and None otherwise.
    """

    level: Level
    message: str = ""
    #: An id of its source's own; empty: the record cannot be told from a second copy of it.
    record_id: str = ""
    #: When it happened: nanoseconds since 1970-01-01T00:00:00Z.
    time_unix_nano: int = 0
    #: When this server took it; the same unit. Never decreases, and no two job reports have the same.
    received_unix_nano: int = 0
    source: str = ""
    #: One JSON object as text, on one line, or empty.
    attributes_json: str = ""
    #: 16 bytes or none.
    trace_id: bytes = b""
    #: 8 bytes or none.
    span_id: bytes = b""
    payload: Payload | None = None
    #: The fields that the server filled in because the sender left them empty, by their name in the audit
    #: line: a subset of ("timestamp", "event_id").
    assigned: tuple[str, ...] = ()
    #: A digest of what the sender set; tells a retry from another record under the same id. Compared within
    #: one process; for a job report it is a `content_fingerprint`, because job handlers store it.
    fingerprint: int = 0
    #: Who sent it.
    sender: Caller = ANYONE


_encode = msgspec.msgpack.Encoder().encode


def content_fingerprint(content: tuple[object, ...]) -> int:
    """Return a 64-bit digest of a record's content, such as `job_content`: the same in every process and release.

    It tells an honest retry from an honest mistake, and is no defence against attackers.
    """
    return int.from_bytes(blake2b(_encode(content), digest_size=8).digest())


def earlier_fingerprints(record: LogRecord) -> Sequence[int]:
    """Return what earlier versions stored as the fingerprint of a job report: the CRC-32 of its content.

    There are two, because a sender can leave out its attempt. Empty for other records.
    """
    job = record.payload
    if not isinstance(job, JobStatus):
        return ()
    sent_time = 0 if "timestamp" in record.assigned else record.time_unix_nano
    context = (record.message, record.source, record.attributes_json, record.trace_id, record.span_id)
    return [
        zlib.crc32(_encode(job_content(context, job, attempt, sent_time))) for attempt in (job.attempt, 0)
    ]


def job_content(
    context: tuple[object, ...], job: JobStatus, sent_attempt: int, sent_time: int
) -> tuple[object, ...]:
    """Return what the sender of a job report set, without the `record_id`: what its fingerprint is made of.

    `context` is the record's message, source, attributes_json, trace_id and span_id.
    """
    return (
        *context,
        *(job.job_id, job.job_type, job.status, job.progress, job.details_json),
        *(sorted(job.labels.items()) if job.labels else None, job.failure_reason, job.failure_message),
        *(sent_attempt, job.new_attempt, job.lease_seconds, sent_time),
    )


def name_of(payload: Payload | None) -> str | None:
    """Return the name of an event, or the type of a report's job; None: there is none."""
    if isinstance(payload, AuditEvent):
        return payload.event_name
    return (payload.job_type or None) if isinstance(payload, JobStatus) else None


def is_source_ip(text: str) -> bool:
    """Return whether `text` is an IPv4 or IPv6 address (see `ip_of`), or the word `unknown`."""
    return len(text) <= MAX_IP_CHARACTERS and _usual_source_ip(text) != ""


def usual_source_ip(text: str) -> str:
    """Return a `source_ip` in its one usual spelling; as it is if it is none: lines of earlier versions have such."""
    return (_usual_source_ip(text) if len(text) <= MAX_IP_CHARACTERS else "") or text


@lru_cache(maxsize=16_384)  # of short texts only: senders choose them
def _usual_source_ip(text: str) -> str:
    return text if text == UNKNOWN_ADDRESS else str(ip_of(text) or "")


def audit_fingerprint(*sent: str | bytes | int) -> int:
    """Return `LogRecord.fingerprint` for an audit event: a digest of what its sender set, as far as a line keeps it.

    `sent` is the record's message, source, attributes_json, trace_id and span_id; the event's event_id, event_name,
    user_id, source_ip and details_json; and time_unix_nano. event_id is empty and the time 0 if the server assigned
    them; JSON is as `check_json_object` returned it. Valid within one process: a log computes those of its lines again
    at each start. Never 0.
    """
    return hash(sent) or 1
