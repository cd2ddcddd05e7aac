"""An audit event as a record, the same for every client."""

import itertools
import os
import time
from collections.abc import Mapping

from emitd.context import current_attributes
from emitd.records.encoding import as_field, encode_attributes, encode_details
from emitd.v1 import record_pb2 as pb

__all__ = ["audit_record", "next_record_id"]


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
