"""The columns of a batch, and what is made of them, equal what a slow and obvious reader makes of each record.

`EMITD_COLUMNS_RECORDS=200000 pytest tests/property/test_columns.py` runs it at length.
"""

import json
import os
import random
import string
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from google.rpc import error_details_pb2

from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb
from emitd_handlers.audit.handler import JsonAuditHandler, JsonAuditSettings
from emitd_handlers.columns import Columns, columns_of
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord, is_source_ip
from emitd_handlers.settings import CommittedSettings, HandlerSettings
from emitd_handlers.testing import InMemoryHandler
from emitd_handlers.text.times import format_time, parse_time
from emitd_server.convert.records import RecordReader
from emitd_server.dispatch.redactor import Redactor
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.rpc.methods import parse_records
from emitd_server.service import LoggingService
from emitd_server.settings import LimitSettings, ServerSettings

RECORDS = int(os.environ.get("EMITD_COLUMNS_RECORDS", "4000"))
LIMITS = LimitSettings(
    max_name_bytes=40, max_id_bytes=80, max_json_bytes=300, max_json_depth=4, max_record_bytes=3000
)
#: Each is refused as the JSON of a field.
BAD_JSON = (
    *(
        "[]",
        "7",
        '"x"',
        "{",
        "}",
        "{}{}",
        '{"a":1,"a":2}',
        '{"a":{"b":1,"b":1}}',
        '{"a":NaN}',
        '{"a":"\\ud800"}',
    ),
    *(
        '{"a":[[[[]]]]}',
        '{"a":"\n"}',
        '{"a":{}\n{}}',
        '{"a":"' + "x" * 300 + '"}',
        "{}\n{}",
        '{"a":1,"\\u0061":2}',
        " ",
    ),
)
#: What the field of a record holds after a fault.
FAULTS: dict[str, Sequence[object]] = {
    "record_id": ("x" * 81, "é" * 41),
    "source": ("x" * 41, "é" * 21),
    "trace_id": (b"x", b"x" * 17),
    "span_id": (b"x" * 7,),
    "attributes_json": BAD_JSON,
    "level": (1, 60, 70, 99),
    "message": ("x" * 3001,),
}
EVENT_FAULTS: dict[str, Sequence[object]] = {
    "event_id": ("x" * 81,),
    "event_name": ("", "x" * 41),
    "user_id": ("", "é" * 21),
    "source_ip": ("", "10.0.0.256", "x" * 60),
    "details_json": ("", *BAD_JSON),
}
JOB_FAULTS: dict[str, Sequence[object]] = {
    "job_id": ("", "x" * 41),
    "job_type": ("x" * 41,),
    "status": (0, 9),
    "progress": (-1, 101),
    "details_json": BAD_JSON,
    "new_attempt": (True,),
    "failure_reason": ("x" * 41,),
}


class Generator:
    """Makes random records, good and bad."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.serial = 0
        #: Good records that had an id of their own.
        self.sent: list[pb.LogRecord] = []

    def batch(self) -> list[pb.LogRecord]:
        """Mostly audit events; faults in every second one; now and then a copy, or a changed copy."""
        kinds = self.random.choice(["e", "e", "e", "j", "l", "ejl", "eeel"])
        fault_share = self.random.choice([0, 0, 0.05, 0.9])
        records = []
        for _ in range(self.random.choice([1, 2, 7, 40])):
            if self.sent and self.random.random() < 0.03:
                copy = pb.LogRecord()
                copy.CopyFrom(self.random.choice(self.sent[-50:]))
                copy.message += self.random.choice(["", "", " changed"])
                records.append(copy)
                continue
            record = self.record(self.random.choice(kinds))
            if self.random.random() < fault_share:
                self.spoil(record)
            records.append(record)
        self.sent += [record for record in records if record.record_id or record.audit.event_id]
        return records

    def record(self, kind: str) -> pb.LogRecord:
        self.serial += 1
        record = pb.LogRecord(
            record_id=self.random.choice([f"r{self.serial}", f"r{self.serial}-ü", ""]),
            time_unix_nano=self.random.choice([0, 1, 1_700_000_000_000_000_000 + self.serial, 2**64 - 1]),
            message=self.text(),
            source=self.random.choice(["", "shop", "läden", "x" * 40]),
        )
        if record.time_unix_nano == 2**64 - 1:
            record.time_unix_nano //= 2  # the last that a line can have is later still
        if self.random.random() < 0.5:
            record.trace_id, record.span_id = self.random.randbytes(16), self.random.randbytes(8)
            record.attributes_json = self.json()
        if kind == "e":
            record.level = self.random.choice([0, 60])  # type: ignore[assignment]
            record.audit.event_id = self.random.choice(["", f"e{self.serial}"])
            record.audit.event_name = self.random.choice(["user.login", "ü" * 20])
            record.audit.user_id = self.text(1)
            record.audit.source_ip = self.random.choice(["10.0.0.1", "::1", "unknown", "2001:db8::2"])
            record.audit.details_json = self.json()
        elif kind == "j":
            record.job.job_id = f"j{self.serial}"
            record.job.status = self.random.choice([1, 2, 3, 4])  # type: ignore[assignment]
            record.job.details_json = self.random.choice(["", self.json()])
            record.job.attempt = self.random.choice([0, 1])
            if self.random.random() < 0.5:
                record.job.progress, record.job.lease_seconds = self.random.choice([0, 100]), 0
                record.job.labels["k"] = "v"
        else:
            record.level = self.random.choice([10, 20, 30, 40, 50])  # type: ignore[assignment]
        return record

    def spoil(self, record: pb.LogRecord) -> None:
        faults = {("", name): values for name, values in FAULTS.items()}
        if record.HasField("audit"):
            faults |= {("audit", name): values for name, values in EVENT_FAULTS.items()}
        if record.HasField("job"):
            faults |= {("job", name): values for name, values in JOB_FAULTS.items()}
        part, name = self.random.choice(list(faults))
        target = getattr(record, part) if part else record
        if name == "new_attempt":
            target.attempt = 2
        setattr(target, name, self.random.choice(faults[part, name]))

    def text(self, least: int = 0) -> str:
        letters = string.printable + "äß€\U0001f600\x00\x7f\u2028"
        return "".join(self.random.choices(letters, k=self.random.randint(least, 9)))

    def json(self) -> str:
        value: dict[str, object] = {}
        for _ in range(self.random.randint(0, 3)):
            value[self.text()] = self.random.choice(
                [
                    self.text(),
                    10**30,
                    -1.5,
                    None,
                    True,
                    [],
                    [1, {"a:": ":"}],
                    {},
                    {"b": {"c": 1}},
                    "12:30",
                    "[x]",
                ]
            )
        indent = self.random.choice([None, None, None, 1])
        separators = self.random.choice([(",", ":"), (", ", ": "), (" ,", " :")])
        return self.random.choice(["", "", " ", "\n"]) + json.dumps(
            value, indent=indent, separators=separators, ensure_ascii=self.random.random() < 0.5
        )


class Fault(Exception):
    """The field that is wrong."""


def kept_json(field: str, text: str) -> str:
    """The JSON of a field as it is kept."""

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    def refuse(text: str) -> None:
        raise ValueError

    try:
        value = json.loads(text, object_pairs_hook=members, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
        if type(value) is not dict or len(text.encode()) > LIMITS.max_json_bytes or depth(value) > 4:
            raise ValueError
    except ValueError:
        raise Fault(field) from None
    return text.strip(" \t\r\n").replace("\n", " ").replace("\r", " ")


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def ensure(field: str, is_good: bool) -> None:
    if not is_good:
        raise Fault(field)


def size(text: str) -> int:
    return len(text.encode())


def read(record: pb.LogRecord) -> LogRecord:
    """Read one record, obviously; without what the server makes itself: ids, times, fingerprint."""
    ensure("", record.ByteSize() <= LIMITS.max_record_bytes)
    ensure("record_id", size(record.record_id) <= LIMITS.max_id_bytes)
    ensure("source", size(record.source) <= LIMITS.max_name_bytes)
    ensure("trace_id", len(record.trace_id) in (0, 16))
    ensure("span_id", len(record.span_id) in (0, 8))
    attributes = record.attributes_json and kept_json("attributes_json", record.attributes_json)
    assigned = () if record.time_unix_nano else ("timestamp",)
    payload: AuditEvent | JobStatus | None = None
    level = record.level
    if record.HasField("audit"):
        ensure("level", level in (0, 60))
        level = Level.AUDIT
        event = record.audit
        ensure("audit.event_id", size(event.event_id) <= LIMITS.max_id_bytes)
        ensure("audit.event_name", 0 < size(event.event_name) <= LIMITS.max_name_bytes)
        ensure("audit.user_id", 0 < size(event.user_id) <= LIMITS.max_name_bytes)
        ensure("audit.source_ip", is_source_ip(event.source_ip))
        details = kept_json("audit.details_json", event.details_json)
        payload = AuditEvent(event.event_id, event.event_name, event.user_id, event.source_ip, details)
        assigned += () if event.event_id else ("event_id",)
    elif record.HasField("job"):
        ensure("level", level in (0, 70))
        level = Level.JOB_STATUS
        payload = read_job(record.job)
    ensure("level", level in {10, 20, 30, 40, 50} or payload is not None)
    return LogRecord(
        Level(level),
        record.message,
        record.record_id,
        record.time_unix_nano,
        0,
        record.source,
        attributes,
        record.trace_id,
        record.span_id,
        payload,
        assigned,
    )


def read_job(job: pb.JobStatus) -> JobStatus:
    ensure("job.job_id", 0 < size(job.job_id) <= LIMITS.max_name_bytes)
    ensure("job.job_type", size(job.job_type) <= LIMITS.max_name_bytes)
    ensure("job.failure_reason", size(job.failure_reason) <= LIMITS.max_name_bytes)
    ensure("job.status", job.status in (1, 2, 3, 4))
    ensure("job.progress", 0 <= job.progress <= 100)
    ensure("job.attempt", not (job.attempt and job.new_attempt))
    return JobStatus(
        job.job_id,
        job.job_type,
        JobState(job.status),
        job.progress if job.HasField("progress") else None,
        job.details_json and kept_json("job.details_json", job.details_json),
        dict(job.labels),
        job.failure_reason,
        job.failure_message,
        job.attempt or 1,
        job.new_attempt,
        job.lease_seconds if job.HasField("lease_seconds") else None,
    )


def line_of(record: LogRecord, event_id: str, received_at: str) -> bytes:
    """The line of an event, member by member."""
    event = record.payload
    assert isinstance(event, AuditEvent)
    texts = {
        "timestamp": received_at if "timestamp" in record.assigned else format_time(record.time_unix_nano),
        "event_id": event_id,
        "event_name": event.event_name,
        "user_id": event.user_id,
        "source_ip": event.source_ip,
        "details": event.details_json,
        "received_at": received_at,
        "source": record.source,
        "record_id": record.record_id,
        "message": record.message,
        "attributes": record.attributes_json,
        "trace_id": record.trace_id.hex(),
        "span_id": record.span_id.hex(),
    }
    members = [
        f'"{name}":{text if name in ("details", "attributes") else json.dumps(text, ensure_ascii=False)}'
        for name, text in texts.items()
        if text
    ]
    if record.assigned:
        members.append(f'"assigned":{json.dumps(record.assigned, separators=(",", ":"))}')
    return ("{" + ",".join(members) + "}").encode()


class Model:
    """What the service must hold and answer."""

    def __init__(self) -> None:
        #: By source and id: the content, and the number of its line; None: it has none.
        self.known: dict[tuple[str, str, str], tuple[bytes, int | None]] = {}
        self.events: list[LogRecord] = []
        self.others: list[LogRecord] = []

    def take(self, record: pb.LogRecord) -> tuple[str, int | None, bool]:
        """Return the field at fault, the number of the record's line, and whether it is a duplicate."""
        try:
            good = read(record)
        except Fault as fault:
            return fault.args[0] or "record", None, False
        event_id = record.audit.event_id
        ids = {"record_id": record.record_id, "audit.event_id": event_id}
        content = (record.message + record.audit.user_id).encode()
        for field, value in ids.items():
            found = self.known.get((record.source, field, value)) if value else None
            if found is not None:
                return ("", found[1], True) if found[0] == content else (field, None, False)
        number = None
        if good.level is Level.AUDIT:
            number = len(self.events)
            self.events.append(good)
        else:
            self.others.append(good)
        self.known.update({(record.source, *item): (content, number) for item in ids.items() if item[1]})
        return "", number, False


class Others(InMemoryHandler):
    """Takes what is no audit event."""

    default_levels = frozenset(Level) - {Level.AUDIT}


@pytest.mark.parametrize("seed", range(3))
async def test_columns_equal_a_slow_reader(tmp_path: Path, seed: int) -> None:
    """The same lines, receipts, refusals and items, in batches of all kinds, with faults and copies."""
    generator, model = Generator(seed), Model()
    path = tmp_path / "audit.json.log"
    others = Others(HandlerSettings(delivery=CommittedSettings()), name="others")
    handlers = [JsonAuditHandler(JsonAuditSettings(path=path), name="audit"), others]
    count = 0
    receipts: dict[int, log_service_pb2.Receipt] = {}
    async with LoggingService(handlers, settings=ServerSettings(limits=LIMITS)) as service:
        servicer = LogServicer(service)
        while count * 3 < RECORDS:
            batch = generator.batch()
            count += len(batch)
            request = log_service_pb2.EmitBatchRequest(records=batch, want_receipts=True)
            reply = log_service_pb2.EmitBatchResponse.FromString(
                await servicer.emit_batch(request.SerializeToString())
            )
            check_reply(batch, [model.take(record) for record in batch], reply, receipts)
    check_lines(path.read_bytes().split(b"\n")[:-1], model.events, receipts)
    assert [without_made(record) for record in others.records] == list(map(without_made, model.others))
    times = [record.received_unix_nano for record in others.records if record.level is Level.JOB_STATUS]
    assert times == sorted(set(times))


def check_reply(
    batch: Sequence[pb.LogRecord],
    answers: Sequence[tuple[str, int | None, bool]],
    reply: log_service_pb2.EmitBatchResponse,
    receipts: dict[int, log_service_pb2.Receipt],
) -> None:
    detail = error_details_pb2.BadRequest()
    found = {}
    for error in reply.errors:
        assert any(item.Unpack(detail) for item in error.status.details) or error.status.code == 6
        found[error.index] = detail.field_violations[0].field if error.status.code == 3 else "known"
    meant = {
        index: "known"
        if field in ("record_id", "audit.event_id") and is_good(batch[index])
        else f"records[{index}]{'' if field == 'record' else '.' + field}"
        for index, (field, _, _) in enumerate(answers)
        if field
    }
    assert found == meant
    assert reply.duplicate_count == sum(is_duplicate for _, _, is_duplicate in answers)
    for record, (field, number, is_duplicate), receipt in zip(batch, answers, reply.receipts, strict=True):
        if field:
            assert receipt == log_service_pb2.Receipt()
        elif number is not None:
            assert (receipt.audit.leaf_index, receipt.duplicate) == (number, is_duplicate)
            assert receipt.record_id == record.record_id
            first = receipts.setdefault(number, receipt)
            assert receipt.audit == first.audit


def is_good(record: pb.LogRecord) -> bool:
    try:
        return read(record) is not None
    except Fault:
        return False


def check_lines(
    lines: Sequence[bytes], events: Sequence[LogRecord], receipts: dict[int, log_service_pb2.Receipt]
) -> None:
    last = 0
    assert len(lines) == len(events) == len(receipts)
    for number, (line, record) in enumerate(zip(lines, events, strict=True)):
        audit, members = receipts[number].audit, json.loads(line)
        assert line == line_of(record, audit.event_id, members["received_at"])
        assert "event_id" in record.assigned or audit.event_id == record.payload.event_id  # type: ignore[union-attr]
        assert audit.leaf_hash == sha256(b"\0" + line).digest()
        assert last <= (last := parse_time(members["received_at"]))


def without_made(record: LogRecord) -> tuple[object, ...]:
    """What of a record does not come from the server's clock."""
    time = 0 if "timestamp" in record.assigned else record.time_unix_nano
    context = (record.message, record.record_id, record.source, record.attributes_json, record.trace_id)
    return (record.level, *context, record.span_id, record.payload, record.assigned, time)


ALL_FAULTS = [
    (kind, part, name, value)
    for kind, part, faults in (
        *(("l", "", FAULTS), ("e", "", FAULTS), ("j", "", FAULTS)),
        *(("e", "audit", EVENT_FAULTS), ("j", "job", JOB_FAULTS)),
    )
    for name, values in faults.items()
    for value in values
]


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_fault_is_found_wherever_it_stands(place: int) -> None:
    """And by the field that the slow reader names; the records around it are taken."""
    for kind, part, name, value in ALL_FAULTS:
        generator = Generator(0)
        records = [generator.record(kind) for _ in range(4)]
        target = getattr(records[place], part) if part else records[place]
        if name == "new_attempt":
            target.attempt = 2
        setattr(target, name, value)
        good, indexes, bad = RecordReader(LIMITS, lambda: 1).read_all(records)
        try:
            read(records[place])
        except Fault as fault:
            assert [error.field for error in bad.values()] == [fault.args[0]], (kind, part, name, value)
            assert list(bad) == [place]
            assert list(indexes) == [index for index in range(4) if index != place]
        else:  # a level that is wrong for another kind
            assert not bad
        assert len(good) == len(indexes)


def test_the_first_fault_of_a_record_is_named() -> None:
    """Whatever else is wrong with it."""
    record = pb.LogRecord(level=99, record_id="x" * 81, trace_id=b"x")  # type: ignore[arg-type]
    _, _, bad = RecordReader(LIMITS, lambda: 1).read_all([record])
    assert bad[0].field == "record_id"


def test_a_field_that_comes_twice_is_no_field_of_the_next_record() -> None:
    """As many values as records are not yet one of each: the last one counts, in its own record."""
    twice = pb.LogRecord(level=10, record_id="a").SerializeToString()  # type: ignore[arg-type]
    twice += pb.LogRecord(record_id="b").SerializeToString()
    none = pb.LogRecord(level=20).SerializeToString()  # type: ignore[arg-type]
    data = b"".join(b"\n" + bytes([len(record)]) + record for record in (twice, none))
    request, _, plain = parse_records(log_service_pb2.EmitBatchRequest, data)
    good, _, _ = RecordReader(LIMITS, lambda: 1).read_all(request.records, plain)
    assert [record.record_id for record in good] == ["b", ""]


def test_a_bad_record_does_not_make_the_others_be_redacted_twice() -> None:
    """A batch is gone through once, whatever is wrong with some of it."""
    redactor = Redactor(["secret"])
    generator = Generator(0)
    records = [generator.record("l") for _ in range(8)]
    for record in records:
        record.attributes_json = '{"secret":1}'
    records[5].level = 99  # type: ignore[assignment]
    good, _, bad = RecordReader(LIMITS, lambda: 1, redactor).read_all(records)
    assert (redactor.count, len(good), list(bad)) == (8, 7, [5])
    assert {record.attributes_json for record in good} == {'{"secret":"[redacted]"}'}


@pytest.mark.parametrize(
    "change", [lambda records: records, lambda records: records[1:], lambda records: records[::-1]]
)
def test_columns_are_a_sequence(change: Callable[[Sequence[LogRecord]], Sequence[LogRecord]]) -> None:
    """Whether made of records, joined, or picked, they are the records."""
    records = [
        LogRecord(Level.AUDIT, str(number), payload=AuditEvent(f"e{number}", "n", "u", "::1", "{}"))
        for number in range(5)
    ]
    columns = fields_of(records)
    columns["payload"] = Columns(AuditEvent, None, fields_of([record.payload for record in records]))
    lazy = Columns(LogRecord, None, columns)
    joined = lazy.joined_with([lazy])
    assert isinstance(joined.payload, Columns)
    assert list(change(joined)) == change(records + records)
    assert list(columns_of(records).joined_with([lazy, lazy])) == records * 3
    assert lazy.joined_with([]) is lazy is columns_of(lazy)
    assert columns_of(records).message == [*map(str, range(5))]
    assert len(columns_of(())) == 0


def fields_of(structs: Sequence[msgspec.Struct]) -> dict[str, Sequence[object]]:
    return {name: [getattr(each, name) for each in structs] for name in type(structs[0]).__struct_fields__}
