"""A full disk under the audit log of a real process: nothing acknowledged is lost, and service resumes by itself."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd.v1 import AuditEvent, EmitRequest, LogRecord, LogServiceStub
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from support.processes.server_process import ServerProcess

pytestmark = pytest.mark.slow

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers: {audit: {type: json_audit, path: small/audit.json.log}}
"""
#: The tmpfs, in kilobytes, and a limit on the size of a file, in bytes.
TMPFS_KB = 512
LIMIT_BYTES = 20_000
WAIT_SECONDS = 20.0


class Client:
    """Emits events to a server, and knows which were acknowledged."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = LogServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self.acknowledged: list[str] = []

    def emit(self, record_id: str, size: int = 10) -> grpc.StatusCode | None:
        """Return None once the event is acknowledged, else why it was refused."""
        details = json.dumps({"padding": "x" * size})
        event = AuditEvent(event_name="n", user_id="u", source_ip="unknown", details_json=details)
        record = LogRecord(record_id=record_id, time_unix_nano=1, audit=event)
        try:
            self._stub.Emit(EmitRequest(record=record), timeout=WAIT_SECONDS)
        except grpc.RpcError as error:
            return error.code()
        self.acknowledged.append(record_id)
        return None

    def wait_until(self, *, serving: bool) -> None:
        """Return when the health service says so of the audit log."""
        statuses = health_pb2.HealthCheckResponse
        wanted = statuses.SERVING if serving else statuses.NOT_SERVING
        deadline = time.monotonic() + WAIT_SECONDS
        while self._health.Check(health_pb2.HealthCheckRequest(service="handler/audit")).status != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def wait_until_signed(log: Path, count: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while f"\n{count}\n".encode() not in log.with_name(f"{log.name}.checkpoints").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_full(
    server: ServerProcess, log: Path, fill: Callable[[], object], free: Callable[[], object]
) -> None:
    """Emit before, while and after there is no room; then hold the log against what was acknowledged."""
    server.wait_until_up()
    with grpc.insecure_channel(server.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        client = Client(channel)
        for number in range(5):
            assert client.emit(f"r-{number}") is None
        wait_until_signed(log, 5)
        whole = log.read_bytes()
        fill()
        for _ in range(3):
            assert client.emit("large", 60_000) is grpc.StatusCode.UNAVAILABLE
            assert log.read_bytes() == whole, "part of a line was left"
        client.wait_until(serving=False)
        assert "cannot be written" in server.stderr
        free()
        client.wait_until(serving=True)
        for number in (4, 5):
            assert client.emit(f"r-{number}") is None
        assert client.emit("large", 60_000) is None
        server.terminate()
        assert server.wait() == 0
    assert "can be written again" in server.stderr


def check(log: Path) -> None:
    record_ids = [json.loads(line)["record_id"] for line in log.read_bytes().splitlines()]
    assert record_ids == [*(f"r-{number}" for number in range(6)), "large"]
    assert verify_log(log).verdict is Verdict.GOOD


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """Where a file may not grow any more."""
    (tmp_path / "emitd.yml").write_text(CONFIG)
    script = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, resource.RLIM_INFINITY))\n"
        "from emitd_cli.main import main; sys.exit(main())"
    )
    command = (sys.executable, "-c", script)
    log = tmp_path / "small" / "audit.json.log"
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml", command=command) as server:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        run_full(
            server, log, lambda: None, lambda: resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
        )
    check(log)


def can_mount() -> bool:
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason="this machine permits no mount namespace (unshare --mount)")
def test_a_full_file_system(tmp_path: Path) -> None:
    """Where a small tmpfs, in a mount namespace of the server's own, is filled up."""
    (tmp_path / "emitd.yml").write_text(CONFIG)
    small = tmp_path / "small"
    small.mkdir()
    # After it has ended nothing of the tmpfs is left: the files are copied out before.
    script = f'mount -t tmpfs -o size={TMPFS_KB}k tmpfs small && "$@"; code=$?; cp -a small copy; exit $code'
    command = ("unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "emitd_cli")
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml", command=command) as server:
        server.wait_until_up()
        seen_by_it = Path(f"/proc/{server.pid}/root{small}")
        filler = seen_by_it / "filler"

        def fill() -> None:
            with filler.open("wb", buffering=0) as file:
                for _ in range(TMPFS_KB):
                    try:
                        file.write(bytes(1024))
                    except OSError:
                        return

        run_full(_Inner(server), seen_by_it / "audit.json.log", fill, filler.unlink)
    check(tmp_path / "copy" / "audit.json.log")


class _Inner(ServerProcess):
    """The server below the shell that mounted its file system: SIGTERM is for it."""

    def __init__(self, outer: ServerProcess) -> None:
        self.__dict__ = outer.__dict__

    def terminate(self) -> None:
        """Ask the server to end; the shell then ends by itself."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        subprocess.run(["kill", "-TERM", *children], check=True)
