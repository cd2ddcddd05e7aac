"""A file has one owner: what the process says and refuses when others touch its files, and how all of it comes back."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd.v1 import JOB_STATE_RUNNING, AuditEvent, EmitRequest, JobStatus, LogRecord, LogServiceStub
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from support.processes.server_process import ServerProcess

#: Real processes that wait for clocks, signals and retries.
pytestmark = pytest.mark.slow

CONFIG = """
server: {listen: "127.0.0.1:0", shutdown: {not_serving_seconds: 0}}
handlers:
  audit: {type: json_audit, path: logs/audit.json.log}
  jobs: {type: database_job, database: "sqlite:///data/jobs.db"}
"""
SOCKET_CONFIG = """
server: {listen: "unix:emitd.sock", shutdown: {not_serving_seconds: 0}}
handlers:
  console: {type: console}
"""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WAIT_SECONDS = 20.0

#: Files are looked at twice a second.
SOON_SECONDS = 5.0


class Caller:
    """Calls one server."""

    def __init__(self, server: ServerProcess) -> None:
        self.channel = grpc.insecure_channel(server.address)
        self.stub = LogServiceStub(self.channel)

    def audit(self, number: int) -> int:
        """Emit an event, always the same for a number; return the index of its line."""
        event = AuditEvent(
            event_name="user.login", user_id=f"u{number}", source_ip="unknown", details_json="{}"
        )
        record = LogRecord(record_id=f"r-{number}", time_unix_nano=number + 1, audit=event)
        return int(self.stub.Emit(EmitRequest(record=record), timeout=10).receipt.audit.leaf_index)

    def job(self, number: int) -> int:
        """Report a job as running; return its revision."""
        job = JobStatus(job_id=f"j-{number}", job_type="t", status=JOB_STATE_RUNNING)
        record = LogRecord(record_id=f"j-{number}", time_unix_nano=number + 1, job=job)
        return int(self.stub.Emit(EmitRequest(record=record), timeout=10).receipt.job.revision)

    def health(self, service: str) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)

    def until_health(self, service: str, status: int) -> float:
        """Wait for a status; return after how many seconds it came."""
        began = time.monotonic()
        while self.health(service) != status:
            assert time.monotonic() < began + WAIT_SECONDS
            time.sleep(0.02)
        return time.monotonic() - began


def assert_refused(call: Callable[[int], int], number: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(number)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def said(server: ServerProcess, words: str) -> str:
    """Return the one line on standard error with these words.

    The report of a refused record, which comes every ten seconds at most, may repeat it.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not (lines := {line for line in server.stderr.splitlines() if re.search(words, line)}):
        assert time.monotonic() < deadline, server.stderr
        time.sleep(0.02)
    (line,) = lines
    return line


def run_advice(line: str) -> None:
    """Run the command that the line names, as an operator would."""
    command = re.search(r"run: (\(.*\))$", line)
    assert command, line
    subprocess.run(command[1], shell=True, check=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, tmp_path) as server:
        yield server


def remove(path: Path) -> None:
    path.unlink()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def rename_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def rotate(path: Path) -> None:
    """As logrotate does without further options."""
    path.rename(path.with_name(f"{path.name}.1"))


def copy_and_cut(path: Path) -> None:
    """As logrotate does with copytruncate."""
    shutil.copy(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)


def replace_by_link(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    path.unlink()
    path.symlink_to(copy)


def replace(path: Path) -> None:
    path.unlink()
    path.write_text("mine\n")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"foreign\n")


def remove_one(kind: str) -> Callable[[Path], None]:
    return lambda path: path.with_name(f"{path.name}.{kind}").unlink()


HARMS = {
    **{harm.__name__: harm for harm in (remove, remove_folder, rename_folder, rotate, copy_and_cut)},
    **{harm.__name__: harm for harm in (replace_by_link, replace, append)},
    **{kind: remove_one(kind) for kind in ("hashes", "checkpoints", "index", "key", "vkey", "log_id")},
}


#: The others take as long; `tests/unit/handlers/audit/test_log.py` has all of them too.
FAST = ("remove_folder", "copy_and_cut", "key")


@pytest.mark.parametrize(
    "harm", [pytest.param(harm, marks=[] if harm in FAST else pytest.mark.slow) for harm in HARMS]
)
def test_an_audit_log_that_was_touched_is_saved_and_comes_back(
    server: ServerProcess, tmp_path: Path, harm: str
) -> None:
    """Nothing is put back or begun before the operator runs the command; then every line is there, once."""
    path = tmp_path / "logs" / "audit.json.log"
    caller = Caller(server)
    for number in range(5):
        caller.audit(number)
    HARMS[harm](path)
    assert caller.until_health("handler/audit", NOT_SERVING) < SOON_SECONDS
    assert_refused(caller.audit, 5)
    assert caller.job(0) == 1
    line = said(server, "takes no records.*run: ")
    assert not path.exists() or path.with_name(f"{path.name}.1").exists() or path.read_bytes()
    time.sleep(0.7)
    assert said(server, "takes no records.*run: ") == line
    assert caller.health("handler/audit") == NOT_SERVING
    run_advice(line)
    caller.until_health("handler/audit", SERVING)
    assert [caller.audit(number) for number in range(7)] == list(range(7))
    server.terminate()
    assert server.wait() == 0
    assert verify_log(path).verdict is Verdict.GOOD
    assert len(path.read_bytes().splitlines()) == 7


def test_a_start_waits_for_what_was_saved(server: ServerProcess, tmp_path: Path) -> None:
    """After a kill too: no server begins a new log, or new jobs, while the old ones wait to be put back."""
    caller = Caller(server)
    for number in range(3):
        caller.audit(number)
        caller.job(number)
    shutil.rmtree(tmp_path / "logs")
    shutil.rmtree(tmp_path / "data")
    lines = said(server, "takes no records.*run: "), said(server, "takes no reports.*run: ")
    server.kill()
    # Nothing serves: whether the process then ends or waits, it names the command.
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml") as second:
        for handler in ("audit", "jobs"):
            assert "was displaced. All of it is in" in said(
                second, f"handler '{handler}' is down.*was displaced"
            )
    assert not (tmp_path / "logs" / "audit.json.log").exists()
    assert not (tmp_path / "data" / "jobs.db").exists()
    for line in lines:
        run_advice(line)
    with ServerProcess.start(CONFIG, tmp_path) as third:
        caller = Caller(third)
        assert [caller.audit(number) for number in range(4)] == [0, 1, 2, 3]
        assert [caller.job(number) for number in range(4)] == [1, 1, 1, 1]


def test_lines_between_copy_and_cut_are_named_as_lost(server: ServerProcess, tmp_path: Path) -> None:
    """The message names the copy, and its command begins a new log beside all that is left."""
    path = tmp_path / "logs" / "audit.json.log"
    caller = Caller(server)
    for number in range(3):
        caller.audit(number)
    shutil.copy(path, path.with_name("audit.json.log.1"))
    caller.audit(3)
    os.truncate(path, 0)
    caller.until_health("handler/audit", NOT_SERVING)
    line = said(server, "takes no records.*run: ")
    assert "The likely copy is" in line
    assert "audit.json.log.1" in line
    assert "came between copy and cut are lost" in line
    run_advice(line)
    caller.until_health("handler/audit", SERVING)
    assert caller.audit(9) == 0
    (kept,) = path.parent.glob("*.displaced-*")
    assert len((kept / "audit.json.log.1").read_bytes().splitlines()) == 3


def test_two_servers_never_acknowledge_into_one_path(server: ServerProcess, tmp_path: Path) -> None:
    """A second server begins in the place of removed files; neither fights, and each event is in one of two logs."""
    path = tmp_path / "logs" / "audit.json.log"
    first, acknowledged = Caller(server), set[str]()
    for number in range(3):
        first.audit(number)
        acknowledged.add(f"r-{number}")
    shutil.rmtree(tmp_path / "logs")
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml") as rival:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            for number, caller in ((10, first), (20, Caller(rival) if rival.address else None)):
                if caller is not None:
                    try:
                        caller.audit(number)
                    except grpc.RpcError:
                        continue
                    acknowledged.add(f"r-{number}")
            time.sleep(0.05)
    server.kill()
    logs = [path, *path.parent.glob("*.recovery-*/audit.json.log")]
    found = b"".join(log.read_bytes() for log in logs if log.exists()).decode()
    assert sorted(acknowledged) == sorted(set(re.findall(r'"record_id":"(r-\d+)"', found)) & acknowledged)


def remove_database(path: Path) -> None:
    for part in path.parent.glob("jobs.db*"):
        part.unlink()


def remove_wal(path: Path) -> None:
    path.with_name("jobs.db-wal").unlink()


def replace_database(path: Path) -> None:
    remove_database(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (x)")


#: Likewise.
DATABASE_HARMS = (
    *(remove_database, remove_wal),
    *(pytest.param(harm, marks=pytest.mark.slow) for harm in (replace_database, remove, remove_folder)),
    *(pytest.param(harm, marks=pytest.mark.slow) for harm in (rename_folder, rotate)),
)


@pytest.mark.parametrize("harm", DATABASE_HARMS)
def test_jobs_whose_file_was_touched_are_saved_and_come_back(
    server: ServerProcess, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Reports are refused, all that was acknowledged is saved, and after the command all goes on."""
    path = tmp_path / "data" / "jobs.db"
    caller = Caller(server)
    for number in range(5):
        caller.job(number)
    harm(path)
    assert_refused(caller.job, 5)
    assert caller.until_health("handler/jobs", NOT_SERVING) < SOON_SECONDS
    assert caller.audit(0) == 0
    line = said(server, "takes no reports.*run: ")
    assert_refused(caller.job, 5)
    time.sleep(0.7)
    assert caller.health("handler/jobs") == NOT_SERVING
    assert said(server, "takes no reports.*run: ") == line
    run_advice(line)
    caller.until_health("handler/jobs", SERVING)
    assert [caller.job(number) for number in range(7)] == [1] * 7
    server.terminate()
    assert server.wait() == 0
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM job_logs").fetchone() == (7,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_live_socket_is_not_taken(tmp_path: Path) -> None:
    """A second server is refused, and the first one goes on; a stale socket is replaced."""
    with ServerProcess.start(SOCKET_CONFIG, tmp_path) as first:
        with ServerProcess.launch(tmp_path, "--config", "emitd.yml") as second:
            assert second.wait() != 0
            assert "another server listens on it" in second.stderr
        assert Caller(first).health("") == SERVING
    assert (tmp_path / "emitd.sock").exists()  # the first was killed
    with ServerProcess.start(SOCKET_CONFIG, tmp_path) as third:
        assert Caller(third).health("") == SERVING
        third.terminate()
        assert third.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["emitd.yml", "stdout"]


def test_a_server_deletes_only_its_own_socket(tmp_path: Path) -> None:
    """One whose path was removed says so; it then leaves the path to the server that has it now."""
    with ServerProcess.start(SOCKET_CONFIG, tmp_path) as first:
        caller = Caller(first)
        assert caller.health("") == SERVING
        (tmp_path / "emitd.sock").unlink()
        assert caller.until_health("", NOT_SERVING) < SOON_SECONDS
        assert "no client can connect" in said(first, "emitd.sock': its file was deleted")
        with ServerProcess.start(SOCKET_CONFIG, tmp_path) as second:
            first.terminate()
            assert first.wait() == 0
            assert Caller(second).health("") == SERVING


@pytest.mark.parametrize("is_folder", [True, False], ids=["a folder", "a file"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, is_folder: bool) -> None:
    """A file of another kind in the socket's place stops the start, and stays."""
    path = tmp_path / "emitd.sock"
    if is_folder:
        path.mkdir()
    else:
        path.write_text("mine")
    (tmp_path / "emitd.yml").write_text(SOCKET_CONFIG)
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml") as server:
        assert server.wait() != 0
        assert "is not a socket" in server.stderr
    assert path.is_dir() if is_folder else path.read_text() == "mine"


def copy_lines_first(log: Path, copy: Path, between: Callable[[], None]) -> Path:
    """Copy a log as tar and rsync do, its lines first; return the path of the copy's lines."""
    copy.mkdir()
    shutil.copy2(log, copy)
    between()
    for file in log.parent.glob(f"{log.name}.*"):
        shutil.copy2(file, copy)
    return copy / log.name


def test_a_copy_whose_lines_are_older_is_not_called_tampered_with(tmp_path: Path) -> None:
    """It says how many lines are missing, and what to do; the log itself, cut, is bad, in use or not."""
    server = ServerProcess.start(CONFIG, tmp_path)
    try:
        caller = Caller(server)
        log = tmp_path / "logs/audit.json.log"

        def go_on() -> None:
            for number in range(10, 17):
                caller.audit(number)
            until_signed(log, 17)

        for number in range(10):
            caller.audit(number)
        until_signed(log, 10)
        copy = copy_lines_first(log, tmp_path / "copy", go_on)
        report = verify_log(copy)
        assert (report.verdict, report.findings, report.covered_lines) == (Verdict.CANNOT_TELL, [], 10)
        assert report.notes[0].startswith(
            "the last 7 lines that the checkpoints sign are missing: this is a copy that"
        )
        assert verify_log(log).verdict is Verdict.GOOD
        whole = log.read_bytes()
        os.kill(server.pid, signal.SIGSTOP)  # before it notices, and says so itself
        os.truncate(log, whole.index(b"\n", len(whole) // 2) + 1)
        os.utime(log, (1_000_000_000, 1_000_000_000))  # a log in use is no copy
        assert [finding.kind for finding in verify_log(log).findings] == ["LOG_CUT"]
    finally:
        server.kill()
    # Its service was killed, and the time of its file is what it is after a cut.
    log.write_bytes(whole)
    assert verify_log(log).verdict is Verdict.GOOD
    os.truncate(log, whole.index(b"\n", len(whole) // 2) + 1)
    assert [finding.kind for finding in verify_log(log).findings] == ["LOG_CUT"]


def until_signed(log: Path, lines: int) -> None:
    """Wait until a checkpoint covers this number of lines."""
    deadline = time.monotonic() + WAIT_SECONDS
    while verify_log(log).covered_lines < lines:
        assert time.monotonic() < deadline
        time.sleep(0.05)
