"""Fields of a newer contract: found at every depth, and told apart from what this version only spells differently."""

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from emitd.v1 import audit_service_pb2, job_pb2, log_service_pb2
from emitd.v1 import record_pb2 as rec
from emitd_server.errors import FieldUnknown
from emitd_server.rpc.methods import parse, parse_records, refuse_unknown

#: Field 500 of any message: a varint, eight bytes, a text, four bytes.
UNKNOWN = [b"\xa0\x1f\x01", b"\xa1\x1f12345678", b"\xa2\x1f\x02hi", b"\xa5\x1f1234"]
#: Field 14 as `true`: two bytes, as many as a map's entry may do without.
SHORT = b"\x70\x01"


def newer(message: Message, unknown: bytes = UNKNOWN[0]) -> Message:
    """Return the message with a field that this version does not know."""
    return type(message).FromString(message.SerializeToString() + unknown)


def find_unknown(message: Message, *, skip: str = "") -> tuple[str, str] | None:
    """Return the path and the problem of the first field that is unknown; None: there is none."""
    try:
        refuse_unknown(message, skip=skip, is_kept=True)
    except FieldUnknown as error:
        assert error.retry_after_seconds == 10.0
        return error.field, error.problem
    return None


def batch(*records: Message) -> bytes:
    return log_service_pb2.EmitBatchRequest(records=records).SerializeToString()  # type: ignore[arg-type]


AUDIT = rec.AuditEvent(event_name="e", user_id="u", source_ip="unknown")
JOB = rec.JobStatus(job_id="j", status=rec.JOB_STATE_RUNNING, labels={"a": "b"})


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize(
    ("record", "path", "name"),
    [
        (lambda unknown: newer(rec.LogRecord(message="m"), unknown), "records[1]", "LogRecord"),
        (lambda unknown: rec.LogRecord(audit=newer(AUDIT, unknown)), "records[1].audit", "AuditEvent"),
        (lambda unknown: rec.LogRecord(job=newer(JOB, unknown)), "records[1].job", "JobStatus"),
    ],
)
def test_a_field_of_a_record_is_found(record, path: str, name: str, unknown: bytes) -> None:  # type: ignore[no-untyped-def]
    """With its number and the message that has it."""
    data = batch(rec.LogRecord(message="m"), record(unknown), rec.LogRecord())
    request, has_unknown, _ = parse_records(log_service_pb2.EmitBatchRequest, data)
    assert has_unknown
    problem = f"this version of the service does not know field 500 of emitd.v1.{name}"
    assert find_unknown(request) == (path, problem)
    assert find_unknown(request, skip="records") is None
    assert find_unknown(request.records[0]) is None


@pytest.mark.parametrize(
    "question",
    [
        newer(job_pb2.ListJobsRequest(job_type="t")),
        newer(job_pb2.GetJobRequest(job_id="j")),
        newer(log_service_pb2.EmitRequest()),
        newer(audit_service_pb2.TailAuditEventsRequest()),
    ],
)
def test_a_field_of_a_question_is_refused(question: Message) -> None:
    """A filter that is passed over would be a wrong answer. It is not worth another try."""
    with pytest.raises(FieldUnknown, match="does not know field 500 of emitd") as caught:
        parse(type(question), question.SerializeToString())
    assert (caught.value.field, caught.value.retry_after_seconds) == ("", None)


#: Two records that say all that they must, but as other encoders do: a default written out, a number in more bytes than
#: it needs, a map's entry without its value, a field twice.
OTHER_SPELLINGS = b"".join(
    bytes([0x0A, len(record)]) + record
    for record in (
        b"\x22\x00" + b"\x18\x94\x80\x00" + b"\x22\x01m" + b"\x22\x01n",
        b"\x5a\x0c" + b"\x0a\x01j\x18\x02\x32\x05\x0a\x03abc",
    )
)


def test_other_spellings_of_known_fields_are_none() -> None:
    """The bytes differ from those that this version would write, and nothing in them is unknown."""
    request, has_unknown, _ = parse_records(log_service_pb2.EmitBatchRequest, OTHER_SPELLINGS)
    assert request.SerializeToString() != OTHER_SPELLINGS
    assert (has_unknown, find_unknown(request)) == (False, None)


def test_a_field_that_hides_behind_another_spelling_is_found() -> None:
    """The entry of a map without its value is as much shorter as the unknown field is long."""
    job = b"\x0a\x01j\x18\x02\x32\x03\x0a\x01a" + SHORT
    record = b"\x5a" + bytes([len(job)]) + job
    request = rec.LogRecord.FromString(record)
    assert dict(request.job.labels) == {"a": ""}
    data = b"\x0a" + bytes([len(record)]) + record
    assert parse_records(log_service_pb2.EmitBatchRequest, data)[1]


@given(
    st.lists(st.sampled_from(["", "record", "audit", "job"]), max_size=20),
    st.integers(100, 100_000),
    st.text(max_size=20),
)
def test_all_are_found_and_no_other(places: list[str], number: int, text: str) -> None:
    """Whatever else is in a batch, and whichever number the field has."""
    tag = number << 3 | 2
    varint = b""
    while tag >= 0x80:
        varint, tag = varint + bytes([tag & 0x7F | 0x80]), tag >> 7
    unknown = varint + bytes([tag, 1, 0])
    records = []
    for place in places:
        record = rec.LogRecord(message=text, attributes_json="{}")
        if place == "audit":
            record = rec.LogRecord(audit=newer(AUDIT, unknown), message=text)  # type: ignore[arg-type]
        elif place == "job":
            record = rec.LogRecord(job=newer(JOB, unknown), source=text)  # type: ignore[arg-type]
        records.append(newer(record, unknown) if place == "record" else record)
    request, has_unknown, _ = parse_records(log_service_pb2.EmitBatchRequest, batch(*records))
    assert has_unknown == any(places)
    found = [find_unknown(record) for record in request.records]
    assert [each is not None for each in found] == [bool(place) for place in places]
    assert all(each is None or f"field {number} of" in each[1] for each in found)
