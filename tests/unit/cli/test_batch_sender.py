"""Many records to a server: batches, retries, and what is told of them."""

import errno
import io
import json
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd.transport.grpc_transport import MAX_REQUEST_BYTES
from emitd.v1 import (
    DELIVERY_QUEUED,
    EmitBatchRequest,
    EmitBatchResponse,
    HandlerReceipt,
    JobNotice,
    LogRecord,
    Receipt,
    RecordError,
)
from emitd_cli import connection
from emitd_cli.connection import connect
from emitd_cli.emit import batch_sender as emit_many
from emitd_cli.emit.batch_sender import BatchSender
from emitd_cli.emit.record_lines import Line
from support.client.fake_log_service import (
    FakeLogService,
    accept,
    fail,
    fake_log_service,
    make_status,
    record_error,
    refuse,
)
from support.processes.own_calls import with_own
from support.processes.run_main import Done, run_main

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time."""
    pauses: list[float] = []
    for module in (emit_many, connection):
        monkeypatch.setattr(module, "time", with_own(time, sleep=pauses.append))
    return pauses


@pytest.fixture
def emit(tmp_path: Path) -> Callable[..., Done]:
    """Emit so many lines, `line 1` and so on, from a file."""

    def emit(service: FakeLogService, count: int, *flags: str) -> Done:
        file = tmp_path / "lines"
        file.write_text("".join(f"line {number}\n" for number in range(1, count + 1)))
        return run_main("emit", "--file", str(file), "--address", service.address, *flags)

    return emit


def messages(request: EmitBatchRequest) -> list[str]:
    return [record.message for record in request.records]


def test_all_committed(emit: Callable[..., Done]) -> None:
    """The records go out in batches, in order, and the last line says how many were committed."""
    with fake_log_service(accept) as service:
        done = emit(service, 5, "--batch-size", "2")
    assert done == (0, "5 records: 5 committed\n", "")
    assert sorted(map(messages, service.requests)) == [["line 1", "line 2"], ["line 3", "line 4"], ["line 5"]]


def test_a_request_is_no_larger_than_a_server_takes(tmp_path: Path) -> None:
    """Measured by the records' bytes on the wire: long lines make smaller batches, in order."""
    file = tmp_path / "lines"
    file.write_text("".join(f"{number} {'€' * 300_000}\n" for number in range(10)))
    with fake_log_service(accept) as service:
        done = run_main("emit", "--file", str(file), "--address", service.address)
    assert done.stdout == "10 records: 10 committed\n"
    assert sorted(len(request.records) for request in service.requests) == [2, 4, 4]
    assert max(request.ByteSize() for request in service.requests) <= MAX_REQUEST_BYTES


def test_every_outcome_is_counted(emit: Callable[..., Done]) -> None:
    """Committed, queued, accepted before, refused, and reports that changed nothing, each by its own number."""

    def answer(request: EmitBatchRequest, _: grpc.ServicerContext) -> EmitBatchResponse:
        response = accept(request, _)
        response.receipts[1].handlers[0].delivery = DELIVERY_QUEUED
        response.receipts[2].duplicate = True
        response.receipts[3].Clear()
        response.receipts[4].handlers.insert(0, HandlerReceipt(handler="q", delivery=DELIVERY_QUEUED))
        response.accepted_count, response.duplicate_count = 3, 1
        response.errors.append(record_error(3, "records[3].level: is wrong"))
        response.job_notices.extend([JobNotice(index=0, stale_reason="SUPERSEDED"), JobNotice(index=4)])
        return response

    with fake_log_service(answer) as service:
        done = emit(service, 5)
        as_json = emit(service, 5, "--json")
    assert done.returncode == 1
    assert done.stdout == "5 records: 2 committed, 1 queued, 1 accepted before, 1 refused, 1 not applied\n"
    assert done.stderr == "emitd: line 4: level: is wrong\n"
    assert json.loads(as_json.stdout) == {
        "records": 5,
        "committed": 2,
        "queued": 1,
        "duplicates": 1,
        "refused": 1,
        "not_applied": 1,
        "mended": 0,
    }


def test_a_failed_call_is_sent_again(emit: Callable[..., Done], naps: list[float]) -> None:
    """The same records under the same ids, after the pause that the server asks for; the trouble is told once."""
    full = fail(UNAVAILABLE, "disk is full", 7.0)
    with fake_log_service(full, full, accept) as service:
        done = emit(service, 2)
    assert done.returncode == 0
    assert done.stdout == "2 records: 2 committed\n"
    assert done.stderr == "emitd: UNAVAILABLE: disk is full; trying again for 30 s\n"
    assert naps == [7.0, 7.0]
    assert service.requests[0] == service.requests[1] == service.requests[2]
    assert all(record.record_id for record in service.requests[0].records)


def test_back_pressure_is_retried(emit: Callable[..., Done], naps: list[float]) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo is for now; a pause of zero is none the less one."""
    with fake_log_service(fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", 0.0), accept) as service:
        assert emit(service, 1).stdout == "1 record: 1 committed\n"
    assert len(naps) == 1
    assert naps[0] > 0


def test_only_what_was_not_taken_is_sent_again(emit: Callable[..., Done], naps: list[float]) -> None:
    """Records that are refused for now go again, after the longest pause asked for; those refused for good do not."""
    first = refuse(
        record_error(0, "records[0]: handler 'audit' is busy", 2.0),
        record_error(1, "records[1].audit: no", None),
        record_error(3, "records[3]: busy", 3.0),
    )
    with fake_log_service(first, accept) as service:
        done = emit(service, 4)
    assert done.returncode == 1
    assert done.stdout == "4 records: 3 committed, 1 refused\n"
    assert "line 2: audit: no" in done.stderr
    assert naps == [3.0]
    assert messages(service.requests[1]) == ["line 1", "line 4"]


def test_progress_ends_at_the_size_of_the_input(naps: list[float]) -> None:
    """Each line's bytes are done once: when it is accepted or refused for good, not when it is tried again."""
    done: list[int] = []
    lines = [Line(number, 10**number, LogRecord()) for number in range(3)] + [
        Line(3, 1000, None, "no record")
    ]
    first = refuse(record_error(1, "busy", 1.0), record_error(2, "no"))
    with fake_log_service(first, accept) as service, connect(Namespace(address=service.address)) as server:
        sender = BatchSender(server, 30.0, done.append)
        sender.send(lines)
        assert sum(done) == 1000
        sender.finish()
    assert sum(done) == 1111
    assert sorted(size for size in done if size) == [1, 10, 100, 1000]


def test_giving_up(emit: Callable[..., Done]) -> None:
    """After the time for retries it says why, from which line on, and what was accepted before that: exit code 4."""
    full = fail(UNAVAILABLE, "disk is full", 0.1)

    def answer(request: EmitBatchRequest, context: grpc.ServicerContext) -> EmitBatchResponse:
        return accept(request, context) if messages(request) == ["line 1"] else full(request, context)

    with fake_log_service(answer) as service:
        done = emit(service, 3, "--batch-size", "1", "--retry-seconds", "0")
    assert done == (
        4,
        "1 record: 1 committed\n",
        "emitd: UNAVAILABLE: disk is full; gave up at line 2\n",
    )


def test_giving_up_on_a_record(emit: Callable[..., Done]) -> None:
    """A record that is refused for now until the end ends the command like a call that fails."""
    with fake_log_service(refuse(record_error(1, "records[1]: busy", 0.1))) as service:
        done = emit(service, 3, "--retry-seconds", "0")
    assert done == (4, "2 records: 2 committed\n", "emitd: busy; gave up at line 2\n")


def test_a_refused_batch(emit: Callable[..., Done]) -> None:
    """What the server refuses as a whole is refused line by line; only the first ones are told."""
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "records: too many")) as service:
        done = emit(service, 30)
    assert done.returncode == 1
    assert done.stdout == "30 records: 30 refused\n"
    told = done.stderr.splitlines()
    assert told[0] == "emitd: line 1: INVALID_ARGUMENT: records: too many"
    assert len(told) == emit_many.SHOWN_REFUSALS


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED])
def test_what_is_no_verdict_is_exit_code_4(emit: Callable[..., Done], code: grpc.StatusCode) -> None:
    """A server that fails, or is another one, says nothing about the records: none is called refused."""
    with fake_log_service(fail(code, "oops")) as service:
        done = emit(service, 2)
    assert done == (4, "0 records\n", f"emitd: {code.name}: oops; gave up at line 1\n")


def test_several_calls_are_under_way(emit: Callable[..., Done]) -> None:
    """Four calls run at a time: each waits here until all four have come."""
    together = threading.Barrier(4)

    def answer(request: EmitBatchRequest, context: grpc.ServicerContext) -> EmitBatchResponse:
        together.wait(20)
        return accept(request, context)

    with fake_log_service(answer) as service:
        assert emit(service, 8, "--batch-size", "1").stdout == "8 records: 8 committed\n"


def test_lines_that_are_no_records_are_told_and_the_rest_is_sent(tmp_path: Path) -> None:
    """JSON that does not parse is refused here, by line and field."""
    file = tmp_path / "jsonl"
    file.write_text('{"message": "a"}\n{"messag": "b"}\nnonsense\n{"message": "d"}\n')
    with fake_log_service(accept) as service:
        done = run_main("emit", "--file", str(file), "--format", "jsonl", "--address", service.address)
    assert done.returncode == 1
    assert done.stdout == "4 records: 2 committed, 2 refused\n"
    assert done.stderr.splitlines()[0].startswith('emitd: line 2: Message type "emitd.v1.LogRecord" has no')
    assert done.stderr.splitlines()[1] == "emitd: line 3: is not a JSON object"


def test_control_characters_of_a_server_reach_no_terminal(emit: Callable[..., Done]) -> None:
    """What a server says of a record is printed in one line, escaped."""
    error = RecordError(index=0, status=make_status(UNAVAILABLE, "a\x1b[2J\nb", None))
    with fake_log_service(refuse(error)) as service:
        assert emit(service, 1).stderr == "emitd: line 1: a\\u001b[2J\\nb\n"


def test_an_empty_file(emit: Callable[..., Done]) -> None:
    """Nothing to send is good."""
    with fake_log_service(accept) as service:
        assert emit(service, 0) == (0, "0 records\n", "")
    assert service.requests == []


def test_a_call_that_is_answered_by_a_duplicate_is_no_loss(
    emit: Callable[..., Done], naps: list[float]
) -> None:
    """The answer to the first call is lost; the second says `duplicate`, and nothing is counted twice."""

    def duplicate(request: EmitBatchRequest, _: Any) -> EmitBatchResponse:
        receipts = [Receipt(record_id=record.record_id, duplicate=True) for record in request.records]
        return EmitBatchResponse(duplicate_count=len(receipts), receipts=receipts)

    with fake_log_service(fail(grpc.StatusCode.DEADLINE_EXCEEDED, "slow"), duplicate) as service:
        done = emit(service, 3)
    assert (done.returncode, done.stdout) == (0, "3 records: 3 accepted before\n")
    assert naps == [0.5]


def test_mended_lines_are_told_and_counted(tmp_path: Path) -> None:
    """They are accepted, so the command is good; at most twenty are shown."""
    (tmp_path / "latin-1").write_bytes(b"good\n" + b"h\xf6rt\n" * 25)
    with fake_log_service(accept) as service:
        done = run_main("emit", "--file", str(tmp_path / "latin-1"), "--address", service.address)
        as_json = run_main(
            "emit", "--file", str(tmp_path / "latin-1"), "--address", service.address, "--json"
        )
        messages = [record.message for record in service.requests[0].records]
    assert messages == ["good", *["h\\xf6rt"] * 25]
    assert done.returncode == 0
    assert done.stdout == "26 records: 26 committed, 25 mended\n"
    assert done.stderr.splitlines() == [
        f"emitd: line {number}: is not UTF-8 at byte 1; 1 such byte is written as \\xNN"
        for number in range(2, 22)
    ]
    assert json.loads(as_json.stdout)["mended"] == 25
    assert len(as_json.stderr.splitlines()) == emit_many.SHOWN_REFUSALS
    assert json.loads(as_json.stderr.splitlines()[0])["note"].startswith("line 2: ")


def test_an_input_that_breaks_off_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came is sent and counted; then the command says that it cannot tell the rest."""

    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            data = super().read1(size)
            if not data:
                raise OSError(errno.EIO, "Input/output error")
            return data

    monkeypatch.setattr("emitd_cli.emit.command.open_lines", lambda name: (Broken(b"one\ntwo\n"), 100))
    with fake_log_service(accept) as service:
        done = run_main("emit", "--file", "app.log", "--address", service.address)
        assert sum(len(request.records) for request in service.requests) == 2
    assert done.returncode == 4
    assert done.stdout == "2 records: 2 committed\n"
    assert done.stderr == "emitd: --file: 'app.log' cannot be read to its end: Input/output error\n"
