"""Between the audit trail and the wire: what a request means, and that a line's record is the one that was sent."""

import time

import pytest

from emitd.v1 import AuditEvent, ListAuditEventsRequest, LogRecord, TailAuditEventsRequest
from emitd_handlers.audit.format.line import encode_line
from emitd_handlers.audit.read.scan import entry_of
from emitd_handlers.audit.source import AuditBatch, AuditFilter, AuditQuery, InclusionProof
from emitd_handlers.scope import EVERYTHING
from emitd_server.convert.audit import (
    batch_to_wire,
    entry_to_wire,
    inclusion_to_wire,
    read_filter,
    read_query,
)
from emitd_server.convert.records import RecordReader
from emitd_server.errors import RequestInvalid
from emitd_server.settings import LimitSettings
from support.audit.sealed_log import make_line

SENT = LogRecord(
    record_id="r1",
    time_unix_nano=1_700_000_000_123_456_789,
    level=60,  # type: ignore[arg-type]
    message="made\nup",
    source="test",
    attributes_json='{"a":1.50}',
    trace_id=bytes(range(16)),
    span_id=bytes(range(8)),
    audit=AuditEvent(
        event_id="e1",
        event_name="user.login",
        user_id="日本",
        source_ip="2001:db8::1",
        details_json='{"id":12345678901234567890}',
    ),
)


def line_of(record: LogRecord) -> bytes:
    (read,), _, bad = RecordReader(LimitSettings(), time.time_ns).read_all([record])
    assert not bad
    return encode_line(read)


def test_a_line_tells_the_record_that_was_sent() -> None:
    """Every field comes back as it was, with the line's exact bytes beside it."""
    line = line_of(SENT)
    message = entry_to_wire(entry_of(7, line))
    assert message.record == SENT
    assert (message.leaf_index, message.line) == (7, line)
    assert len(message.leaf_hash) == 32
    assert message.receive_time_unix_nano > SENT.time_unix_nano


def test_what_the_server_assigned_is_told_too() -> None:
    """A record without time and event id gets those that its line has."""
    record = LogRecord(audit=AuditEvent(event_name="x", user_id="u", source_ip="unknown", details_json="{}"))
    message = entry_to_wire(entry_of(0, line_of(record)))
    assert len(message.record.audit.event_id) == 36
    assert message.record.time_unix_nano == message.receive_time_unix_nano
    assert message.record.attributes_json == message.record.message == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"{", b"["),
        (b'"timestamp":"20', b'"timestamp":"xx'),
        (b'"timestamp":"20', b'"timestamp":"19'),
        (b'"received_at":"20', b'"received_at":"xx'),
        (b'"trace_id":"00', b'"trace_id":"xx'),
    ],
)
def test_a_damaged_line_has_no_record(old: bytes, new: bytes) -> None:
    """It is shown as it is, with its number, and nothing is made up."""
    line = line_of(SENT).replace(old, new, 1)
    message = entry_to_wire(entry_of(3, line))
    assert message.line == line
    assert message.leaf_index == 3
    assert not message.HasField("record")


def test_a_query() -> None:
    """Each field means what it is called; a page has 100 where nothing is said, and never more than 1,000."""
    request = ListAuditEventsRequest(
        received_after_unix_nano=1,
        received_before_unix_nano=2,
        event_name_prefix="a.",
        user_id="u",
        source_ip="192.0.2.1",
        event_id="e",
        newest_first=True,
        page_size=5000,
        page_token="t",
    )
    assert read_query(request, EVERYTHING, 9) == AuditQuery(
        filter=AuditFilter(event_id="e", event_name_prefix="a.", user_id="u", source_ip="192.0.2.1"),
        received_after_unix_nano=1,
        received_before_unix_nano=2,
        newest_first=True,
        page_size=1000,
        page_token="t",
        max_scan_bytes=9,
    )
    assert read_query(ListAuditEventsRequest(), EVERYTHING, 9) == AuditQuery(page_size=100, max_scan_bytes=9)


def test_bad_requests() -> None:
    """A negative page, and an address that is none, are refused by the field's name."""
    with pytest.raises(RequestInvalid) as caught:
        read_query(ListAuditEventsRequest(page_size=-1), EVERYTHING, 9)
    assert caught.value.field == "page_size"
    for request in (ListAuditEventsRequest(source_ip="192.0.2"), TailAuditEventsRequest(source_ip="x" * 999)):
        with pytest.raises(RequestInvalid) as caught:
            read_filter(request, EVERYTHING)
        assert caught.value.field == "source_ip"
        assert len(str(caught.value)) < 150
    assert read_filter(TailAuditEventsRequest(source_ip="unknown"), EVERYTHING) == AuditFilter(
        source_ip="unknown"
    )


def test_a_batch_without_events_is_a_heartbeat() -> None:
    """And one with events is none; both say where to go on."""
    beat = batch_to_wire("log", AuditBatch((), 8))
    assert (beat.log_id, beat.heartbeat, beat.next_index, len(beat.entries)) == ("log", True, 8, 0)
    batch = batch_to_wire("log", AuditBatch([entry_of(8, make_line(8))], 9))
    assert (batch.heartbeat, batch.next_index, batch.entries[0].leaf_index) == (False, 9, 8)


def test_a_proof() -> None:
    """Its hashes come in their order."""
    message = inclusion_to_wire(
        "log", InclusionProof(1, b"{}", b"h" * 32, 3, [b"a" * 32, b"b" * 32], b"note")
    )
    assert list(message.hashes) == [b"a" * 32, b"b" * 32]
    assert (message.log_id, message.leaf_index, message.tree_size, message.checkpoint) == (
        "log",
        1,
        3,
        b"note",
    )
