"""Requests that would become large, and lines nobody reads, against the real process: it stays small and answers."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.access.known_peer import GuardedServer, connect
from support.processes.server_process import ServerProcess

#: Real processes that wait for clocks, signals and retries.
pytestmark = pytest.mark.slow

MIB = 1 << 20
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
#: A server that has done nothing has about 60 MB.
MOST_MB = 160


@pytest.fixture(scope="module", params=["open", "token"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that asks nobody, or one whose peers have a valid token: the verdicts are the same."""
    start = ServerProcess.start if request.param == "open" else GuardedServer.guarded
    with start(CONFIG, tmp_path_factory.mktemp("memory")) as server:
        yield server


def peak_mb(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) // 1000


def field(tag: int, content: bytes) -> bytes:
    length, parts = len(content), bytearray((tag,))
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(parts) + bytes((length,)) + content


def refusal(server: ServerProcess, method: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    with connect(server) as channel:
        call = channel.unary_unary(f"/emitd.v1.{method}", None, None)
        with pytest.raises(grpc.RpcError) as caught:
            call(data, compression=grpc.Compression.Gzip, timeout=30)
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error.code(), error.details()


LABELS = b"".join(field(0x32, field(0x0A, b"%05x" % number)) for number in range(200_000))
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
ATTACKS = {
    "8 Mi empty records": ("LogService/EmitBatch", b"\x0a\x00" * (8 * MIB), EXHAUSTED, "larger than max"),
    "2 Mi empty records": (
        "LogService/EmitBatch",
        b"\x0a\x00" * (2 * MIB),
        INVALID,
        "records: has more than 10000",
    ),
    "labels": (
        "LogService/EmitBatch",
        field(0x0A, field(0x5A, LABELS)),
        INVALID,
        "records[0].job.labels: has more",
    ),
    "payloads": (
        "LogService/Emit",
        field(0x0A, b"\x52\x00\x5a\x00" * (MIB - 99)),
        INVALID,
        "more than 262144 fields",
    ),
    "ids": ("LogService/ListJobs", b"\x32\x00" * (MIB // 8), INVALID, "job_ids: has more than 1000"),
    "numbers": (
        "LogService/ListJobs",
        field(0x12, b"\x01" * 200_000),
        INVALID,
        "statuses: has more than 1000",
    ),
    "a large question": ("LogService/ListJobs", b"\x32\x00" * (2 * MIB), INVALID, "more than 262144"),
    "groups": ("AuditService/GetCheckpoint", b"\x13\x14" * 1000, INVALID, "groups are not taken"),
    "cut": ("AuditService/ListAuditEvents", b"\x0a\x7fx", INVALID, "does not parse"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_request_that_would_become_large_is_refused_before_it_does(
    server: ServerProcess, attack: str
) -> None:
    """The error names the field and the limit, and the server has not grown."""
    method, data, code, words = ATTACKS[attack]
    assert refusal(server, method, data)[0] is code
    assert words in refusal(server, method, data)[1]
    assert peak_mb(server.pid) < MOST_MB


def test_calls_without_a_request_hold_nobody_up(server: ServerProcess) -> None:
    """They end with a reason once others wait; an honest call meanwhile takes its turn."""
    with connect(server) as channel:
        stop = threading.Event()

        def never() -> Iterator[bytes]:
            stop.wait(30)
            yield from ()

        call = channel.stream_unary("/emitd.v1.LogService/Emit")
        stalled = [call.future(never(), timeout=30) for _ in range(20)]
        time.sleep(0.3)
        begin = time.monotonic()
        get = channel.unary_unary("/emitd.v1.LogService/GetJob")
        with pytest.raises(grpc.RpcError) as caught:
            get(b"\x0a\x01x", timeout=30)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert time.monotonic() - begin < 9
        assert {one.code() for one in stalled[:4]} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        stop.set()
        for one in stalled:
            one.cancel()


def test_a_second_request_in_one_call_is_refused(server: ServerProcess) -> None:
    """Nothing of either is taken."""
    line = field(0x0A, b"\x18\x14\x22\x05twice")
    with connect(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary("/emitd.v1.LogService/Emit")(iter([line, line]), timeout=30)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is INVALID
        assert "exactly one request" in caught.value.details()


def test_lines_for_a_console_that_nobody_reads_stay_within_the_account(tmp_path: Path) -> None:
    """Ten times `memory_bytes` of log lines: they are dropped and refused, and audit events still get through."""
    (tmp_path / "c.yml").write_text(
        CONFIG.replace('0"}', '0", limits: {memory_bytes: 50000000}}', 1).replace(
            "console}", "console, delivery: {kind: queued, max_bytes: 1000000000}}"
        )
    )
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "emitd_cli", "serve", "--config", "c.yml"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while "listening on" not in said:
            said = process.stderr.readline()
        batch = field(0x0A, b"\x18\x14" + field(0x22, b"x" * 200_000)) * 20
        with grpc.insecure_channel(said.split()[-1]) as channel:
            emit = channel.unary_unary("/emitd.v1.LogService/EmitBatch")
            replies = [emit(batch, timeout=30) for _ in range(125)]
            assert b"server.limits.memory_bytes is 50000000" in replies[-1]
            event = field(
                0x52, field(0x12, b"a") + field(0x1A, b"u") + field(0x22, b"::1") + field(0x2A, b"{}")
            )
            channel.unary_unary("/emitd.v1.LogService/Emit")(field(0x0A, event), timeout=30)
        assert peak_mb(process.pid) < 60 + 50 + 80
    finally:
        process.kill()
        process.communicate()
        os.close(reader)
        os.close(writer)
