"""What the server's edge does with an audit event before a handler sees it, for one made in process.

A record that came by the edge has a fingerprint; one without was made by hand, and may lack anything.
"""

from time import time_ns

import msgspec

from emitd_handlers.audit.format.line import MAX_JSON_DEPTH, MAX_LINE_BYTES, decode_line, encode_line
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import AuditEvent, LogRecord
from emitd_handlers.text.json_object import check_json_object
from emitd_handlers.text.uuid7 import uuid7

__all__ = ["complete_record"]


def complete_record(record: LogRecord) -> LogRecord:
    """Return `record` with an event id, its times, and its JSON on one line, such that its line can be read.

    Raises RecordInvalid, naming the field at fault.
    """
    if not isinstance(record.payload, AuditEvent):
        raise RecordInvalid("audit", "is mandatory for an audit record")
    try:
        complete = _fill_in(record, record.payload)
        decode_line(encode_line(complete))
    except (TypeError, AttributeError, ValueError) as error:  # a field of a wrong type
        raise RecordInvalid("record", f"cannot be made an audit line: {error}") from error
    return complete


def _fill_in(record: LogRecord, event: AuditEvent) -> LogRecord:
    if len(record.trace_id) not in (0, 16):
        raise RecordInvalid("trace_id", f"has {len(record.trace_id)} bytes; expected 16 or none")
    if len(record.span_id) not in (0, 8):
        raise RecordInvalid("span_id", f"has {len(record.span_id)} bytes; expected 8 or none")
    received = record.received_unix_nano or time_ns()
    lacking = {"timestamp": not record.time_unix_nano, "event_id": not event.event_id}
    assigned = tuple(name for name in lacking if lacking[name] or name in record.assigned)
    attributes_json = record.attributes_json
    return msgspec.structs.replace(
        record,
        time_unix_nano=record.time_unix_nano or received,
        received_unix_nano=received,
        attributes_json=_check("attributes_json", attributes_json) if attributes_json else "",
        payload=msgspec.structs.replace(
            event,
            event_id=event.event_id or uuid7(),
            details_json=_check("audit.details_json", event.details_json),
        ),
        assigned=assigned,
    )


def _check(field: str, text: str) -> str:
    try:
        return check_json_object(text, max_bytes=MAX_LINE_BYTES, max_depth=MAX_JSON_DEPTH)
    except ValueError as error:
        raise RecordInvalid(field, str(error)) from None
