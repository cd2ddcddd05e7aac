"""Nothing that a command prints moves a cursor, hides or reorders text: in tables, JSON, bars, notes and errors."""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd.v1 import (
    JOB_STATE_FAILED,
    AuditEntry,
    EmitResponse,
    GetCheckpointResponse,
    GetJobResponse,
    HandlerReceipt,
    Job,
    JobChange,
    JobReceipt,
    JobTransition,
    ListAuditEventsResponse,
    ListJobsResponse,
    ListJobTransitionsResponse,
    Receipt,
    RequestCancelResponse,
    TailAuditEventsResponse,
    WatchJobResponse,
    WatchJobsResponse,
)
from emitd_cli.jobs.bars import bars_frame
from emitd_cli.jobs.board import JobBoard
from emitd_cli.jobs.text import job_lines
from emitd_cli.terminal.output import columns_of, one_line
from emitd_handlers.audit.read.scan import entry_of
from emitd_server.convert.audit import entry_to_wire
from support.audit.sealed_log import SealedLog, make_line
from support.client.fake_log_service import fail, fake_log_service
from support.processes.run_main import run_main

#: C0, DEL, C1, separators, every bidirectional control, and what nobody sees.
HARMFUL = (
    "\x1b\x07\x08\x0c\r\n\t\x7f\x80\x85\x9b\x9f\xad\u061c\u200b\u200e\u200f\u2028\u2029"
    "\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\U000e0041"
)
#: What nobody writes into a line of a log: JSON has escapes for it.
EVIL = f"a{HARMFUL}z世"
ESCAPED = json.dumps(EVIL)[1:-1].replace("\\u4e16", "世")


def job() -> Job:
    return Job(
        job_id=EVIL,
        job_type=EVIL,
        status=JOB_STATE_FAILED,
        attempt=2,
        revision=3,
        message=EVIL,
        details_json=json.dumps({"k": EVIL}, ensure_ascii=False),
        labels={EVIL: EVIL},
        source=EVIL,
        failure_reason=EVIL,
        failure_message=EVIL,
        cancel_reason=EVIL,
    )


def transition() -> JobTransition:
    return JobTransition(revision=1, attempt=1, status=JOB_STATE_FAILED, failure_message=EVIL)


def entry() -> AuditEntry:
    return entry_to_wire(entry_of(0, make_line(0, user=EVIL)))


def answer(request: Any, context: grpc.ServicerContext) -> Any:
    """Answer each request with as much evil as its response has room for."""
    name = type(request).__name__
    one: dict[str, Any] = {
        "GetJobRequest": GetJobResponse(job=job()),
        "ListJobsRequest": ListJobsResponse(jobs=[job()]),
        "ListJobTransitionsRequest": ListJobTransitionsResponse(transitions=[transition()]),
        "RequestCancelRequest": RequestCancelResponse(job=job()),
        "EmitRequest": EmitResponse(
            receipt=Receipt(
                record_id=EVIL, handlers=[HandlerReceipt(handler=EVIL)], job=JobReceipt(stale_reason=EVIL)
            )
        ),
        "ListAuditEventsRequest": ListAuditEventsResponse(log_id=EVIL, entries=[entry()]),
        "GetCheckpointRequest": GetCheckpointResponse(log_id=EVIL, tree_size=1),
    }
    many: dict[str, Any] = {
        "WatchJobRequest": WatchJobResponse(job=job(), transitions=[transition()]),
        "WatchJobsRequest": WatchJobsResponse(changes=[JobChange(job=job())], snapshot_end=True),
        "TailAuditEventsRequest": TailAuditEventsResponse(log_id=EVIL, entries=[entry()], next_index=1),
    }

    def stream() -> Iterator[Any]:
        yield many[name]
        if name != "WatchJobRequest":
            context.abort(grpc.StatusCode.NOT_FOUND, f"gone {EVIL}")

    return stream() if name in many else one[name]


def is_harmless(text: str) -> bool:
    return all(line.isprintable() or "世" in line for line in text.split("\n")) and not any(
        character in HARMFUL or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        for character in text.replace("\n", "")
    )


COMMANDS = (
    ["job", "list"],
    ["job", "list", "--watch"],
    ["job", "get", "x"],
    ["job", "watch", EVIL, "--after-revision", "0"],
    ["job", "watch", "--type", "t"],
    ["job", "history", "x"],
    ["job", "cancel", "x"],
    ["audit", "list"],
    ["audit", "tail"],
    ["audit", "show", "x"],
    ["emit", "x"],
)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        # A line of the log, or details, as a text.
        if value.startswith("{"):
            yield from texts_in(json.loads(value))
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in texts_in(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in texts_in(part))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command).replace(EVIL, "x"))
@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_server_sends(command: list[str], as_json: bool) -> None:
    """Is shown with escapes; in JSON its value is the same."""
    with fake_log_service(answer) as service:
        done = run_main(*command, "--address", service.address, *(["--json"] if as_json else []))
    assert is_harmless(done.stdout), done.stdout
    assert is_harmless(done.stderr), done.stderr
    if as_json:
        values = [json.loads(line) for line in done.stdout.splitlines()]
        assert EVIL in list(texts_in(values))
    else:
        assert ESCAPED in done.stdout


@pytest.mark.parametrize("command", [*COMMANDS, ["emit", "--file", "lines"]], ids=lambda c: c[-1][:9])
def test_what_a_server_says_of_an_error(
    command: list[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, on standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines").write_text("x\n")
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, f"bad {EVIL}")) as service:
        said = run_main(*command, "--address", service.address).stderr
        told = run_main(*command, "--address", service.address, "--json").stderr
    assert ESCAPED in said
    assert is_harmless(said)
    assert is_harmless(told)
    assert f"INVALID_ARGUMENT: bad {EVIL}" in json.loads(told.splitlines()[0])["error"]["message"]


@pytest.mark.parametrize(
    "command",
    [
        "check-config",
        "check-config --json",
        "handlers --config",
        "handlers --json --config",
        "audit verify",
        "audit verify --json",
        "audit key",
        "audit key --json",
        "audit check",
        "audit export out --log",
        "serve --config",
        "new-handler slack --config",
    ],
)
@pytest.mark.parametrize("name", [EVIL, f"{HARMFUL}.log", "bytes\udcff\udc9b", f"new/{EVIL}"])
def test_names_and_contents_of_files(
    command: str, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of a suspect shows no more than text."""
    monkeypatch.chdir(tmp_path)
    if "/" not in name:
        log = SealedLog.make(tmp_path / name, 2)
        log.append([make_line(2, user=EVIL)])
        if not command.startswith("audit"):
            text = f"handlers:\n  {json.dumps('b' + EVIL)}: {{type: {json.dumps(EVIL)}}}\n"
            (tmp_path / name).write_text(text)
    done = run_main(*command.split(), name)
    assert is_harmless(done.stdout), done.stdout
    assert is_harmless(done.stderr), done.stderr
    assert "not foreseen" not in done.stderr or command.startswith("new-handler")
    if "--json" in command:
        for line in (done.stdout + done.stderr).splitlines():
            json.loads(line)


def test_the_name_of_a_good_configuration(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is escaped by the one way to standard output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / EVIL).write_text("handlers:\n  console: {type: console}\n")
    assert run_main("check-config", EVIL) == (0, f"{ESCAPED}: good; active handlers: console\n", "")
    assert f"Add this to {ESCAPED}:\n" in run_main("new-handler", "slack", "--config", EVIL).stderr


ANY_TEXT = st.text(st.one_of(st.sampled_from(HARMFUL + "世é\u0301\u200d👩"), st.characters()), max_size=40)


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_in_a_table_and_in_bars(job_id: str, message: str) -> None:
    """Each job has one line, and its next column begins where that of the others does."""
    encoded = [text.encode(errors="replace").decode() for text in (job_id, message)]
    found = Job(job_id=encoded[0], job_type="TYPE", status=JOB_STATE_FAILED, message=encoded[1])
    lines = list(job_lines([found, Job(job_id="b", job_type="TYPE", status=JOB_STATE_FAILED)]))
    assert len(lines) == 3
    assert all(one_line(line) == line for line in lines)
    if columns_of(one_line(encoded[0])) <= 60:
        first, second = (columns_of(line[: line.rindex("TYPE  FAILED")]) for line in lines[1:])
        assert first == second
    board = JobBoard()
    board.take(WatchJobsResponse(changes=[JobChange(job=found)], snapshot_end=True), begins=True)
    frame = bars_frame(board, 80, 24, is_final=False)
    assert len(frame) == 2
    assert all(one_line(line.replace("\x1b[", "")) == line.replace("\x1b[", "") for line in frame)


def test_joiners_stay_and_take_no_column() -> None:
    """Persian and joined emoji are written with them."""
    assert one_line("می\u200cخواهم 👩\u200d🚀") == "می\u200cخواهم 👩\u200d🚀"
    assert columns_of("a\u200cb\u200d") == 2
