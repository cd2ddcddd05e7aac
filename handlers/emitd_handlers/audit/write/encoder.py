"""From records to the lines of a group."""

from collections.abc import Callable, Sequence
from time import time_ns

import msgspec
from msgspec.structs import replace

from emitd_handlers.audit.format.line import (
    MAX_JSON_DEPTH,
    MAX_LINE_BYTES,
    decode_line,
    encode_line,
    encode_lines,
)
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import AuditEvent, LogRecord
from emitd_handlers.text.json_object import check_json_object
from emitd_handlers.text.uuid7 import uuid7
from emitd_handlers.tlog.merkle import leaf_hash

__all__ = ["AuditEncoder", "Chunk", "complete_record"]


class Chunk(msgspec.Struct):
    """Lines of one batch that go into one group; mostly all of them."""

    #: The lines, each with its newline, in pieces.
    texts: list[bytes] = []
    #: For each line: its record's place in the batch, its event's id, its leaf.
    places: Sequence[int] = []
    event_ids: list[str] = []
    leaves: list[bytes] = []
    #: Bytes, with a newline for each line.
    size: int = 0


class AuditEncoder:
    """Makes lines of records; `received_at` never decreases from one to the next."""

    def __init__(
        self,
        max_line_bytes: int,
        max_group_bytes: int,
        last_received_unix_nano: int,
        format_line: Callable[[LogRecord], bytes] | None,
    ) -> None:
        """`format_line` makes a line where that is not `encode_line`'s; it may raise RecordInvalid."""
        self._max_line_bytes = max_line_bytes
        self._max_group_bytes = max_group_bytes
        self._last_received = last_received_unix_nano
        self._format = format_line

    def encode_whole(self, records: Sequence[LogRecord]) -> Chunk | None:
        """Return a batch's lines where all of its records are good, complete, in order, and fit one group.

        That is nearly every batch, and the hot path; what it passes over, `encode` looks at one by one.
        """
        received = [record.received_unix_nano for record in records]
        if (
            self._format is not None
            or not all([record.fingerprint for record in records])
            or received != sorted(received)
            or received[0] < self._last_received  # a clock went back
        ):
            return None
        text = encode_lines(records)
        if text is None or len(text) > self._max_group_bytes:
            return None
        lines = text[:-1].split(b"\n")
        if max(map(len, lines)) > self._max_line_bytes:
            return None
        self._last_received = received[-1]
        event_ids = [record.payload.event_id for record in records]  # type: ignore[union-attr]
        return Chunk([text], range(len(lines)), event_ids, list(map(leaf_hash, lines)), len(text))

    def encode(self, records: Sequence[LogRecord], outcomes: list[Outcome]) -> list[Chunk]:
        """Return the records' lines; put the refusals of those that make none into `outcomes`."""
        places: list[int] = []
        chunk = Chunk(places=places)
        chunks = [chunk]
        for place, record in enumerate(records):
            try:
                record, line = self._encode_one(record)
            except RecordInvalid as error:
                outcomes[place] = Refused(error)
                continue
            self._last_received = record.received_unix_nano
            if chunk.size + len(line) + 1 > self._max_group_bytes:
                places = []
                chunk = Chunk(places=places)
                chunks.append(chunk)
            chunk.size += len(line) + 1
            chunk.texts += (line, b"\n")
            places.append(place)
            chunk.event_ids.append(record.payload.event_id)  # type: ignore[union-attr]
            chunk.leaves.append(leaf_hash(line))
        return chunks if chunk.texts else []

    def _encode_one(self, record: LogRecord) -> tuple[LogRecord, bytes]:
        if not record.fingerprint:
            record = complete_record(record)
        if record.received_unix_nano < self._last_received:  # a clock went back
            record = replace(record, received_unix_nano=self._last_received)
        line = self._line(record)
        if len(line) > self._max_line_bytes:
            raise _too_long(record, line, self._max_line_bytes)
        return record, line

    def _line(self, record: LogRecord) -> bytes:
        return encode_line(record) if self._format is None else self._format(record)


def _too_long(record: LogRecord, line: bytes, max_line_bytes: int) -> RecordInvalid:
    event = record.payload
    assert isinstance(event, AuditEvent)
    is_by_details = len(event.details_json.encode()) * 2 > len(line)
    return RecordInvalid(
        "audit.details_json" if is_by_details else "",
        f"makes an audit line of {len(line)} bytes, more than {max_line_bytes}",
    )


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
