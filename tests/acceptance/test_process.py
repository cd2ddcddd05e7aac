"""The life of the process: up, watched, stopped, and what it says when it cannot start."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from emitd.v1 import (
    JOB_STATE_RUNNING,
    LEVEL_INFO,
    AuditEvent,
    EmitBatchRequest,
    EmitRequest,
    JobStatus,
    LogRecord,
    LogServiceStub,
    WatchJobRequest,
)
from support.processes.server_process import ServerProcess

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: logs/audit.json.log}
  jobs: {type: database_job, database: "sqlite:///logs/jobs.db"}
"""
SLOW_HANDLER = """
import time
from pathlib import Path
from emitd_handlers import BaseLogHandler, Delivery

class Slow(BaseLogHandler):
    default_delivery = Delivery.COMMITTED
    def emit(self, record):
        Path("began").touch()
        time.sleep(float(record.message))

class Hog(BaseLogHandler):
    async def emit(self, record):
        time.sleep(1.2)
"""
LOOP_HANDLER = """
import asyncio
from emitd_handlers import BaseLogHandler
from emitd_handlers.diagnostics import report

class Says(BaseLogHandler):
    async def start(self):
        report(f"runs on {type(asyncio.get_running_loop()).__module__.partition('.')[0]}")
    def emit(self, record):
        pass
"""


def log_line(message: str) -> EmitRequest:
    return EmitRequest(record=LogRecord(level=LEVEL_INFO, message=message))


def run(folder: Path, config: str) -> tuple[int, str]:
    """Run a server that cannot start; return its exit code and what it said."""
    (folder / "emitd.yml").write_text(config)
    done = subprocess.run(
        [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def test_it_serves_health_and_reflection(tmp_path: Path) -> None:
    """grpc.health.v1 knows the server, the service and each handler; reflection describes the contract."""
    with ServerProcess.start(CONFIG, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "emitd.v1.LogService", "handler/audit"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING, name
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="emitd.v1.LogService"),
        ]
        services, described = reflection.ServerReflectionInfo(iter(requests))
        assert "emitd.v1.LogService" in [s.name for s in services.list_services_response.service]
        file = descriptor_pb2.FileDescriptorProto.FromString(
            described.file_descriptor_response.file_descriptor_proto[0]
        )
        assert "WatchJob" in [method.name for method in file.service[0].method]


@pytest.mark.usefixtures("each_loop")
def test_sigterm_stops_in_order_with_watchers_connected(tmp_path: Path) -> None:
    """Idle watchers of jobs and of health are ended with UNAVAILABLE, and the process does not wait for them."""
    server = ServerProcess.start(CONFIG, tmp_path)
    with server, grpc.insecure_channel(server.address) as channel:
        stub = LogServiceStub(channel)
        report = JobStatus(job_id="j1", job_type="t", status=JOB_STATE_RUNNING)
        stub.Emit(EmitRequest(record=LogRecord(job=report)))
        watches = [stub.WatchJob(WatchJobRequest(job_id="j1")) for _ in range(5)]
        for watch in watches:
            assert next(watch).job.job_id == "j1"
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        stub.Emit(log_line("last words"))
        begin = time.monotonic()
        server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - begin < 8  # it would wait for `drain_seconds`, which are 10
        for watch in (*watches, health):
            with pytest.raises(grpc.RpcError) as caught:
                list(watch)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "last words" in (tmp_path / "stdout").read_text()


def test_health_says_not_serving_before_the_end(tmp_path: Path) -> None:
    """With `not_serving_seconds` a load balancer has time to turn away, and calls still work meanwhile."""
    config = CONFIG.replace('"127.0.0.1:0"', '"127.0.0.1:0", shutdown: {not_serving_seconds: 1}')
    with ServerProcess.start(config, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        server.terminate()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        LogServiceStub(channel).Emit(log_line("still there"))
        assert server.wait() == 0
    assert "still there" in (tmp_path / "stdout").read_text()


def handlers_of(folder: Path, entry: str, server: str = "") -> str:
    (folder / "mine").mkdir()
    (folder / "mine" / "slow.py").write_text(SLOW_HANDLER)
    head = f"server: {{listen: '127.0.0.1:0'{server}}}\nhandler_paths: [mine]\n"
    return f"{head}handlers:\n  slow: {entry}\n"


def begin_slow_call(server: ServerProcess, folder: Path, channel: grpc.Channel, seconds: str) -> grpc.Future:
    """Call the slow handler, and return once it is at it."""
    call = LogServiceStub(channel).Emit.future(log_line(seconds))
    deadline = time.monotonic() + 20
    while not (folder / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (folder / "began").exists(), server.stderr
    return call


def test_calls_under_way_are_drained(tmp_path: Path) -> None:
    """Calls that SIGTERM finds under way get their answers: an Emit, and a batch, whose reply is a stream."""
    config = handlers_of(tmp_path, "{type: slow.Slow}")
    with ServerProcess.start(config, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        call = begin_slow_call(server, tmp_path, channel, "0.8")
        request = EmitBatchRequest(records=[log_line("0.1").record], want_receipts=True)
        batch = LogServiceStub(channel).EmitBatch.future(request)
        time.sleep(0.2)  # it waits for the handler's thread
        server.terminate()
        assert call.result().receipt.handlers[0].handler == "slow"
        assert batch.result().receipts[0].handlers[0].handler == "slow"
        assert server.wait() == 0


@pytest.mark.usefixtures("each_loop")
def test_what_does_not_end_is_abandoned_and_said(tmp_path: Path) -> None:
    """A `def` that blocks its thread does not hold the process beyond the drain deadline."""
    config = handlers_of(tmp_path, "{type: slow.Slow}", ", shutdown: {drain_seconds: 0.5}")
    with ServerProcess.start(config, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        call = begin_slow_call(server, tmp_path, channel, "60")
        begin = time.monotonic()
        server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - begin < 5
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    assert "handler 'slow' did not finish in time: 1 records were left" in server.stderr


@pytest.mark.usefixtures("each_loop")
def test_a_handler_that_blocks_the_loop_is_named(tmp_path: Path) -> None:
    """The watchdog says on standard error which function held up everyone."""
    config = handlers_of(tmp_path, "{type: slow.Hog}")
    with ServerProcess.start(config, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        LogServiceStub(channel).Emit(log_line("x"))
        deadline = time.monotonic() + 10
        while "event loop blocked" not in server.stderr and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "event loop blocked" in server.stderr
        assert "slow.py" in server.stderr


def test_a_busy_port_is_an_error(tmp_path: Path) -> None:
    """A second server on the same address does not start: one line, exit code 5."""
    with ServerProcess.start(CONFIG, tmp_path) as server:
        (tmp_path / "second").mkdir()
        code, said = run(tmp_path / "second", CONFIG.replace("127.0.0.1:0", server.address))
    assert code == 5
    assert f"could not start: cannot listen on {server.address}" in said
    assert "Traceback" not in said


def test_bad_configuration_is_told_whole(tmp_path: Path) -> None:
    """Exit code 3, every problem on a line of its own."""
    code, said = run(tmp_path, "servr: 1\nhandlers: {a: {type: nothing}}\n")
    assert code == 3
    assert "emitd.yml:1: servr" in said
    assert "emitd.yml:2: handlers.a.type" in said


def test_without_a_file_it_runs_on_its_defaults(tmp_path: Path) -> None:
    """And it says so; its files appear under the working directory, for their owner only."""
    server = ServerProcess.launch(tmp_path, environ={"EMITD_LISTEN": "127.0.0.1:0"})
    with server:
        server.wait_until_up()
        assert "built-in defaults" in server.stderr
        with grpc.insecure_channel(server.address) as channel:
            event = AuditEvent(event_name="n", user_id="u", source_ip="::1", details_json="{}")
            LogServiceStub(channel).Emit(EmitRequest(record=LogRecord(audit=event)))
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "logs" / "audit.json.log").stat().st_mode & 0o777 == 0o600


def test_a_reader_of_standard_output_that_leaves_does_not_stop_the_service(tmp_path: Path) -> None:
    """`emitd serve | head -1`: the service goes on, and says that nobody reads any more."""
    (tmp_path / "emitd.yml").write_text(CONFIG)
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"],
        cwd=tmp_path,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    assert process.stderr is not None
    address = ""
    while not address:
        line = process.stderr.readline()
        assert line, "the server ended"
        address = line.partition("listening on ")[2].strip()
    with grpc.insecure_channel(address) as channel:
        stub = LogServiceStub(channel)
        stub.Emit(log_line("first"))
        assert b"first" in os.read(read_end, 1000)
        os.close(read_end)
        for number in range(50):
            stub.Emit(log_line(str(number)))
            time.sleep(0.005)
        reply = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="handler/console")
        )
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
        event = AuditEvent(event_name="n", user_id="u", source_ip="::1", details_json="{}")
        assert stub.Emit(EmitRequest(record=LogRecord(audit=event))).receipt.audit.leaf_index == 0
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "console" in said


def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    """`unix:PATH` is an address like any other."""
    path = tmp_path / "s"
    config = CONFIG.replace('"127.0.0.1:0"', f'"unix:{path}"')
    with ServerProcess.start(config, tmp_path) as server:
        assert server.address == f"unix:{path}"
        with grpc.insecure_channel(server.address) as channel:
            LogServiceStub(channel).Emit(log_line("over a socket"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_the_loop_is_the_one_that_is_set(tmp_path: Path, each_loop: str) -> None:
    """Auto takes uvloop if it is installed; to ask for it without it is an error that names the extra."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.py").write_text(LOOP_HANDLER)
    for loop in ("auto", "asyncio", "uvloop"):
        config = f"server: {{listen: '127.0.0.1:0', loop: {loop}}}\nhandler_paths: [mine]\n"
        config += "handlers: {a: {type: mine.Says}}\n"
        if loop == each_loop or loop != "uvloop":
            with ServerProcess.start(config, tmp_path) as server:
                expected = "asyncio" if loop == "asyncio" else each_loop
                assert f"runs on {expected}" in server.stderr
        else:
            found = "emitd.yml:1: server.loop: found 'uvloop', which is not installed; expected emitd[uvloop]"
            code, stderr = run(tmp_path, config)
            assert code == 3
            assert found in stderr
