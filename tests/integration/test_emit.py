"""Emit and EmitBatch against a real server: receipts, verdicts, and every kind of bad input by its field."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from emitd.transport import reply
from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import record_pb2 as rec
from emitd_server.settings import LimitSettings, ServerSettings
from support.client.in_process import (
    Running,
    bad_fields,
    in_memory,
    retry_seconds,
    running,
    status_details,
    three_handlers,
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(three_handlers(tmp_path)) as server:
        yield server


def audit(**fields: object) -> rec.LogRecord:
    values: dict[str, object] = {
        "event_name": "user.login",
        "user_id": "u1",
        "source_ip": "10.0.0.1",
        "details_json": "{}",
    }
    values.update(fields)
    return rec.LogRecord(audit=rec.AuditEvent(**values))  # type: ignore[arg-type]


def job(**fields: object) -> rec.LogRecord:
    values: dict[str, object] = {"job_id": "j1", "job_type": "sync", "status": rec.JOB_STATE_RUNNING}
    values.update(fields)
    return rec.LogRecord(job=rec.JobStatus(**values))  # type: ignore[arg-type]


async def emit(server: Running, record: rec.LogRecord) -> pb.Receipt:
    response: pb.EmitResponse = await server.stub.Emit(pb.EmitRequest(record=record))
    return response.receipt


async def refused(server: Running, record: rec.LogRecord) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await emit(server, record)
    return caught.value


def audit_lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "audit.json.log").read_text().splitlines()]


async def test_each_kind_gets_its_receipt(server: Running, tmp_path: Path) -> None:
    """A log line is queued, an audit event is on disk, a job row is committed, when the reply comes."""
    queued = await emit(server, rec.LogRecord(level=rec.LEVEL_INFO, message="hello", record_id="r1"))
    assert queued.record_id == "r1"
    assert [(h.handler, h.delivery) for h in queued.handlers] == [("memory", pb.DELIVERY_QUEUED)]
    committed = await emit(server, audit(user_id="u7"))
    assert [(h.handler, h.delivery) for h in committed.handlers] == [("audit", pb.DELIVERY_COMMITTED)]
    assert committed.audit.leaf_index == 0
    assert len(committed.audit.leaf_hash) == 32
    (line,) = audit_lines(tmp_path)
    assert line["user_id"] == "u7"
    assert line["event_id"] == committed.audit.event_id
    applied = await emit(server, job(progress=40))
    assert (applied.job.revision, applied.job.attempt, applied.job.applied) == (1, 1, True)


async def test_a_batch_has_a_verdict_for_each_record(server: Running, tmp_path: Path) -> None:
    """One bad record never sinks its batch; the reply lists failures and notices only."""
    records = [
        rec.LogRecord(level=rec.LEVEL_INFO, message="a"),
        audit(source_ip="nowhere"),
        audit(),
        job(status=rec.JOB_STATE_COMPLETED),
        job(status=rec.JOB_STATE_RUNNING),
        audit(user_id=""),
    ]
    response: pb.EmitBatchResponse = await server.stub.EmitBatch(pb.EmitBatchRequest(records=records))
    assert response.accepted_count == 4
    assert [(error.index, bad_fields(error.status)) for error in response.errors] == [
        (1, ["records[1].audit.source_ip"]),
        (5, ["records[5].audit.user_id"]),
    ]
    assert not any(error.retryable for error in response.errors)
    assert [(n.index, n.job_id, n.stale_reason, n.current_attempt) for n in response.job_notices] == [
        (4, "j1", "ATTEMPT_ENDED", 1)
    ]
    assert len(response.receipts) == 0
    assert len(audit_lines(tmp_path)) == 1


async def test_receipts_come_on_request(server: Running) -> None:
    """With `want_receipts` there is one for each record, in order, empty for a refused one."""
    request = pb.EmitBatchRequest(records=[audit(), audit(user_id=""), job()], want_receipts=True)
    response: pb.EmitBatchResponse = await server.stub.EmitBatch(request)
    assert len(response.receipts) == 3
    assert response.receipts[0].HasField("audit")
    assert response.receipts[1] == pb.Receipt()
    assert response.receipts[2].job.applied


#: Field 500, a number: of a newer version.
NEWER = b"\xa0\x1f\x07"


def newer_audit() -> rec.LogRecord:
    event = rec.AuditEvent.FromString(audit().audit.SerializeToString() + NEWER)
    return rec.LogRecord(audit=event)


async def test_a_record_of_a_newer_version_is_worth_another_try(server: Running, tmp_path: Path) -> None:
    """It is refused by itself, with the field's number and its message; nothing of it is passed over."""
    newer_line = rec.LogRecord.FromString(rec.LogRecord(level=20, message="m").SerializeToString() + NEWER)
    records = [audit(), newer_audit(), newer_line, audit(user_id="")]
    response: pb.EmitBatchResponse = await server.stub.EmitBatch(pb.EmitBatchRequest(records=records))
    assert response.accepted_count == 1
    assert [(error.index, error.retryable, error.status.code) for error in response.errors] == [
        (1, True, code_pb2.UNIMPLEMENTED),
        (2, True, code_pb2.UNIMPLEMENTED),
        (3, False, code_pb2.INVALID_ARGUMENT),
    ]
    unknown = "this version of the service does not know field 500 of emitd.v1"
    assert [error.status.message for error in response.errors][:2] == [
        f"records[1].audit: {unknown}.AuditEvent",
        f"records[2]: {unknown}.LogRecord",
    ]
    assert len(audit_lines(tmp_path)) == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.Emit(pb.EmitRequest(record=newer_audit()))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == f"record.audit: {unknown}.AuditEvent"
    assert reply.is_retryable(caught.value)
    assert reply.retry_delay(reply.details_of(caught.value)) == 10.0
    for request in (pb.EmitBatchRequest(records=[audit()]), pb.EmitRequest(record=audit())):
        method = f"/emitd.v1.LogService/{type(request).__name__.removesuffix('Request')}"
        with pytest.raises(grpc.aio.AioRpcError, match=f"{unknown}.{type(request).__name__}") as caught:
            await server.channel.unary_unary(method)(request.SerializeToString() + NEWER)
        assert reply.is_retryable(caught.value)
    assert len(audit_lines(tmp_path)) == 1


async def test_a_question_of_a_newer_version_is_refused(server: Running) -> None:
    """A filter that this version would pass over; another try does not help."""
    with pytest.raises(grpc.aio.AioRpcError, match=r"field 500 of emitd\.v1\.ListJobsRequest") as caught:
        await server.channel.unary_unary("/emitd.v1.LogService/ListJobs")(NEWER)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not reply.is_retryable(caught.value)


async def test_an_empty_batch_is_good(server: Running) -> None:
    """There is nothing to refuse in it."""
    response: pb.EmitBatchResponse = await server.stub.EmitBatch(pb.EmitBatchRequest())
    assert response == pb.EmitBatchResponse(server_id=response.server_id)


async def test_a_server_has_an_id_until_it_is_restarted(server: Running, tmp_path: Path) -> None:
    """Every reply to a batch carries the same number, another server's another."""
    first, second = [(await server.stub.EmitBatch(pb.EmitBatchRequest())).server_id for _ in range(2)]
    assert first == second != 0
    (tmp_path / "other").mkdir()
    async with running(three_handlers(tmp_path / "other")) as other:
        assert (await other.stub.EmitBatch(pb.EmitBatchRequest())).server_id not in (0, first)


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000

BAD_RECORDS = [
    (rec.LogRecord(), "record.level"),
    (rec.LogRecord(level=99), "record.level"),  # type: ignore[arg-type]
    (rec.LogRecord(level=rec.LEVEL_AUDIT), "record.level"),
    (rec.LogRecord(level=rec.LEVEL_JOB_STATUS), "record.level"),
    (rec.LogRecord(level=rec.LEVEL_INFO, audit=audit().audit), "record.level"),
    (rec.LogRecord(level=rec.LEVEL_AUDIT, job=job().job), "record.level"),
    (audit(event_name=""), "record.audit.event_name"),
    (audit(user_id=""), "record.audit.user_id"),
    (audit(source_ip=""), "record.audit.source_ip"),
    (audit(source_ip="300.1.1.1"), "record.audit.source_ip"),
    (audit(source_ip="10.0.0.1 "), "record.audit.source_ip"),
    (audit(details_json=""), "record.audit.details_json"),
    (audit(details_json="[1]"), "record.audit.details_json"),
    (audit(details_json="7"), "record.audit.details_json"),
    (audit(details_json='{"a":NaN}'), "record.audit.details_json"),
    (audit(details_json='{"a":'), "record.audit.details_json"),
    (audit(details_json='{"a":1}{"b":2}'), "record.audit.details_json"),
    (audit(details_json='{"a":1,"a":2}'), "record.audit.details_json"),
    (audit(details_json='{"a":{"b":1,"b":2}}'), "record.audit.details_json"),
    (audit(details_json='{"a":"\\ud800"}'), "record.audit.details_json"),
    (audit(details_json=DEEP[:60_000]), "record.audit.details_json"),
    (audit(details_json='{"a":"' + "x" * 70_000 + '"}'), "record.audit.details_json"),
    (audit(event_id="x" * 10_000), "record.audit.event_id"),
    (audit(user_id="ü" * 200), "record.audit.user_id"),
    (audit(event_name="x" * 300), "record.audit.event_name"),
    (job(job_id=""), "record.job.job_id"),
    (job(job_id="x" * 300), "record.job.job_id"),
    (job(job_type=""), "record.job.job_type"),
    (job(status=rec.JOB_STATE_UNSPECIFIED), "record.job.status"),
    (job(status=77), "record.job.status"),
    (job(progress=-1), "record.job.progress"),
    (job(progress=101), "record.job.progress"),
    (job(details_json="[]"), "record.job.details_json"),
    (job(labels={"": "x"}), "record.job.labels"),
    (job(labels={f"k{i}": "v" for i in range(65)}), "record.job.labels"),
    (job(labels={"k": "v" * 300}), "record.job.labels"),
    (job(attempt=2, new_attempt=True), "record.job.attempt"),
    (rec.LogRecord(level=rec.LEVEL_INFO, trace_id=b"short"), "record.trace_id"),
    (rec.LogRecord(level=rec.LEVEL_INFO, span_id=b"123456789"), "record.span_id"),
    (rec.LogRecord(level=rec.LEVEL_INFO, attributes_json="[]"), "record.attributes_json"),
    (rec.LogRecord(level=rec.LEVEL_INFO, record_id="x" * 1000), "record.record_id"),
    (rec.LogRecord(level=rec.LEVEL_INFO, source="x" * 1000), "record.source"),
    (rec.LogRecord(level=rec.LEVEL_INFO, message="x" * 300_000), "record"),
]


@pytest.mark.parametrize(("record", "field"), BAD_RECORDS, ids=lambda value: str(value)[:40])
async def test_bad_input_is_refused_by_its_field(
    server: Running, tmp_path: Path, record: rec.LogRecord, field: str
) -> None:
    """INVALID_ARGUMENT, the field's path in BadRequest, no RetryInfo, and nothing written."""
    error = await refused(server, record)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(status_details(error)) == [field]
    assert retry_seconds(status_details(error)) is None
    assert field in (error.details() or "")
    assert audit_lines(tmp_path) == []


async def test_a_missing_record_is_named(server: Running) -> None:
    """An Emit without a record is refused on `record`."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.Emit(pb.EmitRequest())
    assert bad_fields(status_details(caught.value)) == ["record"]


@pytest.mark.parametrize(
    "details",
    [
        '{"n":12345678901234567890123,"f":1.10}',
        '{"a":\n [1,\r\n2]}',
        '{"u":"\u2028 \U0001f600"}',
        '{"e":1e400}',
    ],
)
async def test_details_are_kept_number_for_number_in_one_line(
    server: Running, tmp_path: Path, details: str
) -> None:
    """What JSON allows is kept as sent, but for newlines between its tokens."""
    await emit(server, audit(details_json=details))
    raw = (tmp_path / "audit.json.log").read_bytes()
    assert raw.count(b"\n") == 1
    # The details alone: a time may have `1.10` in it.
    text = raw.decode().partition('"details":')[2].partition(',"received_at"')[0]
    for token in ("12345678901234567890123", "1.10", "1e400", "\u2028 \U0001f600"):
        assert (token in details) == (token in text)


@pytest.mark.parametrize("nanos", [1, 2**63, 2**64 - 1])
async def test_any_time_is_kept(server: Running, tmp_path: Path, nanos: int) -> None:
    """Times far in the past and the future are accepted and kept."""
    record = audit()
    record.time_unix_nano = nanos
    await emit(server, record)
    (line,) = audit_lines(tmp_path)
    assert str(line["timestamp"]).endswith(f"{nanos % 10**9:09}Z")
    await emit(server, rec.LogRecord(time_unix_nano=nanos, job=job().job))


async def test_what_does_not_parse_is_invalid(server: Running) -> None:
    """A request that is no message, or has one string that is not UTF-8, is INVALID_ARGUMENT."""
    call = server.channel.unary_unary("/emitd.v1.LogService/Emit")
    good = pb.EmitRequest(record=rec.LogRecord(level=rec.LEVEL_INFO, message="AAAA")).SerializeToString()
    for data in (b"\xff\xff\xff", good.replace(b"AAAA", b"A\xff\xfeA")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(data)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "UTF-8" in (caught.value.details() or "")


async def test_random_bytes_never_harm_the_server(server: Running) -> None:
    """Whatever bytes come: they are wrong, or of a newer version, or there is a verdict; and the server goes on."""
    chance = random.Random(7)
    good = pb.EmitBatchRequest(
        records=[audit(), job(), rec.LogRecord(level=20, message="x")]
    ).SerializeToString()
    for method in ("Emit", "EmitBatch", "GetJob", "ListJobs"):
        call = server.channel.unary_unary(f"/emitd.v1.LogService/{method}")
        for _ in range(100):
            data = bytearray(good if chance.random() < 0.5 else chance.randbytes(chance.randrange(200)))
            for _ in range(chance.randrange(4)):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                await call(bytes(data))
            except grpc.aio.AioRpcError as error:
                codes = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
                assert error.code() in (*codes, grpc.StatusCode.UNIMPLEMENTED), error
    assert (await emit(server, audit())).audit.event_id


async def test_a_batch_too_long_or_too_large_is_refused_whole(tmp_path: Path) -> None:
    """The limits of the configuration are named in the error."""
    limits = LimitSettings(max_batch_records=2, max_request_bytes=1000)
    settings = ServerSettings(listen="127.0.0.1:0", limits=limits)
    async with running(three_handlers(tmp_path), settings) as server:
        small = rec.LogRecord(level=rec.LEVEL_INFO)
        for records, words in (([small] * 3, "more than 2 elements"), ([audit(event_id="x" * 990)], "bytes")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.stub.EmitBatch(pb.EmitBatchRequest(records=records))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in (caught.value.details() or "")


async def test_a_level_that_no_handler_takes(tmp_path: Path) -> None:
    """FAILED_PRECONDITION: nothing vanishes silently."""
    async with running([in_memory()]) as server:
        error = await refused(server, audit())
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "AUDIT" in (error.details() or "")


async def test_a_retry_is_answered_with_the_first_receipt(server: Running, tmp_path: Path) -> None:
    """By record_id for all kinds, by event_id for audit; no second line, no second revision."""
    for record in (rec.LogRecord(level=rec.LEVEL_INFO), audit(), job(progress=5)):
        record.record_id = f"id-{record.WhichOneof('payload')}"
        first = await emit(server, record)
        again = await emit(server, record)
        assert not first.duplicate
        assert again.duplicate
        first.duplicate = True
        assert again == first
    event = audit(event_id="e1")
    first = await emit(server, event)
    assert (await emit(server, event)).duplicate
    assert len(audit_lines(tmp_path)) == 2


async def test_the_same_id_with_other_content_is_refused(server: Running, tmp_path: Path) -> None:
    """ALREADY_EXISTS, for each field that the sender set; nothing is written."""
    record = audit()
    record.record_id = "r1"
    await emit(server, record)
    changes = {
        "message": "other",
        "time_unix_nano": 5,
        "attributes_json": '{"a":1}',
        "trace_id": b"0" * 16,
        "span_id": b"0" * 8,
    }
    for name, value in changes.items():
        other = rec.LogRecord()
        other.CopyFrom(record)
        setattr(other, name, value)
        assert (await refused(server, other)).code() is grpc.StatusCode.ALREADY_EXISTS, name
    for name, text in {
        "event_name": "x",
        "user_id": "x",
        "source_ip": "::1",
        "details_json": '{"a":1}',
        "event_id": "e9",
    }.items():
        other = rec.LogRecord()
        other.CopyFrom(record)
        setattr(other.audit, name, text)
        assert (await refused(server, other)).code() is grpc.StatusCode.ALREADY_EXISTS, name
    assert len(audit_lines(tmp_path)) == 1


async def test_two_copies_in_one_batch_count_once(server: Running, tmp_path: Path) -> None:
    """The second copy is counted as a duplicate."""
    record = audit()
    record.record_id = "r1"
    response: pb.EmitBatchResponse = await server.stub.EmitBatch(
        pb.EmitBatchRequest(records=[record, record])
    )
    assert (response.accepted_count, response.duplicate_count) == (1, 1)
    assert len(audit_lines(tmp_path)) == 1


async def test_a_retry_after_a_restart_is_known(tmp_path: Path) -> None:
    """For audit and jobs the first receipt is found again, with or without a time and an event_id."""
    records = [audit(), audit(event_id="e1"), audit(), job(progress=5), job(job_id="j2")]
    for index, record in enumerate(records):
        record.record_id = f"r{index}"
    records[2].time_unix_nano = 1234567890123456789
    records[2].trace_id = b"t" * 16
    records[2].span_id = b"s" * 8
    records[2].attributes_json = '{"k": "v"}'
    records[2].message = "m"
    records[2].source = "s"
    async with running(three_handlers(tmp_path)) as server:
        first = [await emit(server, record) for record in records]
    async with running(three_handlers(tmp_path)) as server:
        again = [await emit(server, record) for record in records]
        records[0].audit.user_id = "someone else"
        assert (await refused(server, records[0])).code() is grpc.StatusCode.ALREADY_EXISTS
        records[3].job.progress = 6
        assert (await refused(server, records[3])).code() is grpc.StatusCode.ALREADY_EXISTS
    for receipt in first:
        receipt.duplicate = True
    assert again == first
    assert len(audit_lines(tmp_path)) == 3


async def test_two_programs_with_the_same_ids_do_not_meet(tmp_path: Path) -> None:
    """Each gets its own receipt, and the same one again: at once, in a batch with the other, and after a restart."""

    def sent(source: str, content: str) -> list[rec.LogRecord]:
        records = [
            audit(event_name=f"order.{content}"),
            audit(event_name=f"order.{content}", event_id="order-17"),
            job(job_id=f"job-{content}"),
            job(job_id="shared", new_attempt=True, details_json=json.dumps({"of": content})),
            rec.LogRecord(level=rec.LEVEL_INFO, message=content),
        ]
        for number, record in enumerate(records):
            record.source, record.record_id = source, f"order-17-{number}"
        records[1].record_id = ""
        return records

    def batch(records: list[rec.LogRecord]) -> pb.EmitBatchRequest:
        return pb.EmitBatchRequest(records=records, want_receipts=True)

    ours, theirs, nobodys = sent("shop", "a"), sent("till", "b"), sent("", "c")
    async with running(three_handlers(tmp_path)) as server:
        first = await server.stub.EmitBatch(batch(ours))
        second = await server.stub.EmitBatch(batch([*theirs, *nobodys]))
        assert (first.accepted_count, second.accepted_count, second.duplicate_count) == (5, 10, 0)
        again = await server.stub.EmitBatch(batch([*nobodys, *ours, *theirs]))
        assert again.duplicate_count == 15
        stranger = await server.stub.EmitBatch(batch(sent("shop", "z")))
        assert [error.status.code for error in stranger.errors] == [code_pb2.ALREADY_EXISTS] * 5
    receipts = [*second.receipts[5:], *first.receipts, *second.receipts[:5]]
    assert len({receipt.audit.leaf_index for receipt in receipts if receipt.HasField("audit")}) == 6
    assert [receipt.job.attempt for receipt in receipts if receipt.HasField("job")] == [1, 3, 1, 1, 1, 2]
    async with running(three_handlers(tmp_path)) as server:
        later = await server.stub.EmitBatch(batch([*nobodys, *ours, *theirs]))
        assert later.duplicate_count == 12  # of log lines nothing is kept
    for answer in (again, later):
        assert [(r.audit, r.job) for r in answer.receipts] == [(r.audit, r.job) for r in receipts]
    assert len(audit_lines(tmp_path)) == 6


async def test_a_report_that_says_something_else_is_not_taken_for_a_retry(server: Running) -> None:
    """COMPLETED and RUNNING under one id, by an honest mistake, with contents whose CRC-32 is the same."""
    running_report, completed = job(), job(status=rec.JOB_STATE_COMPLETED)
    for record, message in ((running_report, "m9998"), (completed, "m137904226")):
        record.source, record.record_id, record.message = "worker", "r1", message
        record.time_unix_nano = 1_796_129_479_000_000_000
    assert (await emit(server, running_report)).job.revision == 1
    assert (await refused(server, completed)).code() is grpc.StatusCode.ALREADY_EXISTS
    completed.record_id = "r2"
    assert (await emit(server, completed)).job.revision == 2


async def test_an_attempt_that_jumps_far_is_refused_by_its_field(server: Running) -> None:
    """Alone, also in a batch, and its id can be used further on."""
    records = [job(attempt=2**32 - 1), job(attempt=7), job(attempt=1008), job(attempt=1007)]
    response: pb.EmitBatchResponse = await server.stub.EmitBatch(pb.EmitBatchRequest(records=records))
    assert [(error.index, bad_fields(error.status)) for error in response.errors] == [
        (0, ["records[0].job.attempt"]),
        (2, ["records[2].job.attempt"]),
    ]
    assert {error.status.code for error in response.errors} == {code_pb2.INVALID_ARGUMENT}
    assert (await emit(server, job(new_attempt=True))).job.attempt == 1008
