"""From the wire to LogRecord: every field arrives, what the sender left out is filled in, and bad ones are named."""

import pytest

from emitd.v1 import record_pb2 as rec
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord
from emitd_server.convert.records import RecordReader
from emitd_server.settings import LimitSettings

NOW = 1_700_000_000_000_000_000


def reader(**limits: int) -> RecordReader:
    return RecordReader(LimitSettings(**limits), clock=lambda: NOW)


def read(record: rec.LogRecord, **limits: int) -> LogRecord:
    records, _, bad = reader(**limits).read_all([record])
    if bad:
        raise bad[0]
    return records[0]


ENVELOPE = {
    "record_id": "r1",
    "time_unix_nano": 42,
    "message": "hello",
    "source": "shop",
    "attributes_json": '{"a":1}',
    "trace_id": b"t" * 16,
    "span_id": b"s" * 8,
}
AUDIT = {
    "event_id": "e1",
    "event_name": "user.login",
    "user_id": "u1",
    "source_ip": "2001:db8::1",
    "details_json": '{"b": 2}',
}
JOB = {
    "job_id": "j1",
    "job_type": "sync",
    "status": rec.JOB_STATE_FAILED,
    "progress": 7,
    "details_json": '{"c":3}',
    "labels": {"k": "v"},
    "failure_reason": "OOM",
    "failure_message": "no memory",
    "attempt": 3,
    "lease_seconds": 60,
}


def test_every_field_of_a_log_line_arrives() -> None:
    """Under the same name."""
    record = read(rec.LogRecord(level=rec.LEVEL_ERROR, **ENVELOPE))  # type: ignore[arg-type]
    assert {name: getattr(record, name) for name in ENVELOPE} == ENVELOPE
    assert record.level is Level.ERROR
    assert record.payload is None
    assert record.received_unix_nano == NOW
    assert record.assigned == ()


def test_every_field_of_an_audit_event_arrives() -> None:
    """The payload too; the level may be left out."""
    record = read(rec.LogRecord(audit=rec.AuditEvent(**AUDIT), **ENVELOPE))  # type: ignore[arg-type]
    assert {name: getattr(record, name) for name in ENVELOPE} == ENVELOPE
    assert record.level is Level.AUDIT
    assert record.payload == AuditEvent(**AUDIT)


def test_every_field_of_a_job_report_arrives() -> None:
    """With the contract's state as ours."""
    record = read(rec.LogRecord(job=rec.JobStatus(**JOB), **ENVELOPE))  # type: ignore[arg-type]
    assert {name: getattr(record, name) for name in ENVELOPE} == ENVELOPE
    assert record.level is Level.JOB_STATUS
    assert record.payload == JobStatus(**{**JOB, "status": JobState.FAILED})  # type: ignore[arg-type]


def test_what_is_absent_stays_absent() -> None:
    """No progress is not a progress of 0, and no lease is not a lease of 0; attempt 0 means 1."""
    record = read(rec.LogRecord(job=rec.JobStatus(job_id="j", status=rec.JOB_STATE_RUNNING)))
    assert record.payload == JobStatus("j", "", JobState.RUNNING)
    zero = rec.JobStatus(job_id="j", status=rec.JOB_STATE_RUNNING, progress=0, lease_seconds=0)
    payload = read(rec.LogRecord(job=zero)).payload
    assert isinstance(payload, JobStatus)
    assert (payload.progress, payload.lease_seconds, payload.attempt) == (0, 0, 1)


def test_time_and_event_id_are_filled_in() -> None:
    """And `assigned` says so."""
    event = {**AUDIT, "event_id": ""}
    record = read(rec.LogRecord(audit=rec.AuditEvent(**event)))  # type: ignore[arg-type]
    assert record.time_unix_nano == record.received_unix_nano == NOW
    assert isinstance(record.payload, AuditEvent)
    assert len(record.payload.event_id) == 36
    assert record.assigned == ("timestamp", "event_id")
    sent = read(rec.LogRecord(time_unix_nano=1, audit=rec.AuditEvent(**event)))  # type: ignore[arg-type]
    assert sent.assigned == ("event_id",)
    kept = read(rec.LogRecord(audit=rec.AuditEvent(**AUDIT)))  # type: ignore[arg-type]
    assert kept.assigned == ("timestamp",)


def test_receipt_times_order_job_reports() -> None:
    """Reports without a time, in one request or in many, keep their order though the clock stands still."""
    same = reader()
    report = rec.LogRecord(job=rec.JobStatus(job_id="j", status=rec.JOB_STATE_RUNNING))
    times: list[int] = []
    for _ in range(3):
        records, _, _ = same.read_all([report, report])
        times += [record.time_unix_nano for record in records]
    assert times == sorted(set(times))


CHANGES: list[tuple[str, object]] = [
    *[(name, value) for name, value in ENVELOPE.items() if name != "record_id"],
    *[(f"audit.{name}", "::2" if name == "source_ip" else '{"z":1}') for name in AUDIT],
    ("job.job_id", "x"),
    ("job.job_type", "x"),
    ("job.status", rec.JOB_STATE_QUEUED),
    ("job.progress", 8),
    ("job.details_json", "{}"),
    ("job.failure_reason", "x"),
    ("job.failure_message", "x"),
    ("job.attempt", 4),
    ("job.lease_seconds", 61),
]


@pytest.mark.parametrize(("path", "value"), CHANGES)
def test_the_fingerprint_tells_each_field_apart(path: str, value: object) -> None:
    """Two records that differ in one field that the sender set have different fingerprints."""
    base = rec.LogRecord(record_id="r1")
    kind, _, name = path.rpartition(".")
    if kind == "job":
        base.job.CopyFrom(rec.JobStatus(**JOB))  # type: ignore[arg-type]
    else:
        base.audit.CopyFrom(rec.AuditEvent(**AUDIT))  # type: ignore[arg-type]
    changed = rec.LogRecord()
    changed.CopyFrom(base)
    setattr(getattr(changed, kind) if kind else changed, name, value)
    assert read(base).fingerprint == read(base).fingerprint
    assert read(changed).fingerprint != read(base).fingerprint


def test_labels_and_new_attempt_are_in_the_fingerprint() -> None:
    """Labels in any order are the same labels."""
    one = read(rec.LogRecord(job=rec.JobStatus(**{**JOB, "labels": {"a": "1", "b": "2"}})))  # type: ignore[arg-type]
    other = read(rec.LogRecord(job=rec.JobStatus(**{**JOB, "labels": {"b": "2", "a": "1"}})))  # type: ignore[arg-type]
    third = read(rec.LogRecord(job=rec.JobStatus(**{**JOB, "labels": {"a": "1"}})))  # type: ignore[arg-type]
    fresh = {**JOB, "attempt": 0, "new_attempt": True}
    fourth = read(rec.LogRecord(job=rec.JobStatus(**{**fresh, "labels": {"a": "1"}})))  # type: ignore[arg-type]
    assert one.fingerprint == other.fingerprint
    assert len({one.fingerprint, third.fingerprint, fourth.fingerprint}) == 3


def test_good_records_are_read_beside_bad_ones() -> None:
    """Each with its index in the request."""
    good = rec.LogRecord(level=rec.LEVEL_INFO, message="x")
    records, indexes, bad = reader().read_all([rec.LogRecord(), good, rec.LogRecord(level=99), good])  # type: ignore[arg-type]
    assert list(indexes) == [1, 3]
    assert [record.message for record in records] == ["x", "x"]
    assert {index: error.field for index, error in bad.items()} == {0: "level", 2: "level"}


@pytest.mark.parametrize("letter", ["x", "é", "\u20ac", "\U0001f600"])
def test_limits_count_bytes_of_utf8(letter: str) -> None:
    """A name exactly at its limit is taken, one byte more is refused."""
    width = len(letter.encode())
    fits = letter * (64 // width)
    record = rec.LogRecord(level=rec.LEVEL_INFO, source=fits)
    assert read(record, max_name_bytes=64, max_id_bytes=64).source == fits
    with pytest.raises(RecordInvalid, match="source: has"):
        read(rec.LogRecord(level=rec.LEVEL_INFO, source=fits + letter), max_name_bytes=64, max_id_bytes=64)


def test_a_record_that_is_too_large_is_refused_among_small_ones() -> None:
    """`max_record_bytes` is for each record, not for the request."""
    small = rec.LogRecord(level=rec.LEVEL_INFO, message="x" * 50)
    large = rec.LogRecord(level=rec.LEVEL_INFO, message="x" * 200)
    records, _, bad = reader(max_record_bytes=100).read_all([small, large, small, small])
    assert len(records) == 3
    assert list(bad) == [1]
    assert "more than 100" in str(bad[1])
