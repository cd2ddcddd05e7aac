"""From records to the lines of a group: whole batches at once where nothing is special, else one by one."""

from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from emitd_handlers.audit.format.line import encode_line, encode_lines
from emitd_handlers.audit.write.defaults import complete_record
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import AuditEvent, LogRecord
from emitd_handlers.tlog.merkle import leaf_hash

__all__ = ["AuditEncoder", "Chunk"]


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
