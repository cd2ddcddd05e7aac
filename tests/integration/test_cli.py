"""The commands against a real server: what they print, and how they end."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.processes.run_main import Done, run_main
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
NOBODY = "127.0.0.1:1"
EMITD = [sys.executable, "-m", "emitd_cli"]
WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from emitd_cli.main import main; sys.exit(main())"
#: Of records that are under way when their server is killed.
COUNT = 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, folder) as server:
        yield server


def emitd(server: ServerProcess, *arguments: str) -> Done:
    """Run a command that needs neither a terminal nor a process of its own."""
    return run_main(*arguments, "--address", server.address)


WITH_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from emitd_cli.main import main
sys.exit(main())
"""


def spawn(server: ServerProcess, *arguments: str, stdin: int | None = None) -> "subprocess.Popen[str]":
    """Begin a command in a process of its own, which Ctrl-C reaches also where the tests run in the background."""
    return subprocess.Popen(
        [sys.executable, "-c", WITH_CTRL_C, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EMITD_ADDRESS": server.address},
    )


def on_a_terminal(server: ServerProcess, *arguments: str, command: Sequence[str] = EMITD) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and all that was written to the screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, *arguments],
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
    return process.wait(30), screen.decode()


def wait_for(file: Path, text: str) -> None:
    deadline = time.monotonic() + 15
    while text not in file.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert text in file.read_text()


def test_a_log_line(server: ServerProcess, folder: Path) -> None:
    """The message is on the server's standard output, with its attributes."""
    done = emitd(server, "emit", "User 'u1' successfully authenticated.", "-a", "cart=17")
    assert done == (0, "accepted by console\n", "")
    wait_for(folder / "stdout", "[INFO] User 'u1' successfully authenticated. cart=17\n")


def test_an_audit_event(server: ServerProcess, folder: Path) -> None:
    """The receipt says which line of which log; the line has what the flags said."""
    flags = ["--audit", "user.login", "--user", "u1", "--source-ip", "::1", "--json"]
    done = emitd(server, "emit", *flags, "--details", '{"n":12345678901234567890}')
    assert done.returncode == 0
    receipt = json.loads(done.stdout)["audit"]
    lines = (folder / "audit.json.log").read_text().splitlines()
    line = lines[int(receipt["leaf_index"])]
    assert json.loads(line)["event_id"] == receipt["event_id"]
    assert '"details":{"n":12345678901234567890}' in line


def test_a_retry_is_told(server: ServerProcess) -> None:
    """The same record again was accepted before, and has the same line."""
    flags = ["--audit", "e", "--user", "u", "--record-id", "retry-1", "--event-id", "retry-1"]
    first = emitd(server, "emit", *flags)
    assert first.stdout.startswith("accepted by audit: event retry-1, line ")
    again = emitd(server, "emit", *flags)
    assert again.stdout == first.stdout.replace("accepted", "accepted before")
    other = emitd(server, "emit", *flags, "--source-ip", "::1")
    assert other.returncode == 1
    assert other.stderr.startswith("emitd: ALREADY_EXISTS: ")


def test_a_job_is_reported_read_and_watched(server: ServerProcess) -> None:
    """`watch` prints each change, ends with the job, and its exit code says how that went."""
    flags = ["--type", "t", "--status", "RUNNING", "--progress", "40", "--label", "team=a"]
    first = emitd(server, "emit", "--job", "w1", *flags)
    assert first.stdout == "accepted by jobs: revision 1, attempt 1\n"
    watch = spawn(server, "job", "watch", "w1")
    assert watch.stdout is not None
    assert watch.stdout.readline() == "w1  RUNNING     40 %\n"
    emitd(server, "emit", "--job", "w1", "--status", "COMPLETED")
    out, err = watch.communicate(timeout=30)
    assert (watch.returncode, out, err) == (0, "w1  COMPLETED  100 %\n", "")
    stale = emitd(server, "emit", "--job", "w1", "--status", "RUNNING")
    assert stale.stdout == "accepted by jobs: revision 2, attempt 1, not applied: ATTEMPT_ENDED\n"
    got = emitd(server, "job", "get", "w1")
    assert got.returncode == 0
    assert "status      COMPLETED\n" in got.stdout
    assert "labels      team=a\n" in got.stdout


def test_the_history_of_a_job(server: ServerProcess) -> None:
    """`--after-revision 0` shows every change of status there was; without it there is only what is."""
    for flags in (["QUEUED", "--type", "t"], ["RUNNING"], ["FAILED"]):
        emitd(server, "emit", "--job", "h1", "--status", *flags)
    emitd(server, "emit", "--job", "h1", "--status", "COMPLETED", "--new-attempt")
    done = emitd(server, "job", "watch", "h1", "--after-revision", "0")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "h1  QUEUED       0 %",
        "h1  RUNNING      0 %",
        "h1  FAILED       0 %",
        "h1  COMPLETED  100 %  attempt 2",
    ]
    assert emitd(server, "job", "watch", "h1").stdout == "h1  COMPLETED  100 %  attempt 2\n"


def test_a_failed_job_is_exit_code_1(server: ServerProcess) -> None:
    """`get` and `watch` say FAILED with the reason."""
    flags = ["--failure-reason", "OOM", "--failure-message", "no\x1b[2Jmemory"]
    emitd(server, "emit", "--job", "f1", "--type", "t", "--status", "FAILED", *flags)
    watched = emitd(server, "job", "watch", "f1")
    assert watched == (1, "f1  FAILED       0 %  OOM no\\u001b[2Jmemory\n", "")
    got = emitd(server, "job", "get", "f1", "--json")
    assert got.returncode == 1
    assert json.loads(got.stdout)["failure_reason"] == "OOM"


def test_what_cannot_be_told_is_exit_code_4(server: ServerProcess) -> None:
    """An unknown job, one that takes too long, and a server that is not there: one line each."""
    for command in ("get", "watch"):
        done = emitd(server, "job", command, "nope")
        assert (done.returncode, done.stderr) == (4, "emitd: NOT_FOUND: there is no job 'nope'\n")
    done = emitd(server, "job", "watch", "nope", "--wait", "--timeout", "0.3")
    assert (done.returncode, done.stderr) == (4, "emitd: 'nope' has not ended within 0.3 s (--timeout)\n")
    for arguments in (["emit", "x"], ["job", "get", "x"], ["job", "watch", "x"]):
        done = run_main(*arguments, "--address", NOBODY)
        assert done.returncode == 4, arguments
        assert done.stderr.startswith(f"emitd: cannot reach {NOBODY}")
        assert done.stderr.count("\n") == 1


def test_what_is_refused_is_exit_code_1(server: ServerProcess) -> None:
    """The line names the field."""
    done = emitd(server, "emit", "--audit", "x", "--user", "u", "--source-ip", "1.2.3")
    assert done.returncode == 1
    assert done.stderr == (
        "emitd: INVALID_ARGUMENT: record.audit.source_ip: '1.2.3' is neither an IP address nor 'unknown'\n"
    )


def test_lines_from_standard_input(server: ServerProcess, folder: Path) -> None:
    """A log line each, with its indentation; empty lines are passed over."""
    process = spawn(server, "emit", "-", "--source", "seq", stdin=subprocess.PIPE)
    out, err = process.communicate("one\n\n  two\nlast without newline", timeout=30)
    assert (process.returncode, out, err) == (0, "3 records: 3 queued\n", "")
    wait_for(folder / "stdout", "[INFO] [seq]   two\n")
    wait_for(folder / "stdout", "[INFO] [seq] last without newline\n")


def test_json_lines_from_a_file(server: ServerProcess, folder: Path, tmp_path: Path) -> None:
    """The contract's JSON form; what is refused is told by line and field, and the rest is committed once."""
    good = {"audit": {"eventName": "e", "userId": "u", "sourceIp": "unknown", "detailsJson": "{}"}}
    lines = [json.dumps(good | {"recordId": f"cli-{n}", "level": "LEVEL_AUDIT"}) for n in range(1000)]
    lines[500] = '{"level":"LEVEL_AUDIT"}'
    lines[700] = '{"level":"LEVEL_INFO","messag":"x"}'
    lines[800] = '{"record_id":"snake","job":{"job_id":"snake","job_type":"t","status":"JOB_STATE_QUEUED"}}'
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(lines))
    audit = folder / "audit.json.log"
    before = audit.read_text().count("\n") if audit.exists() else 0
    done = emitd(server, "emit", "--file", str(file), "--format", "jsonl")
    assert done.returncode == 1
    assert done.stdout == "1000 records: 998 committed, 2 refused\n"
    told = sorted(done.stderr.splitlines())
    assert told[0] == "emitd: line 501: level: AUDIT needs the payload `audit`"
    assert told[1].startswith("emitd: line 701: ")
    assert "messag" in told[1]
    assert audit.read_text().count("\n") == before + 997
    again = emitd(server, "emit", "--file", str(file), "--format", "jsonl")
    assert again.stdout == "1000 records: 998 accepted before, 2 refused\n"
    assert audit.read_text().count("\n") == before + 997


def test_long_lines_make_short_batches(server: ServerProcess, tmp_path: Path) -> None:
    """More than a server takes in one call is no problem of whoever calls: 40 MB in lines of 80 kB."""
    file = tmp_path / "long"
    file.write_text(("x" * 80_000 + "\n") * 500)
    assert emitd(server, "emit", "--file", str(file)).stdout == "500 records: 500 queued\n"


def test_a_live_pipe_is_not_kept_waiting(server: ServerProcess, folder: Path) -> None:
    """`tail -f | emitd emit -`: a line is sent when it comes, not when a batch is full."""
    process = spawn(server, "emit", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("straight through\n")
    process.stdin.flush()
    wait_for(folder / "stdout", "straight through")
    out, _ = process.communicate(timeout=15)
    assert out == "1 record: 1 queued\n"


def test_a_pipe_closed_early_ends_quietly(server: ServerProcess) -> None:
    """`emitd job watch --json | head -1`: no traceback, no complaint at exit."""
    emitd(server, "emit", "--job", "p1", "--type", "t", "--status", "QUEUED")
    process = spawn(server, "job", "watch", "p1", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    emitd(server, "emit", "--job", "p1", "--status", "COMPLETED")
    assert process.wait(30) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("command", ["watch", "emit"])
def test_ctrl_c_ends_quietly(server: ServerProcess, folder: Path, command: str) -> None:
    """Exit code 130, and no traceback, while it waits for the server or for its input."""
    emitd(server, "emit", "--job", "c1", "--type", "t", "--status", "RUNNING")
    if command == "watch":
        process = spawn(server, "job", "watch", "c1")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("c1  RUNNING")
    else:
        process = spawn(server, "emit", "-", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write("before ctrl-c\n")
        process.stdin.flush()
        wait_for(folder / "stdout", "before ctrl-c")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_watch_draws_a_bar_on_a_terminal(server: ServerProcess) -> None:
    """On a terminal the job is one live line, with its type; its text ends with the final state."""
    emitd(server, "emit", "--job", "bar", "--type", "drawn", "--status", "COMPLETED")
    code, screen = on_a_terminal(server, "job", "watch", "bar")
    assert code == 0
    for text in ("bar", "drawn", "COMPLETED", "100 %", "━"):
        assert text in screen


def test_a_bar_for_a_file_on_a_terminal(server: ServerProcess, tmp_path: Path) -> None:
    """The size of a file is known, so sending it draws a bar; the counts are the last line."""
    (tmp_path / "lines").write_text("x\n" * 2000)
    code, screen = on_a_terminal(server, "emit", "--file", str(tmp_path / "lines"))
    assert code == 0
    assert "sending" in screen
    assert "━" in screen
    assert screen.rstrip().endswith("2000 records: 2000 queued")


def test_a_terminal_without_rich(server: ServerProcess, tmp_path: Path) -> None:
    """The base install brings no rich: plain lines, and no bar."""
    command = (sys.executable, "-c", WITHOUT_RICH)
    emitd(server, "emit", "--job", "plain", "--type", "t", "--status", "COMPLETED")
    assert on_a_terminal(server, "job", "watch", "plain", command=command) == (
        0,
        "plain  COMPLETED  100 %\r\n",
    )
    (tmp_path / "lines").write_text("x\n" * 3)
    done = on_a_terminal(server, "emit", "--file", str(tmp_path / "lines"), command=command)
    assert done == (0, "3 records: 3 queued\r\n")


def test_a_watch_outlives_its_server(tmp_path: Path) -> None:
    """The server is killed and started again: the watch says so, resumes, and skips and repeats nothing."""
    config = CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{free_port()}")
    with ServerProcess.start(config, tmp_path) as first:
        emitd(first, "emit", "--job", "j", "--type", "t", "--status", "QUEUED")
        watch = spawn(first, "job", "watch", "j")
        assert watch.stdout is not None
        assert watch.stdout.readline() == "j  QUEUED       0 %\n"
        first.kill()
    with ServerProcess.start(config, tmp_path) as second:
        emitd(second, "emit", "--job", "j", "--status", "RUNNING", "--progress", "5")
        emitd(second, "emit", "--job", "j", "--status", "COMPLETED")
        out, err = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert out.splitlines() == ["j  RUNNING      5 %", "j  COMPLETED  100 %"]
    assert err.startswith(f"emitd: cannot reach {second.address}")
    assert err.endswith("; trying again for 60 s\n")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_records_outlive_their_server(tmp_path: Path) -> None:
    """A server that is killed while a file is sent and comes back has every record, once."""
    config = CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{free_port()}")
    payload = {"eventName": "e", "userId": "u", "sourceIp": "unknown", "detailsJson": "{}"}
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps({"recordId": f"r{n}", "audit": payload}) + "\n" for n in range(COUNT)))
    audit = tmp_path / "audit.json.log"
    flags = ["--file", str(file), "--format", "jsonl", "--batch-size", "16"]
    with ServerProcess.start(config, tmp_path) as first:
        process = spawn(first, "emit", *flags)
        deadline = time.monotonic() + 30
        while not (audit.exists() and audit.stat().st_size > 100_000) and time.monotonic() < deadline:
            time.sleep(0.005)
        first.kill()
    with ServerProcess.start(config, tmp_path):
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith(f"{COUNT} records: ")
    assert "refused" not in out
    ids = [json.loads(line)["record_id"] for line in audit.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == COUNT
