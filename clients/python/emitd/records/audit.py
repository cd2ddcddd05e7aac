"""An audit event as a record, the same for every client; and the ids of the records of this process.

An id is a random prefix, drawn once, and a counter. It costs a fraction of a UUID and is as unique: the prefix has 96
random bits, and a forked child draws its own.
"""

import itertools
import os
import time
from collections.abc import Mapping

from emitd.context import current_attributes
from emitd.errors import RecordRejected
from emitd.records.encoding import as_field, as_text, encode_attributes, encode_details
from emitd.v1 import record_pb2 as pb


def audit_record(
    event_name: str,
    *,
    user_id: str,
    source_ip: str,
    details: Mapping[str, object] | None,
    message: str,
    record_id: str,
    time_unix_nano: int,
    source: str,
    bound: Mapping[str, object],
) -> pb.LogRecord:
    """Return the record, with what is `bound` as attributes. Raises TypeError naming a key of `details` that is wrong.

    Without an id of the caller's it has a new one, the time of now, and the attributes of `log_context`. Under an id of
    the caller's it has what the caller gives and no more, because a second call must make the same record.
    """
    attributes = bound if record_id else {**current_attributes(), **bound}
    if not time_unix_nano and not record_id:
        time_unix_nano = time.time_ns()
    if not isinstance(time_unix_nano, int) or not 0 <= time_unix_nano < 1 << 63:
        raise RecordRejected(
            f"time_unix_nano: {as_text(time_unix_nano)[:80]} is not a whole number of nanoseconds from 0 on",
            field="time_unix_nano",
        )
    return pb.LogRecord(
        record_id=as_field(record_id) or next_record_id(),
        time_unix_nano=time_unix_nano,
        message=as_field(message),
        source=source,
        attributes_json=encode_attributes(attributes),
        audit=pb.AuditEvent(
            event_name=as_field(event_name),
            user_id=as_field(user_id),
            source_ip=as_field(source_ip),
            details_json=encode_details(details),
        ),
    )


_PREFIX_BYTES = 12

_prefix = ""
_counter = itertools.count()


def next_record_id() -> str:
    """Return an id that no other record has. From any thread."""
    return f"{_prefix}{next(_counter):x}"


def _renew() -> None:
    global _prefix, _counter
    _prefix = f"{os.urandom(_PREFIX_BYTES).hex()}-"
    _counter = itertools.count()


_renew()
os.register_at_fork(after_in_child=_renew)
