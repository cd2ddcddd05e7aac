"""On the real process: a handler that cannot work is down and tried again, and the others run."""

import fcntl
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd.v1 import (
    JOB_STATE_RUNNING,
    LEVEL_DEBUG,
    LEVEL_ERROR,
    LEVEL_INFO,
    LEVEL_WARNING,
    AuditEvent,
    AuditServiceStub,
    EmitRequest,
    GetCheckpointRequest,
    GetJobRequest,
    JobStatus,
    ListAuditEventsRequest,
    ListJobsRequest,
    LogRecord,
    LogServiceStub,
    WatchJobRequest,
)
from support.processes.postgres import PostgresServer
from support.processes.server_process import ServerProcess

#: Real processes that wait for clocks, signals and retries.
pytestmark = pytest.mark.slow

CONFIG = """
server: {listen: "127.0.0.1:0"}
handler_paths: [.]
handlers:
  console: {type: console, levels: [INFO]}
  audit: {type: json_audit, path: logs/audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs/jobs.db"}
"""
WAIT_SECONDS = 20.0
ODD_HANDLERS = """
import asyncio
from pathlib import Path
from emitd_handlers import BaseLogHandler, Delivery

class Odd(BaseLogHandler):
    default_delivery = Delivery.COMMITTED
    def emit(self, record):
        if record.message == "down":
            raise OSError("the cable is out")

class Raises(Odd):
    async def start(self):
        await super().start()
        if not Path("mended").exists():
            raise KeyError("no such thing")

class Exits(Odd):
    async def start(self):
        raise SystemExit(7)

class Half(Odd):
    '''Opens something, and fails after that.'''
    is_open = False
    async def start(self):
        await super().start()
        assert not self.is_open, "it was not stopped"
        self.is_open = True
        if not Path("mended").exists():
            raise RuntimeError("half way")
    async def stop(self):
        self.is_open = False
        await super().stop()

class Hangs(Odd):
    async def start(self):
        await asyncio.Event().wait()

class Slow(Odd):
    async def emit(self, record):
        await asyncio.sleep(0.2)

class Restarts(Odd):
    async def emit(self, record):
        if record.message == "down":
            self.request_restart("the file has another owner")
"""


class Client:
    """Asks a server what the tests want to know."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.log = LogServiceStub(channel)
        self.audit = AuditServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def line(self, level: int = LEVEL_INFO, message: str = "hello") -> None:
        self.log.Emit(EmitRequest(record=LogRecord(level=level, message=message)), timeout=WAIT_SECONDS)

    def event(self) -> int:
        event = AuditEvent(event_name="n", user_id="u", source_ip="::1", details_json="{}")
        reply = self.log.Emit(EmitRequest(record=LogRecord(audit=event)), timeout=WAIT_SECONDS)
        return reply.receipt.audit.leaf_index

    def job(self) -> None:
        job = JobStatus(job_id="j1", job_type="t", status=JOB_STATE_RUNNING)
        self.log.Emit(EmitRequest(record=LogRecord(job=job)), timeout=WAIT_SECONDS)

    def serves(self, name: str) -> bool:
        reply = self._health.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT_SECONDS)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_until(self, name: str, *, serving: bool) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while self.serves(name) is not serving:
            assert time.monotonic() < deadline, f"{name} is not {serving}"
            time.sleep(0.05)

    def assert_ready(self, is_ready: bool) -> None:
        for name in ("", "emitd.v1.LogService", "emitd.v1.AuditService"):
            assert self.serves(name) is is_ready, name
        assert self.serves("live")


@contextmanager
def client_of(server: ServerProcess) -> Iterator[Client]:
    with grpc.insecure_channel(server.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield Client(channel)


@contextmanager
def serving(config: str, folder: Path) -> Iterator[tuple[ServerProcess, Client]]:
    with ServerProcess.start(config, folder) as server, client_of(server) as client:
        yield server, client
        server.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.stderr


def assert_unavailable(call: grpc.Call | object, *texts: str) -> None:
    """The call must fail with UNAVAILABLE, a RetryInfo and these texts."""
    with pytest.raises(grpc.RpcError) as caught:
        call()  # type: ignore[operator]
    error = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    for text in texts:
        assert text in error.details()
    (data,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(data)
    retry: Message = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)


def test_a_damaged_database_is_set_aside_by_hand(tmp_path: Path) -> None:
    """Until then only jobs are away, for writers and readers; the command in the message brings them back."""
    (tmp_path / "jobs").mkdir()
    damaged = "this is no database, " * 100
    (tmp_path / "jobs" / "jobs.db").write_text(damaged)
    with serving(CONFIG, tmp_path) as (server, client):
        client.line()
        assert client.event() == 0
        assert not client.serves("handler/jobs")
        assert client.serves("handler/audit")
        client.assert_ready(False)
        assert_unavailable(client.job, "handler 'jobs' is down", "file is not a database")
        assert_unavailable(lambda: client.log.GetJob(GetJobRequest(job_id="j1")), "handler 'jobs' is down")
        assert_unavailable(lambda: client.log.ListJobs(ListJobsRequest()), "handler 'jobs' is down")
        assert_unavailable(lambda: list(client.log.WatchJob(WatchJobRequest(job_id="j1"))), "is down")
        [command] = re.findall(r"an empty one: (mkdir .*)", server.stderr)
        subprocess.run(command, shell=True, check=True)
        client.wait_until("handler/jobs", serving=True)
        client.job()
        client.assert_ready(True)
        assert "handler 'jobs' is up" in server.stderr
    assert (tmp_path / "jobs" / "damaged-jobs.db" / "jobs.db").read_text() == damaged


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file stands where the audit log's folder should be. The log's readers get UNAVAILABLE too."""
    (tmp_path / "logs").write_text("")
    with serving(CONFIG, tmp_path) as (_, client):
        client.job()
        assert_unavailable(client.event, "handler 'audit' is down")
        for log_id in ("", "some.log"):
            ask = GetCheckpointRequest(log_id=log_id)
            assert_unavailable(lambda ask=ask: client.audit.GetCheckpoint(ask), "handler 'audit' is down")
        assert_unavailable(lambda: client.audit.ListAuditEvents(ListAuditEventsRequest()), "is down")
        client.assert_ready(False)
        (tmp_path / "logs").unlink()
        client.wait_until("handler/audit", serving=True)
        assert client.event() == 0
        client.assert_ready(True)


def can_mount() -> bool:
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason="this machine permits no mount namespace (unshare --mount)")
@pytest.mark.parametrize(("folder", "name"), [("logs", "audit"), ("jobs", "jobs")])
def test_a_disk_that_is_full_at_the_start(tmp_path: Path, folder: str, name: str) -> None:
    """The handler comes up when there is room."""
    (tmp_path / folder).mkdir()
    (tmp_path / "emitd.yml").write_text(CONFIG)
    fill = (
        f"mount -t tmpfs -o size=512k tmpfs {folder} && head -c 1M /dev/zero > {folder}/filler 2> /dev/null"
    )
    command = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'{fill}; exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "emitd_cli",
    )
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml", command=command) as server:
        server.wait_until_up()
        with client_of(server) as client:
            emit = client.event if name == "audit" else client.job
            assert_unavailable(emit, f"handler '{name}' is down")
            client.line()
            client.assert_ready(False)
            Path(f"/proc/{server.pid}/root{tmp_path}/{folder}/filler").unlink()
            client.wait_until("", serving=True)
            emit()
        server.terminate()
        assert server.wait() == 0


def test_a_rolling_update_waits_for_the_lock(tmp_path: Path) -> None:
    """The second server on the same files is there at once, not ready, and takes over when the first stops."""
    with serving(CONFIG, tmp_path) as (first, one):
        assert one.event() == 0
        with serving(CONFIG, tmp_path) as (second, two):
            two.assert_ready(False)
            assert_unavailable(two.event, "in use by another process")
            one.assert_ready(True)
            assert one.event() == 1
            first.terminate()
            first.wait()
            two.wait_until("", serving=True)
            assert two.event() == 2
            assert second.stderr.count("is down") == 1
            assert "is signed as" in second.stderr


def test_a_lock_that_another_program_holds(tmp_path: Path) -> None:
    """It is the same state, whatever holds it."""
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs" / "audit.json.log").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with serving(CONFIG, tmp_path) as (_, client):
            assert_unavailable(client.event, "in use by another process")
            fcntl.flock(file, fcntl.LOCK_UN)
            client.wait_until("", serving=True)
            assert client.event() == 0


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that is not started."""
    with tempfile.TemporaryDirectory() as folder:
        server = PostgresServer(Path(folder))
        yield server
        server.stop()


def test_postgres_that_comes_later(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """It is not required by default: without it, and after its end, the service stays ready."""
    config = CONFIG.replace("sqlite:///jobs/jobs.db", own_postgres.dsn())
    with serving(config, tmp_path) as (_, client):
        assert client.event() == 0
        assert not client.serves("handler/jobs")
        client.assert_ready(True)
        assert_unavailable(client.job, "handler 'jobs' is down", "check that the server runs")
        assert_unavailable(lambda: client.log.GetJob(GetJobRequest(job_id="j1")), "handler 'jobs' is down")
        own_postgres.start()
        client.wait_until("handler/jobs", serving=True)
        client.job()


def test_postgres_that_is_required(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """`required: true` makes the service wait for it."""
    entry = f'"{own_postgres.dsn()}", required: true'
    with serving(CONFIG.replace('"sqlite:///jobs/jobs.db"', entry), tmp_path) as (_, client):
        client.assert_ready(False)
        own_postgres.start()
        client.wait_until("", serving=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("Raises", "KeyError: 'no such thing'"), ("Half", "RuntimeError: half way")],
)
def test_a_handler_of_others_that_raises(tmp_path: Path, name: str, reason: str) -> None:
    """Whatever `start` raises, also after it has opened something: it is stopped, and tried again."""
    (tmp_path / "odd.py").write_text(ODD_HANDLERS)
    entry = f"  odd: {{type: odd.{name}, levels: [DEBUG]}}\n"
    with serving(CONFIG + entry, tmp_path) as (_, client):
        client.line()
        client.assert_ready(True)
        assert not client.serves("handler/odd")
        assert_unavailable(lambda: client.line(LEVEL_DEBUG), reason)
        (tmp_path / "mended").touch()
        client.wait_until("handler/odd", serving=True)
        client.line(LEVEL_DEBUG)


def test_handlers_that_never_start(tmp_path: Path) -> None:
    """One hangs in `start`, one raises SystemExit: the others run, and SIGTERM ends the service in order."""
    (tmp_path / "odd.py").write_text(ODD_HANDLERS)
    entries = (
        "  hangs: {type: odd.Hangs, levels: [DEBUG]}\n  exits: {type: odd.Exits, levels: [ERROR]}\n"
        "  queued: {type: odd.Hangs, levels: [WARNING], delivery: queued}\n"
    )
    with serving(CONFIG + entries, tmp_path) as (server, client):
        assert client.event() == 0
        client.line(LEVEL_WARNING)  # waits in the queue
        client.assert_ready(True)
        assert_unavailable(lambda: client.line(LEVEL_DEBUG), "it is still starting")
        assert_unavailable(lambda: client.line(LEVEL_ERROR), "SystemExit: 7")
        assert "handler 'hangs' has not started in 5 s" in server.stderr


def test_a_handler_that_asks_for_a_restart(tmp_path: Path) -> None:
    """It is down at once, and up again soon."""
    (tmp_path / "odd.py").write_text(ODD_HANDLERS)
    entry = "  odd: {type: odd.Restarts, levels: [DEBUG], required: true}\n"
    with serving(CONFIG + entry, tmp_path) as (server, client):
        client.line(LEVEL_DEBUG, "down")
        assert_unavailable(lambda: client.line(LEVEL_DEBUG), "the file has another owner")
        client.assert_ready(False)
        client.wait_until("", serving=True)
        client.line(LEVEL_DEBUG)
        assert "handler 'odd' is up" in server.stderr


def test_a_database_that_is_locked_for_too_long(tmp_path: Path) -> None:
    """NOT_SERVING while the reports time out, SERVING when they are taken."""
    config = CONFIG.replace('jobs.db"', 'jobs.db", delivery: {kind: committed, timeout_seconds: 1}')
    with serving(config, tmp_path) as (_, client):
        client.job()
        with sqlite3.connect(tmp_path / "jobs" / "jobs.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(grpc.RpcError) as caught:
                client.job()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            client.wait_until("handler/jobs", serving=False)
            assert not client.serves("")
            other.execute("ROLLBACK")
        client.wait_until("handler/jobs", serving=True)
        client.wait_until("", serving=True)


def test_a_handler_of_others_that_fails(tmp_path: Path) -> None:
    """Its outcomes decide: NOT_SERVING after a failure, SERVING after the next success."""
    (tmp_path / "odd.py").write_text(ODD_HANDLERS)
    with serving(CONFIG + "  odd: {type: odd.Odd, levels: [DEBUG]}\n", tmp_path) as (_, client):
        assert client.serves("handler/odd")
        assert_unavailable(lambda: client.line(LEVEL_DEBUG, "down"), "the cable is out")
        client.wait_until("handler/odd", serving=False)
        client.line(LEVEL_DEBUG)
        client.wait_until("handler/odd", serving=True)


class Receiver(BaseHTTPRequestHandler):
    """Takes what a webhook posts."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_webhook_whose_receiver_is_away(tmp_path: Path) -> None:
    """NOT_SERVING until the receiver answers again; then what waited is delivered."""
    probe = HTTPServer(("127.0.0.1", 0), Receiver)
    address = probe.server_address
    probe.server_close()
    entry = f"  hook: {{type: webhook, levels: [DEBUG], url: 'http://127.0.0.1:{address[1]}/'}}\n"
    with serving(CONFIG + entry, tmp_path) as (_, client):
        client.line(LEVEL_DEBUG)
        client.wait_until("handler/hook", serving=False)
        client.assert_ready(True)
        with HTTPServer(("127.0.0.1", address[1]), Receiver) as receiver:
            threading.Thread(target=receiver.serve_forever, daemon=True).start()
            client.wait_until("handler/hook", serving=True)
            receiver.shutdown()


def test_a_queue_that_sheds(tmp_path: Path) -> None:
    """A record that finds the queue of a handler full shows in the handler's health."""
    (tmp_path / "odd.py").write_text(ODD_HANDLERS)
    entry = (
        "  odd: {type: odd.Slow, levels: [DEBUG], delivery: {kind: queued, max_records: 3, batch_size: 1}}\n"
    )
    with serving(CONFIG + entry, tmp_path) as (server, client):
        for _ in range(10):
            client.line(LEVEL_DEBUG)
        client.wait_until("handler/odd", serving=False)
        client.assert_ready(True)
        assert "handler 'odd' dropped" in server.stderr
        client.wait_until("handler/odd", serving=True)


def test_signals_while_a_handler_is_down(tmp_path: Path) -> None:
    """SIGTERM ends the tries at once."""
    (tmp_path / "logs").write_text("")
    with ServerProcess.start(CONFIG, tmp_path) as server:
        time.sleep(1.2)
        begin = time.monotonic()
        server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - begin < 8
