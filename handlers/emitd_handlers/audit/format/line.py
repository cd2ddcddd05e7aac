"""One line of the audit trail: from a record to its exact bytes, and back.

A line is one JSON object in UTF-8. Its bytes without the newline are a leaf of the log's Merkle tree (RFC
6962): a reader takes these bytes as they are, and never encodes them again.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat

import msgspec

from emitd_handlers.columns import Columns, RecordColumns, columns_of
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.outcome import AuditReceipt, RecentCommit
from emitd_handlers.record import UNKNOWN_ADDRESS, AuditEvent, LogRecord, audit_fingerprint, is_source_ip
from emitd_handlers.scope import Caller
from emitd_handlers.text.json_object import check_json_object
from emitd_handlers.text.times import format_time, parse_time
from emitd_handlers.tlog.merkle import leaf_hash

#: The longest line without its newline: the largest entry that C2SP tlog-tiles can hold.
MAX_LINE_BYTES = 65_535
#: How deep the JSON of a record made in process may nest; the server's edge has a setting of its own.
MAX_JSON_DEPTH = 32

_NO_ATTRIBUTES = msgspec.Raw()


class AuditLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The members of a line, in their order; those after `received_at` are left out if empty."""

    #: When it happened: ISO 8601, UTC, with nine decimals.
    timestamp: str
    event_id: str
    event_name: str
    user_id: str
    source_ip: str
    #: One JSON object, as sent.
    details: msgspec.Raw
    #: When the server took it, spelt as `timestamp`; never earlier than in the line before.
    received_at: str
    source: str = ""
    record_id: str = ""
    message: str = ""
    #: One JSON object, as sent.
    attributes: msgspec.Raw = _NO_ATTRIBUTES
    #: Hexadecimal, as is `span_id`.
    trace_id: str = ""
    span_id: str = ""
    #: Which of `timestamp` and `event_id` the server filled in.
    assigned: tuple[str, ...] = ()
    #: The principal that sent it; empty: the service itself, or the listener asks nobody for a name.
    submitted_by: str = ""
    #: That of the other end of the sender's connection, if `server.access.peer_address` is on.
    peer_address: str = ""


#: All records of a request were received at the same time.
_format_received = lru_cache(maxsize=8)(format_time)
_encode_lines = msgspec.json.Encoder().encode_lines
_decode = msgspec.json.Decoder(AuditLine).decode
#: Checks a text's syntax on the way, at no more cost than `Raw(text)`.
_raw = msgspec.json.Decoder(msgspec.Raw).decode


def encode_line(record: LogRecord) -> bytes:
    """Return the line of a complete record, without its newline.

    Raises RecordInvalid, naming the field, for a record made in process that is wrong: a mandatory field is missing or
    malformed, or JSON is not one object on one line.
    """
    # If something is wrong, what it is is found out afterwards.
    lines = encode_lines(columns_of((record,)))
    if lines is None:
        raise _what_is_wrong(record)
    return lines[0]


def encode_lines(records: RecordColumns) -> list[bytes] | None:
    """Return the lines of complete records, without their newlines; None if one of them makes none."""
    # Hot path: 1.2 µs a record in batches of 512.
    events, attributes = records.payload, records.attributes_json
    try:
        if not isinstance(events, Columns):  # made in process
            if {*map(type, events)} != {AuditEvent}:
                return None
            events = Columns(AuditEvent, events)
            mandatory = (*events.event_id, *events.event_name, *events.user_id)
            starts = {text[:1] for text in (*events.details_json, *filter(None, attributes))}
            if starts != {"{"} or not all((*mandatory, *map(is_source_ip, events.source_ip))):
                return None
        lines = map(
            AuditLine,
            map(format_time, records.time_unix_nano),
            events.event_id,
            events.event_name,
            events.user_id,
            events.source_ip,
            map(_raw, events.details_json),
            map(_format_received, records.received_unix_nano),
            records.source,
            records.record_id,
            records.message,
            [_raw(text) if text else _NO_ATTRIBUTES for text in attributes],
            map(bytes.hex, records.trace_id),
            map(bytes.hex, records.span_id),
            records.assigned,
            *_who_sent(records.sender),
        )
        texts = _encode_lines(list(lines))[:-1].split(b"\n")
    except (ValueError, OverflowError, RecursionError):
        return None
    # JSON may have newlines between its tokens; a line may not.
    return texts if len(texts) == len(records) else None


def _who_sent(senders: Sequence[Caller]) -> tuple[Iterable[str], Iterable[str]]:
    """Return the columns `submitted_by` and `peer_address`."""
    first = senders[0]
    if senders.count(first) == len(senders):  # nearly every batch
        return repeat(first.submitted_by), repeat(first.kept_address)
    return [sender.submitted_by for sender in senders], [sender.kept_address for sender in senders]


def check_json(field: str, text: str) -> str:
    """Return the JSON of a field on one line (see `check_json_object`). Raises RecordInvalid."""
    try:
        return check_json_object(text, max_bytes=MAX_LINE_BYTES, max_depth=MAX_JSON_DEPTH)
    except ValueError as error:
        raise RecordInvalid(field, str(error)) from None


def decode_line(line: bytes) -> AuditLine:
    """Return the members of a line without its newline.

    Raises ValueError if it is no JSON object with the mandatory members. Does not check times and addresses.
    """
    try:
        parsed = _decode(line)
    except RecursionError:
        raise ValueError("nests too deep") from None
    if bytes(parsed.details)[:1] != b"{":
        raise ValueError("`details` is not an object")
    return parsed


def received_at(line: bytes) -> int:
    """Return when a line was received; 0 if it is no audit line."""
    try:
        return parse_time(decode_line(line).received_at)
    except ValueError:
        return 0


def recent_commit(line: bytes, log_id: str, leaf_index: int) -> RecentCommit:
    """Return what a retry of the record of a line is recognised by. Raises ValueError if it is no audit line.

    `event_id` is empty if the server assigned it: a sender cannot have repeated it.
    """
    parsed = decode_line(line)
    sent_event_id = "" if "event_id" in parsed.assigned else parsed.event_id
    fingerprint = audit_fingerprint(
        parsed.message,
        parsed.source,
        str(parsed.attributes, "utf-8"),
        bytes.fromhex(parsed.trace_id),
        bytes.fromhex(parsed.span_id),
        sent_event_id,
        parsed.event_name,
        parsed.user_id,
        parsed.source_ip,
        str(parsed.details, "utf-8"),
        0 if "timestamp" in parsed.assigned else parse_time(parsed.timestamp),
    )
    receipt = AuditReceipt(log_id, parsed.event_id, leaf_index, leaf_hash(line))
    return RecentCommit(parsed.record_id, sent_event_id, fingerprint, receipt, parsed.source)


def _what_is_wrong(record: LogRecord) -> RecordInvalid:
    """Find out why `encode_line` could not."""
    event = record.payload
    if not isinstance(event, AuditEvent):
        return RecordInvalid("audit", "is mandatory for an audit record")
    mandatory = {
        "audit.event_id": event.event_id,
        "audit.event_name": event.event_name,
        "audit.user_id": event.user_id,
        "audit.source_ip": event.source_ip,
    }
    optional = {"source": record.source, "record_id": record.record_id, "message": record.message}
    for field, value in mandatory.items():
        if not value:
            return RecordInvalid(field, "is mandatory")
    for field, value in (mandatory | optional).items():
        if value != value.encode(errors="replace").decode():
            return RecordInvalid(field, "holds half a surrogate pair")
    if not is_source_ip(event.source_ip):
        shown = event.source_ip[:64]
        return RecordInvalid("audit.source_ip", f"'{shown}' is neither an IP address nor '{UNKNOWN_ADDRESS}'")
    texts = {"audit.details_json": event.details_json, "attributes_json": record.attributes_json or "{}"}
    for field, text in texts.items():
        try:
            if check_json(field, text) != text:
                return RecordInvalid(field, "must be on one line")
        except RecordInvalid as error:
            return error
    return RecordInvalid("time_unix_nano", "is outside of the years 1 to 9999")
