"""What a request would become is counted before it is parsed; what would be too much is refused by its field."""

import pytest
from google.protobuf.message import Message

from emitd.v1 import job_pb2, log_service_pb2
from emitd.v1 import record_pb2 as rec
from emitd_server.errors import RequestInvalid
from emitd_server.rpc.field_walk import (
    MAX_ELEMENTS,
    MAX_FIELDS,
    SMALL_REQUEST_BYTES,
    FieldWalk,
    Malformed,
    shape_of,
)

BATCH = shape_of(log_service_pb2.EmitBatchRequest.DESCRIPTOR, {"emitd.v1.EmitBatchRequest.records": 5000})
LIST = shape_of(job_pb2.ListJobsRequest.DESCRIPTOR, {})
WATCH = shape_of(job_pb2.WatchJobsRequest.DESCRIPTOR, {})
AUDIT = rec.LogRecord(message="x" * 200, audit=rec.AuditEvent(event_name="a", user_id="u", source_ip="::1"))


def batch_walk(data: bytes) -> int:
    walk = FieldWalk(data)
    walk.walk_batch(BATCH)
    return walk.count


def field(tag: int, content: bytes) -> bytes:
    length, parts = len(content), bytearray((tag,))
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(parts) + bytes((length,)) + content


def batch(*records: rec.LogRecord) -> bytes:
    return log_service_pb2.EmitBatchRequest(records=records, want_receipts=True).SerializeToString()


@pytest.mark.parametrize("size", [0, 100, 127, 128, 300, 16_383, 16_384, 100_000])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_records_of_any_size_are_counted(size: int, count: int) -> None:
    """A length takes one, two or three bytes on the wire."""
    record = rec.LogRecord(message="x" * size)
    assert batch_walk(batch(*[record] * count)) >= count + 1


def test_as_many_records_as_the_limit_are_taken_and_no_more() -> None:
    """The error names the field and the limit, and comes without a look at the rest."""
    assert batch_walk(b"\x0a\x00" * 5000) == 5000
    for data in (b"\x0a\x00" * 5001, b"\x10\x01" + b"\x0a\x00" * 5001, b"\x0a\x00" * (8 << 20)):
        with pytest.raises(RequestInvalid, match="records: has more than 5000 elements"):
            batch_walk(data)


def test_records_between_other_fields_count_too() -> None:
    """The order on the wire is the sender's."""
    with pytest.raises(RequestInvalid, match="records: has more than 5000 elements"):
        batch_walk(b"\x0a\x00\x10\x01" * 5001)


def test_a_map_in_a_record_is_counted() -> None:
    """The error names the record."""
    labels = {str(number): "" for number in range(MAX_ELEMENTS + 1)}
    record = rec.LogRecord(job=rec.JobStatus(job_id="j", labels=labels))
    with pytest.raises(RequestInvalid, match=r"records\[1\]\.job\.labels: has more than 1000 elements"):
        batch_walk(batch(AUDIT, record))


@pytest.mark.parametrize(
    "request_",
    [
        job_pb2.ListJobsRequest(job_ids=[""] * (MAX_ELEMENTS + 1)),
        job_pb2.ListJobsRequest(statuses=[rec.JOB_STATE_RUNNING] * (MAX_ELEMENTS + 1)),
        job_pb2.ListJobsRequest(labels={str(number): "" for number in range(MAX_ELEMENTS + 1)}),
        job_pb2.WatchJobsRequest(job_ids=["j"] * (MAX_ELEMENTS + 1)),
    ],
    ids=["ids", "packed numbers", "map", "watch"],
)
def test_repeated_fields_of_other_requests_are_counted(request_: Message) -> None:
    """Also numbers that are packed in one field."""
    shape = LIST if isinstance(request_, job_pb2.ListJobsRequest) else WATCH
    with pytest.raises(RequestInvalid, match="has more than 1000 elements"):
        FieldWalk(request_.SerializeToString()).walk(shape)


def test_numbers_that_are_not_packed_are_counted() -> None:
    """A reader must take both forms."""
    with pytest.raises(RequestInvalid, match="statuses: has more than 1000 elements"):
        FieldWalk(b"\x10\x01" * 1001).walk(LIST)


def test_a_large_request_has_a_limit_of_fields_at_all_depths() -> None:
    """A payload that is replaced again and again, in one record or in many, leaves each in memory."""
    flips = b"\x52\x00\x5a\x00" * 100
    assert len(field(0x0A, flips)) * 1500 > SMALL_REQUEST_BYTES
    for data in (field(0x0A, flips) * 1500, field(0x0A, flips * 1500), b"\xa0\x06\x00" * (MAX_FIELDS + 1)):
        with pytest.raises(RequestInvalid, match=f"more than {MAX_FIELDS} fields"):
            batch_walk(data)


@pytest.mark.parametrize("group", [b"\x53\x54", b"\x0b\x0c", b"\x0c", b"\x0f", b"\xa3\x06\xa4\x06"])
def test_groups_and_unknown_wire_types_are_refused(group: bytes) -> None:
    """In the request, and in a record that is large enough to be looked into."""
    for data in (group, batch(AUDIT) + group, field(0x0A, AUDIT.SerializeToString() * 10 + group)):
        with pytest.raises(RequestInvalid, match="groups are not taken"):
            batch_walk(data)
    with pytest.raises(RequestInvalid, match="groups are not taken"):
        FieldWalk(group).walk(LIST)


def test_every_cut_of_a_request_is_malformed_or_ends_with_a_field() -> None:
    """A field ends where its message ends."""
    data = batch(AUDIT, AUDIT)
    ends = {len(batch(AUDIT)) - 2, len(data) - 2, 0}
    for length in range(len(data)):
        if length in ends:
            batch_walk(data[:length])
            continue
        with pytest.raises(Malformed):
            batch_walk(data[:length])


def test_a_message_that_ends_after_the_one_around_it_is_malformed() -> None:
    """Even if the request goes on."""
    record = field(0x0A, b"\x22\xff\x7f" + b"x" * 3000)
    with pytest.raises(Malformed):
        batch_walk(record + record * 10)
