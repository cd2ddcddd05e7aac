"""Standard error: lines for people, and with --json one object a line."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from emitd.v1 import EmitResponse, HandlerReceipt, Receipt, RecordError
from support.client.fake_log_service import accept, fail, fake_log_service, make_status, record_error, refuse
from support.processes.run_main import run_main

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
NOBODY = "127.0.0.1:1"


def objects(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def errors(text: str) -> list[Any]:
    return [found["error"] for found in objects(text)]


def bad_request(message: str, field: str) -> bytes:
    status = make_status(grpc.StatusCode.INVALID_ARGUMENT, message, None)
    violation = error_details_pb2.BadRequest.FieldViolation(field=field)
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return status.SerializeToString()


def test_misuse_names_its_flag() -> None:
    """The code is MISUSE, the message the same as without --json."""
    done = run_main("emit", "x", "--level", "LOUD", "--json")
    said = run_main("emit", "x", "--level", "LOUD").stderr
    assert (done.returncode, done.stdout) == (2, "")
    (error,) = errors(done.stderr)
    assert error == {"code": "MISUSE", "field": "--level", "message": said.removeprefix("emitd: ").strip()}


@pytest.mark.parametrize(
    "command", [["emit", "x"], ["job", "get", "j"], ["job", "list"], ["job", "watch", "j"]], ids=" ".join
)
def test_a_server_that_is_not_there(command: list[str]) -> None:
    """Of each command that calls one: exit code 4, and one object."""
    done = run_main(*command, "--json", "--address", NOBODY)
    assert (done.returncode, done.stdout) == (4, "")
    (error,) = errors(done.stderr)
    assert set(error) == {"code", "message"}
    assert error["code"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    "command", [["emit", "x"], ["job", "get", "j"], ["job", "list"], ["job", "watch", "j"]], ids=" ".join
)
def test_what_the_server_answers(command: list[str]) -> None:
    """The code is the status's name, the field the one that it complains of."""

    def answer(_: object, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", bad_request("f: is bad", "f")),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "f: is bad")

    with fake_log_service(answer) as service:
        done = run_main(*command, "--json", "--address", service.address)
    assert done.returncode == (1 if command[0] == "emit" else 2)
    assert errors(done.stderr) == [
        {"code": "INVALID_ARGUMENT", "field": "f", "message": "INVALID_ARGUMENT: f: is bad"}
    ]


def test_refused_lines(tmp_path: Path) -> None:
    """Each has its line, its code, its field without the place in the batch; the summary is on standard output."""
    file = tmp_path / "records.jsonl"
    file.write_text('{"level":"LEVEL_INFO","message":"x"}\n' * 2 + "nonsense\n")
    refused = RecordError(index=1)
    refused.status.ParseFromString(bad_request("records[1].message: is bad", "records[1].message"))
    with fake_log_service(refuse(refused)) as service:
        flags = ["--file", str(file), "--format", "jsonl", "--json", "--address", service.address]
        done = run_main("emit", *flags)
    assert done.returncode == 1
    assert json.loads(done.stdout)["refused"] == 2
    told = sorted(errors(done.stderr), key=lambda error: error["line"])
    assert told == [
        {"code": "INVALID_ARGUMENT", "field": "message", "line": 2, "message": "message: is bad"},
        {"code": "INVALID_ARGUMENT", "line": 3, "message": "is not a JSON object"},
    ]


def test_what_is_no_error_is_a_note(tmp_path: Path) -> None:
    """Such as that a call is tried again."""
    (tmp_path / "lines").write_text("x\n")
    with fake_log_service(fail(UNAVAILABLE, "busy", 0.05), accept) as service:
        done = run_main("emit", "--file", str(tmp_path / "lines"), "--json", "--address", service.address)
    assert done.returncode == 0
    assert objects(done.stderr) == [{"note": "UNAVAILABLE: busy; trying again for 30 s"}]


def test_giving_up_says_why(tmp_path: Path) -> None:
    """With the code of what went wrong last."""
    (tmp_path / "lines").write_text("x\n")
    with fake_log_service(refuse(record_error(0, "records[0].job: busy", 9.0))) as service:
        flags = [
            "--file",
            str(tmp_path / "lines"),
            "--json",
            "--retry-seconds",
            "0",
            "--address",
            service.address,
        ]
        done = run_main("emit", *flags)
    assert done.returncode == 4
    assert errors(done.stderr) == [{"code": "UNAVAILABLE", "message": "job: busy; gave up at line 1"}]


def test_the_flag_holds_for_one_command() -> None:
    """The next one in the same process speaks to people again."""
    run_main("emit", "--json")
    assert run_main("emit").stderr.startswith("emitd: say what to emit")


def test_a_receipt() -> None:
    """What went well goes to standard output, and nothing to standard error."""
    receipt = Receipt(record_id="r", handlers=[HandlerReceipt(handler="h")])
    with fake_log_service(lambda *_: EmitResponse(receipt=receipt)) as service:
        done = run_main("emit", "x", "--json", "--address", service.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["record_id"] == "r"
