"""Whatever a sender sends as an audit event is in its line, and can be told from it."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from emitd_handlers.audit.format.line import decode_line, encode_line, recent_commit
from emitd_handlers.record import AuditEvent, Level, LogRecord, audit_fingerprint
from emitd_handlers.text.times import format_time, parse_time

# Everything that UTF-8 can carry, which is what reaches the edge.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = texts.filter(bool)
# Numbers as text: more digits, and other spellings, than Python's types keep.
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
json_strings = texts.map(lambda text: json.dumps(text, ensure_ascii=False)) | texts.map(json.dumps)


@st.composite
def json_objects(draw: st.DrawFn) -> str:
    """One object as text, as `check_json_object` returns it."""
    keys = draw(st.lists(json_strings, max_size=4, unique_by=json.loads))
    gap = st.sampled_from(["", " ", "\t"])
    members = [f"{key}{draw(gap)}:{draw(gap)}{draw(numbers | json_strings)}" for key in keys]
    return "{" + draw(gap) + ",".join(members) + draw(gap) + "}"


times = st.integers(0, 2**64 - 1)
events = st.builds(
    AuditEvent, names, names, names, st.ip_addresses().map(str) | st.just("unknown"), json_objects()
)


@st.composite
def audit_records(draw: st.DrawFn) -> LogRecord:
    event = draw(events)
    time_unix_nano = draw(times)
    assigned = draw(st.sampled_from([(), ("timestamp",), ("event_id",), ("timestamp", "event_id")]))
    message, source = draw(texts), draw(texts)
    attributes_json = draw(st.just("") | json_objects())
    trace_id = draw(st.just(b"") | st.binary(min_size=16, max_size=16))
    span_id = draw(st.just(b"") | st.binary(min_size=8, max_size=8))
    return LogRecord(
        Level.AUDIT,
        message=message,
        record_id=draw(texts),
        time_unix_nano=time_unix_nano,
        received_unix_nano=draw(times),
        source=source,
        attributes_json=attributes_json,
        trace_id=trace_id,
        span_id=span_id,
        payload=event,
        assigned=assigned,
        fingerprint=audit_fingerprint(
            message,
            source,
            attributes_json,
            trace_id,
            span_id,
            "" if "event_id" in assigned else event.event_id,
            event.event_name,
            event.user_id,
            event.source_ip,
            event.details_json,
            0 if "timestamp" in assigned else time_unix_nano,
        ),
    )


@settings(max_examples=400)
@given(audit_records())
def test_nothing_is_lost_or_changed(record: LogRecord) -> None:
    """A line is one line, holds every field of the record, and the texts of its JSON byte for byte."""
    event = record.payload
    assert isinstance(event, AuditEvent)
    line = encode_line(record)
    assert b"\n" not in line
    found = json.loads(line, parse_float=str, parse_int=str)
    expected = {
        "timestamp": format_time(record.time_unix_nano),
        "event_id": event.event_id,
        "event_name": event.event_name,
        "user_id": event.user_id,
        "source_ip": event.source_ip,
        "details": json.loads(event.details_json, parse_float=str, parse_int=str),
        "received_at": format_time(record.received_unix_nano),
    }
    optional = {
        "source": record.source,
        "record_id": record.record_id,
        "message": record.message,
        "attributes": json.loads(record.attributes_json or "null", parse_float=str, parse_int=str),
        "trace_id": record.trace_id.hex(),
        "span_id": record.span_id.hex(),
        "assigned": list(record.assigned),
    }
    present = {
        key: value for key, value in optional.items() if value or (key == "attributes" and value == {})
    }
    assert found == expected | present
    assert list(found) == list(expected | present)
    parsed = decode_line(line)
    assert bytes(parsed.details).decode() == event.details_json
    assert bytes(parsed.attributes).decode() == record.attributes_json


@settings(max_examples=400)
@given(audit_records(), st.integers(0, 2**63))
def test_a_retry_is_recognised_from_the_line(record: LogRecord, index: int) -> None:
    """The fingerprint that the edge gave a record comes back from its line."""
    commit = recent_commit(encode_line(record), "log", index)
    assert commit.fingerprint == record.fingerprint
    assert commit.record_id == record.record_id


@given(times)
def test_times_round_trip(unix_nano: int) -> None:
    """Every time of the wire is read again as it was."""
    assert parse_time(format_time(unix_nano)) == unix_nano


@given(audit_records(), st.data())
def test_no_part_of_a_line_is_a_line(record: LogRecord, data: st.DataObject) -> None:
    """A line that a crash has cut short, or filled with zeros somewhere, is no line."""
    line = encode_line(record)
    place = data.draw(st.integers(0, len(line) - 1))
    length = data.draw(st.integers(1, len(line) - place))
    for torn in (line[:place], line[:place] + bytes(length) + line[place + length :]):
        try:
            decode_line(torn)
        except ValueError:
            continue
        raise AssertionError(torn)
