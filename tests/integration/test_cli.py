"""The commands against a real server: what they print, and how they end."""

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server_process import ServerProcess

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, folder) as server:
        yield server


def emitd(
    *arguments: str, server: ServerProcess | None = None, stdin: str = "", cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "EMITD_ADDRESS": server.address if server else NOBODY}
    return subprocess.run(
        [sys.executable, "-m", "emitd_cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
        check=False,
        cwd=cwd,
    )


def test_a_log_line(server: ServerProcess, folder: Path) -> None:
    """The message is on the server's standard output, with its attributes."""
    done = emitd("emit", "User 'u1' successfully authenticated.", "-a", "cart=17", server=server)
    assert (done.returncode, done.stdout) == (0, "accepted by console\n")
    deadline = time.monotonic() + 10
    while "cart=17" not in (folder / "stdout").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "[INFO] User 'u1' successfully authenticated. cart=17\n" in (folder / "stdout").read_text()


def test_an_audit_event(server: ServerProcess, folder: Path) -> None:
    """The receipt says which line of which log; the line has what the flags said."""
    flags = [
        "--audit",
        "user.login",
        "--user",
        "u1",
        "--source-ip",
        "::1",
        "--details",
        '{"n":12345678901234567890}',
    ]
    done = emitd("emit", *flags, "--json", server=server)
    assert done.returncode == 0
    receipt = json.loads(done.stdout)["audit"]
    lines = (folder / "audit.json.log").read_text().splitlines()
    line = lines[int(receipt.get("leaf_index", 0))]
    assert json.loads(line)["event_id"] == receipt["event_id"]
    assert '"details":{"n":12345678901234567890}' in line


def test_a_job_is_reported_read_and_watched(server: ServerProcess) -> None:
    """`watch` prints each change, ends with the job, and its exit code says how that went."""
    first = emitd(
        "emit", "--job", "w1", "--type", "t", "--status", "RUNNING", "--progress", "40", server=server
    )
    assert first.stdout == "accepted by jobs: revision 1, attempt 1\n"

    def finish() -> None:
        time.sleep(0.5)
        emitd("emit", "--job", "w1", "--status", "COMPLETED", server=server)

    later = threading.Thread(target=finish)
    later.start()
    done = emitd("job", "watch", "w1", server=server)
    later.join()
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["w1  RUNNING     40 %", "w1  COMPLETED  100 %"]
    stale = emitd("emit", "--job", "w1", "--status", "RUNNING", server=server)
    assert stale.stdout == "accepted by jobs: revision 2, attempt 1, not applied: ATTEMPT_ENDED\n"
    got = emitd("job", "get", "w1", server=server)
    assert got.returncode == 0
    assert "status      COMPLETED\n" in got.stdout


def test_a_failed_job_is_exit_code_1(server: ServerProcess) -> None:
    """`get` and `watch` say FAILED with the reason."""
    flags = [
        "--type",
        "t",
        "--status",
        "FAILED",
        "--failure-reason",
        "OOM",
        "--failure-message",
        "no\x1b[2Jmemory",
    ]
    emitd("emit", "--job", "f1", *flags, server=server)
    watched = emitd("job", "watch", "f1", server=server)
    assert watched.returncode == 1
    assert watched.stdout == "f1  FAILED       0 %  OOM no\\x1b[2Jmemory\n"
    got = emitd("job", "get", "f1", "--json", server=server)
    assert got.returncode == 1
    assert json.loads(got.stdout)["failure_reason"] == "OOM"


def test_what_cannot_be_told_is_exit_code_4(server: ServerProcess) -> None:
    """An unknown job, and a server that is not there: one line each."""
    for command in ("get", "watch"):
        done = emitd("job", command, "nope", server=server)
        assert (done.returncode, done.stderr) == (4, "emitd: NOT_FOUND: there is no job 'nope'\n")
    for arguments in (["emit", "x"], ["job", "get", "x"], ["job", "watch", "x", "--retry-seconds", "0"]):
        done = emitd(*arguments)
        assert done.returncode == 4, arguments
        assert done.stderr.startswith(f"emitd: cannot reach {NOBODY}")
        assert done.stderr.count("\n") == 1


def test_what_is_refused_is_exit_code_1(server: ServerProcess) -> None:
    """The line names the field."""
    done = emitd("emit", "--audit", "x", "--user", "u", "--source-ip", "1.2.3", server=server)
    assert done.returncode == 1
    assert done.stderr == (
        "emitd: INVALID_ARGUMENT: record.audit.source_ip: '1.2.3' is neither an IP address nor 'unknown'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["emit"], "say what to emit"),
        (["emit", "x", "--level", "LOUD"], "'LOUD' is not one of DEBUG"),
        (["emit", "x", "-a", "novalue"], "'novalue' is not KEY=VALUE"),
        (["emit", "x", "--user", "u"], "--user goes with --audit or --job"),
        (["emit", "--audit", "e"], "--user: an audit event says who did it"),
        (["emit", "--audit", "e", "--job", "j"], "exclude each other"),
        (["emit", "--job", "j"], "--status: a job report has one of"),
        (["emit", "--job", "j", "--status", "BUSY"], "'BUSY' is not one of"),
        (["emit", "--file", "/nowhere/x"], "cannot be read"),
        (["emit", "--file", "-", "--batch-size", "0"], "is not positive"),
        (["job", "watch"], "JOB_ID"),
        (["nonsense"], "invalid choice"),
    ],
)
def test_misuse_is_exit_code_2(arguments: list[str], words: str) -> None:
    """It says what is wrong, and sends nothing."""
    done = emitd(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_lines_from_standard_input(server: ServerProcess) -> None:
    """A log line each; empty lines are passed over."""
    done = emitd("emit", "-", "--source", "seq", stdin="one\n\ntwo\nlast without newline", server=server)
    assert (done.returncode, done.stdout) == (0, "3 records accepted\n")


def test_json_lines_from_a_file(server: ServerProcess, folder: Path, tmp_path: Path) -> None:
    """The contract's JSON form; what is refused is told by line and field, and the rest is accepted."""
    good = {"audit": {"eventName": "e", "userId": "u", "sourceIp": "unknown", "detailsJson": "{}"}}
    lines = [
        json.dumps(good | {"recordId": f"cli-{number}", "level": "LEVEL_AUDIT"}) for number in range(1000)
    ]
    lines[500] = '{"level":"LEVEL_AUDIT"}'
    lines[700] = '{"level":"LEVEL_INFO","messag":"x"}'
    lines[800] = '{"record_id":"snake","job":{"job_id":"snake","job_type":"t","status":"JOB_STATE_QUEUED"}}'
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(lines))
    before = (
        (folder / "audit.json.log").read_text().count("\n") if (folder / "audit.json.log").exists() else 0
    )
    done = emitd("emit", "--file", str(file), "--format", "jsonl", server=server)
    assert done.returncode == 1
    assert done.stdout == "998 records accepted, 2 refused\n"
    told = sorted(done.stderr.splitlines())
    assert told[0] == "emitd: line 501: level: AUDIT needs the payload `audit`"
    assert told[1].startswith("emitd: line 701: ")
    assert "messag" in told[1]
    assert (folder / "audit.json.log").read_text().count("\n") == before + 997
    again = emitd("emit", "--file", str(file), "--format", "jsonl", "--json", server=server)
    assert json.loads(again.stdout) == {"accepted": 0, "duplicates": 998, "not_applied": 0, "refused": 2}


def test_a_live_pipe_is_not_kept_waiting(server: ServerProcess, folder: Path) -> None:
    """`tail -f | emitd emit -`: a line is sent when it comes, not when a batch is full."""
    process = subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", "emit", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "EMITD_ADDRESS": server.address},
    )
    assert process.stdin is not None
    process.stdin.write("straight through\n")
    process.stdin.flush()
    deadline = time.monotonic() + 15
    while "straight through" not in (folder / "stdout").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "straight through" in (folder / "stdout").read_text()
    out, _ = process.communicate(timeout=15)
    assert out == "1 records accepted\n"


def test_a_pipe_closed_early_ends_quietly(server: ServerProcess) -> None:
    """`emitd job get | head -0`: no traceback, no complaint at exit."""
    emitd("emit", "--job", "p1", "--type", "t", "--status", "QUEUED", server=server)
    process = subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", "job", "watch", "p1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EMITD_ADDRESS": server.address},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    emitd("emit", "--job", "p1", "--status", "COMPLETED", server=server)
    assert process.wait(30) in (0, 1)
    assert process.stderr.read() == ""
    process.stderr.close()


def test_watch_draws_a_bar_on_a_terminal(server: ServerProcess) -> None:
    """On a terminal the job is one live line; its text ends with the final state."""
    emitd("emit", "--job", "bar", "--type", "t", "--status", "COMPLETED", server=server)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", "job", "watch", "bar"],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "EMITD_ADDRESS": server.address, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    screen = b""
    try:
        while chunk := os.read(ours, 4096):
            screen += chunk
    except OSError:  # the terminal is gone with its process
        pass
    os.close(ours)
    assert process.wait(30) == 0
    assert "bar" in screen.decode()
    assert "COMPLETED" in screen.decode()
    assert "━" in screen.decode()


def test_check_config(tmp_path: Path) -> None:
    """Exit code 0 and a word for a good file, 1 and every problem for a bad one, also as JSON."""
    (tmp_path / "good.yml").write_text("handlers: {d: {type: discard}}\n")
    done = emitd("check-config", "good.yml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "good.yml: good; 1 handlers are active\n")
    (tmp_path / "bad.yml").write_text("servr: 1\nhandlers: {d: {type: discrd}}\n")
    done = emitd("check-config", "bad.yml", cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    done = emitd("check-config", "bad.yml", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert [(p["line"], p["path"], p["nearest"]) for p in json.loads(done.stdout)] == [
        (1, "servr", "server"),
        (2, "handlers.d.type", "discard"),
    ]
    done = emitd("check-config", "none.yml", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be read" in done.stdout


def test_help_tells_the_exit_codes() -> None:
    """Of the program and of every command, with an example each."""
    for command in ([], ["serve"], ["check-config"], ["emit"], ["job", "get"], ["job", "watch"]):
        done = emitd(*command, "--help")
        assert done.returncode == 0
        assert "exit codes:" in done.stdout
        assert "3  bad configuration at start" in done.stdout
        assert not command or "examples:" in done.stdout
    assert emitd("--version").stdout.startswith("emitd ")
