"""What PostgreSQL cannot store: U+0000 in a text, half a surrogate pair, and a key that no index page has room for.

Such a thing in one report must not fail the others of its batch. It is looked for only after the database has refused
a batch, so that reports cost nothing for it.
"""

import re

from msgspec.structs import replace

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import JobStatus, LogRecord

__all__ = ["MAX_KEY_BYTES", "check_record", "cleaned", "is_storable"]

#: A third of a page of an index, less what else stands there.
MAX_KEY_BYTES = 2000
_unstorable = re.compile("[\0\ud800-\udfff]")
#: U+FFFD, which stands for a character that could not be kept.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def is_storable(text: str) -> bool:
    """Return whether a text can be stored as it is."""
    return not _unstorable.search(text)


def cleaned(text: str) -> str:
    """Return a text for people with U+FFFD for each character that cannot be stored."""
    return _unstorable.sub(_REPLACEMENT, text)


def check_record(record: LogRecord) -> LogRecord:
    """Return the record as it can be stored.

    What was written for people, `message` and `failure_message`, is cleaned: the end of a job is not refused for one
    character in the output of a program. Raises RecordInvalid for all else, which programs compare.
    """
    report = record.payload
    if not isinstance(report, JobStatus):
        return record
    texts = {
        "record_id": record.record_id if report.new_attempt else record.record_id.replace("\0", ""),
        "source": record.source,
        "job.job_id": report.job_id,
        "job.job_type": report.job_type,
        "job.details_json": report.details_json,
        "job.labels": "".join([*report.labels, *report.labels.values()]),
        "job.failure_reason": report.failure_reason,
    }
    for field, text in texts.items():
        if found := _unstorable.search(text):
            raise RecordInvalid(field, f"has U+{ord(found.group()):04X}, which the database cannot store")
    size = len(report.job_id.encode())
    if size > MAX_KEY_BYTES:
        raise RecordInvalid(
            "job.job_id", f"has {size} bytes, more than the database can index, {MAX_KEY_BYTES}"
        )
    if is_storable(record.message) and is_storable(report.failure_message):
        return record
    return replace(
        record,
        message=cleaned(record.message),
        payload=replace(report, failure_message=cleaned(report.failure_message)),
    )
