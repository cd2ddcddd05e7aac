"""Audit events made in process: what they lack is filled in, and what is wrong with them is named."""

import time
import uuid
from typing import Any

import pytest
from msgspec.structs import replace

from emitd_handlers.audit.write.encoder import complete_record
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord

EVENT = AuditEvent("e-1", "user.login", "u1", "192.0.2.1", '{"a":1}')
COMPLETE = LogRecord(Level.AUDIT, time_unix_nano=5, received_unix_nano=6, payload=EVENT)


def test_a_complete_record_stays_as_it_is() -> None:
    """Where nothing is lacking nothing is changed."""
    full = replace(
        COMPLETE, attributes_json="{}", trace_id=bytes(16), span_id=bytes(8), assigned=("timestamp",)
    )
    assert complete_record(COMPLETE) == COMPLETE
    assert complete_record(full) == full


def test_what_is_lacking_is_filled_in_and_said_to_be() -> None:
    """A record with neither times nor id gets those of now, and names the two that its sender could have set."""
    before = time.time_ns()
    record = complete_record(LogRecord(Level.AUDIT, payload=replace(EVENT, event_id="")))
    assert isinstance(record.payload, AuditEvent)
    assert uuid.UUID(record.payload.event_id).version == 7
    assert before <= record.received_unix_nano <= time.time_ns()
    assert record.time_unix_nano == record.received_unix_nano
    assert record.assigned == ("timestamp", "event_id")


def test_the_time_of_receipt_stands_in_for_the_time() -> None:
    """A record that says when it was taken, but not when it happened, happened when it was taken."""
    record = complete_record(replace(COMPLETE, time_unix_nano=0))
    assert (record.time_unix_nano, record.received_unix_nano, record.assigned) == (6, 6, ("timestamp",))


def test_json_is_put_on_one_line() -> None:
    """Newlines between tokens do not reach the line."""
    record = complete_record(
        replace(COMPLETE, payload=replace(EVENT, details_json='\n{"a":\n1.0}'), attributes_json="{\r\n}\n")
    )
    assert isinstance(record.payload, AuditEvent)
    assert (record.payload.details_json, record.attributes_json) == ('{"a": 1.0}', "{  }")


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"payload": None}, "audit", "is mandatory for an audit record"),
        ({"payload": JobStatus("j", "t", JobState.RUNNING)}, "audit", "is mandatory for an audit record"),
        ({"trace_id": b"123"}, "trace_id", "has 3 bytes; expected 16 or none"),
        ({"span_id": b"123"}, "span_id", "has 3 bytes; expected 8 or none"),
        ({"attributes_json": "[]"}, "attributes_json", "must be one JSON object, not an array"),
        ({"attributes_json": '{"a":1,"a":2}'}, "attributes_json", 'has the key "a" twice in one object'),
        ({"time_unix_nano": 10**21}, "time_unix_nano", "is outside of the years 1 to 9999"),
        ({"message": 7}, "record", "cannot be made an audit line: "),
        ({"source": None}, "record", "cannot be made an audit line: "),
        ({"trace_id": None}, "record", "cannot be made an audit line: "),
        ({"time_unix_nano": "now"}, "record", "cannot be made an audit line: "),
        ({"message": object()}, "record", "cannot be made an audit line: "),
    ],
)
def test_what_is_wrong_with_a_record_is_named(fields: dict[str, Any], field: str, problem: str) -> None:
    """Malformed fields, also those of a wrong type, raise RecordInvalid and nothing else."""
    assert_refused(replace(COMPLETE, **fields), field, problem)


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"event_name": ""}, "audit.event_name", "is mandatory"),
        ({"user_id": ""}, "audit.user_id", "is mandatory"),
        ({"source_ip": "nowhere"}, "audit.source_ip", "'nowhere' is neither an IP address nor 'unknown'"),
        ({"details_json": ""}, "audit.details_json", "is empty; an object without members is {}"),
        ({"details_json": "[1]"}, "audit.details_json", "must be one JSON object, not an array"),
        (
            {"details_json": '{"a":{"b":1,"b":1}}'},
            "audit.details_json",
            'has the key "b" twice in one object',
        ),
        ({"details_json": None}, "record", "cannot be made an audit line: "),
        ({"details_json": {"a": 1}}, "record", "cannot be made an audit line: "),
        ({"user_id": 5}, "record", "cannot be made an audit line: "),
        ({"source_ip": ["::1"]}, "record", "cannot be made an audit line: "),
        ({"event_id": 5}, "record", "cannot be made an audit line: "),
    ],
)
def test_what_is_wrong_with_an_event_is_named(fields: dict[str, Any], field: str, problem: str) -> None:
    """The same holds for the fields of the event."""
    assert_refused(replace(COMPLETE, payload=replace(EVENT, **fields)), field, problem)


def assert_refused(record: LogRecord, field: str, problem: str) -> None:
    with pytest.raises(RecordInvalid) as caught:
        complete_record(record)
    assert caught.value.field == field
    assert caught.value.problem.startswith(problem)
