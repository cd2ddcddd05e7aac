"""The exact bytes of an audit line, and what is read back from them."""

import hashlib
import json
from typing import Any

import pytest
from msgspec.structs import replace

from emitd_handlers.audit.format.line import decode_line, encode_line, leaf_hash, recent_commit
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.outcome import AuditReceipt
from emitd_handlers.record import AuditEvent, Level, LogRecord, audit_fingerprint

EVENT = AuditEvent(
    "e-1", "user.login.failure", "u1", "192.0.2.7", '{"port": 53000, "id": 18446744073709551615.10}'
)
TIME = 1_795_405_140_123_456_789
PLAIN = LogRecord(Level.AUDIT, time_unix_nano=TIME, received_unix_nano=TIME + 1, payload=EVENT)
FULL = LogRecord(
    Level.AUDIT,
    message='a "b"\n\u00e4\u2028',
    record_id="r-1",
    time_unix_nano=TIME,
    received_unix_nano=TIME + 1,
    source="sshd",
    attributes_json='{"timestamp": "forged"}',
    trace_id=bytes(range(16)),
    span_id=bytes(range(8)),
    payload=EVENT,
    assigned=("timestamp", "event_id"),
)


def change(record: LogRecord, **event_fields: Any) -> LogRecord:
    return replace(record, payload=replace(EVENT, **event_fields))


def test_mandatory_members_come_first_and_nothing_empty_follows() -> None:
    """A line holds the mandatory members in their order, and of the others those that the record carries."""
    assert encode_line(PLAIN) == (
        b'{"timestamp":"2026-11-23T03:39:00.123456789Z","event_id":"e-1","event_name":"user.login.failure",'
        b'"user_id":"u1","source_ip":"192.0.2.7","details":{"port": 53000, "id": 18446744073709551615.10},'
        b'"received_at":"2026-11-23T03:39:00.123456790Z"}'
    )


def test_every_member_has_its_place() -> None:
    """A record with everything makes a line with everything, in one order, on one line of UTF-8."""
    line = encode_line(FULL)
    assert list(json.loads(line)) == [
        "timestamp",
        "event_id",
        "event_name",
        "user_id",
        "source_ip",
        "details",
        "received_at",
        "source",
        "record_id",
        "message",
        "attributes",
        "trace_id",
        "span_id",
        "assigned",
    ]
    assert line.endswith(
        b'"source":"sshd","record_id":"r-1","message":"a \\"b\\"\\n\xc3\xa4\xe2\x80\xa8",'
        b'"attributes":{"timestamp": "forged"},"trace_id":"000102030405060708090a0b0c0d0e0f",'
        b'"span_id":"0001020304050607","assigned":["timestamp","event_id"]}'
    )
    assert b"\n" not in line


@pytest.mark.parametrize(
    ("record", "field", "problem"),
    [
        (replace(PLAIN, payload=None), "audit", "is mandatory for an audit record"),
        (change(PLAIN, event_id=""), "audit.event_id", "is mandatory"),
        (change(PLAIN, event_name=""), "audit.event_name", "is mandatory"),
        (change(PLAIN, user_id=""), "audit.user_id", "is mandatory"),
        (change(PLAIN, source_ip=""), "audit.source_ip", "is mandatory"),
        (
            change(PLAIN, source_ip="localhost"),
            "audit.source_ip",
            "'localhost' is neither an IP address nor 'unknown'",
        ),
        (change(PLAIN, details_json=""), "audit.details_json", "is empty; an object without members is {}"),
        (change(PLAIN, details_json="[]"), "audit.details_json", "must be one JSON object, not an array"),
        (
            change(PLAIN, details_json="{} {}"),
            "audit.details_json",
            "is not JSON: trailing characters (byte 4)",
        ),
        (
            change(PLAIN, details_json='{"a":NaN}'),
            "audit.details_json",
            "is not JSON: invalid character (byte 5)",
        ),
        (change(PLAIN, details_json='{"a":"\\ud800"}'), "audit.details_json", "holds half a surrogate pair"),
        (change(PLAIN, details_json='{"a":1,\n"b":2}'), "audit.details_json", "must be on one line"),
        (
            change(PLAIN, details_json='{"a":' + "[" * 30_000 + "]" * 30_000 + "}"),
            "audit.details_json",
            "nests deeper than 32 levels",
        ),
        (replace(PLAIN, attributes_json="[1]"), "attributes_json", "must be one JSON object, not an array"),
        (
            replace(PLAIN, attributes_json='{"a":1}x'),
            "attributes_json",
            "is not JSON: trailing characters (byte 8)",
        ),
        (replace(PLAIN, attributes_json='{\n"a":1}'), "attributes_json", "must be on one line"),
        (replace(PLAIN, message="\ud800"), "message", "holds half a surrogate pair"),
        (replace(PLAIN, source="\ud800"), "source", "holds half a surrogate pair"),
        (replace(PLAIN, record_id="\udfff"), "record_id", "holds half a surrogate pair"),
        (change(PLAIN, user_id="u\ud800"), "audit.user_id", "holds half a surrogate pair"),
        (change(PLAIN, source_ip="\ud800"), "audit.source_ip", "holds half a surrogate pair"),
        (replace(PLAIN, time_unix_nano=10**21), "time_unix_nano", "is outside of the years 1 to 9999"),
    ],
)
def test_what_makes_no_line_is_refused_by_field(record: LogRecord, field: str, problem: str) -> None:
    """A record that an auditor could not rely on raises RecordInvalid, which names the field and the reason."""
    with pytest.raises(RecordInvalid) as caught:
        encode_line(record)
    assert (caught.value.field, caught.value.problem) == (field, problem)


def test_leaf_hash_is_that_of_rfc_6962() -> None:
    """A leaf is SHA-256 of a zero byte and the line."""
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"{}") == hashlib.sha256(b"\0{}").digest()


@pytest.mark.parametrize("record", [PLAIN, FULL])
@pytest.mark.parametrize("assigned", [(), ("timestamp",), ("event_id",), ("timestamp", "event_id")])
def test_a_line_tells_what_its_sender_set(record: LogRecord, assigned: tuple[str, ...]) -> None:
    """A retry is recognised from the line: ids, fingerprint and receipt are those of the first time."""
    line = encode_line(replace(record, assigned=assigned))
    sent_id = "" if "event_id" in assigned else "e-1"
    commit = recent_commit(line, "log", 7)
    assert commit.record_id == record.record_id
    assert commit.event_id == sent_id
    assert commit.receipt == AuditReceipt("log", "e-1", 7, leaf_hash(line))
    assert commit.fingerprint == audit_fingerprint(
        record.message,
        record.source,
        record.attributes_json,
        record.trace_id,
        record.span_id,
        sent_id,
        EVENT.event_name,
        EVENT.user_id,
        EVENT.source_ip,
        EVENT.details_json,
        0 if "timestamp" in assigned else TIME,
    )


@pytest.mark.parametrize(
    "bad",
    [
        replace(PLAIN, payload=None),
        *(
            replace(PLAIN, payload=replace(EVENT, **{field: ""}))
            for field in ("event_id", "event_name", "user_id", "source_ip", "details_json")
        ),
        replace(PLAIN, payload=replace(EVENT, source_ip="nowhere")),
        replace(PLAIN, payload=replace(EVENT, details_json="[]")),
        replace(PLAIN, payload=replace(EVENT, details_json='{"a":\n1}')),
        replace(PLAIN, payload=replace(EVENT, details_json='{"a":')),
        replace(PLAIN, payload=replace(EVENT, user_id="\ud800")),
        replace(PLAIN, attributes_json="[]"),
        replace(PLAIN, attributes_json="{\n}"),
        replace(PLAIN, time_unix_nano=1 << 80),
    ],
)
def test_a_bad_record_makes_no_line(bad: LogRecord) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(RecordInvalid):
        encode_line(bad)


GOOD = encode_line(PLAIN)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"null",
        b"[" + GOOD + b"]",
        GOOD[:-1],
        GOOD + b"}",
        GOOD.replace(b"u1", b"u\x00"),
        GOOD.replace(b"u1", b"u\xff"),
        GOOD.replace(b'"u1"', b"1"),
        GOOD.replace(b'"user_id":"u1",', b""),
        GOOD.replace(b'"details":{', b'"details":[{').replace(b"},", b"}],"),
        GOOD.replace(b'"port"', b'"po\x00t"'),
        GOOD.replace(b"53000", b"[" * 100_000 + b"]" * 100_000),
        GOOD + GOOD,
    ],
)
def test_what_is_no_audit_line_is_noticed(line: bytes) -> None:
    """A line that is torn, lacks a mandatory member or has one of another kind raises ValueError."""
    with pytest.raises(ValueError, match=r"."):
        decode_line(line)
    with pytest.raises(ValueError, match=r"."):
        recent_commit(line, "log", 0)


def test_a_line_with_members_of_a_later_release_is_read() -> None:
    """Members that this release does not know do no harm."""
    assert decode_line(GOOD[:-1] + b',"later":{"a":1}}') == decode_line(GOOD)
