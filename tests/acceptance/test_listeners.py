"""Listeners of the real process: lines, exit codes, TLS from `emitd tls dev`, rotation, and an orderly stop."""

import os
import ssl
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from emitd.v1 import LEVEL_INFO, EmitRequest, LogRecord, LogServiceStub
from support.access.authority import Authority, TlsFiles, subject
from support.processes.server_process import ServerProcess

pytestmark = pytest.mark.slow

HANDLERS = "handlers: {d: {type: discard}}\n"
REQUEST = EmitRequest(record=LogRecord(level=LEVEL_INFO, message="x"))


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "emitd_cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lines_of(server: ServerProcess, count: int) -> list[str]:
    """The lines after the first, when there are this many."""
    give_up_at = time.monotonic() + 10
    while len(lines := server.stderr.splitlines()[1:]) < count and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return lines


def test_each_listener_has_its_line(tmp_path: Path) -> None:
    """In the order of the file; SIGTERM ends all, and removes the sockets."""
    listen = "server: {listen: ['127.0.0.1:0', 'unix:b.sock', 'unix:a.sock', 'localhost:0']}\n"
    with ServerProcess.start(listen + HANDLERS, tmp_path) as server:
        lines = lines_of(server, 4)
        addresses = [line.removeprefix("emitd listening on ") for line in lines]
        assert addresses[1:3] == [f"unix:{tmp_path}/b.sock", f"unix:{tmp_path}/a.sock"]
        assert addresses[0].startswith("127.0.0.1:")
        assert addresses[3].startswith("localhost:")
        for address in addresses:
            with grpc.insecure_channel(address) as channel:
                LogServiceStub(channel).Emit(REQUEST, timeout=10)
        server.terminate()
        assert server.wait() == 0
    assert list(tmp_path.glob("*.sock")) == []


def test_an_open_listener_ends_the_start(tmp_path: Path) -> None:
    """Exit code 3, with the line and the path of the entry; `check-config` says the same."""
    (tmp_path / "emitd.yml").write_text(
        HANDLERS + "server:\n  listen:\n    - 127.0.0.1:0\n    - address: 0.0.0.0:0\n      identity: token\n"
        "  access: {tokens_file: tokens.yml}\n"
    )
    done = run(tmp_path, "serve", "--config", "emitd.yml")
    problem = (
        "emitd.yml:5: server.listen[1].address: found '0.0.0.0:0', which is beyond loopback and has no TLS; "
    )
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"emitd configuration: {problem}expected this entry under server.listen: ")
    checked = run(tmp_path, "check-config", "emitd.yml")
    assert checked.returncode == 1
    assert checked.stdout.startswith(problem)
    assert run(tmp_path, "serve", "--listen", "0.0.0.0:0").returncode == 3


def test_a_name_beyond_loopback_ends_the_start(tmp_path: Path) -> None:
    """What it stands for is known only then; nothing is opened, and the exit code is that of a bad configuration."""
    script = (
        "import socket, sys\n"
        "from emitd_cli.main import main\n"
        "socket.getaddrinfo = lambda *_, **more: [(socket.AF_INET, 1, 6, '', ('192.0.2.1', 0))]\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "c.yml").write_text(
        "server: {loop: asyncio}\n" + HANDLERS
    )  # uvloop asks no `socket.getaddrinfo`
    arguments = ("serve", "--config", "c.yml", "--listen", "emitd.example:0")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "emitd configuration: --listen: 'emitd.example:0' is beyond loopback and has no TLS and no identity; expected "
    )


def test_an_insecure_listener_is_reported(tmp_path: Path) -> None:
    """Before it listens."""
    listen = "server: {listen: [{address: '0.0.0.0:0', insecure: true}]}\n"
    with ServerProcess.start(listen + HANDLERS, tmp_path) as server:
        lines = lines_of(server, 2)
    assert lines[0] == (
        "emitd 0.0.0.0:0 (server.listen[0]) is beyond loopback and has no TLS and no identity: insecure, "
        "open to everyone who can reach it"
    )
    assert lines[1].startswith("emitd listening on 0.0.0.0:")


def test_tls_dev_from_end_to_end(tmp_path: Path) -> None:
    """The printed configuration serves who has the client's certificate, and nobody else."""
    printed = run(tmp_path, "tls", "dev", "certs").stdout.replace(":50051", ":0")
    certs = {path.name: path.read_bytes() for path in (tmp_path / "certs").iterdir()}
    with ServerProcess.start(printed + HANDLERS, tmp_path) as server:
        for credentials, expected in (
            (
                grpc.ssl_channel_credentials(certs["ca.pem"], certs["client.key"], certs["client.pem"]),
                grpc.StatusCode.OK,
            ),
            (grpc.ssl_channel_credentials(certs["ca.pem"]), grpc.StatusCode.UNAVAILABLE),
        ):
            with grpc.secure_channel(server.address, credentials) as channel:
                call = LogServiceStub(channel).Emit.future(REQUEST, timeout=10)
                assert call.code() is expected
        server.terminate()
        assert server.wait() == 0
        assert "PRIVATE" not in server.stderr


def test_a_certificate_is_rotated_while_it_runs(tmp_path: Path) -> None:
    """Within a few seconds, by links as Kubernetes swaps them; a bad pair ends the next start with code 5."""
    authority = Authority()
    for version in ("old", "new"):
        (tmp_path / version).mkdir()
        TlsFiles(tmp_path / version).write(authority.issue(version))
    (tmp_path / "..data").symlink_to("old")
    entry = "{address: '127.0.0.1:0', tls: {cert_file: ..data/server.pem, key_file: ..data/server.key}}"
    with ServerProcess.start(f"server: {{listen: [{entry}]}}\n" + HANDLERS, tmp_path) as server:
        host, _, port = server.address.rpartition(":")
        assert subject(ssl.get_server_certificate((host, int(port)), timeout=10)) == "old"
        (tmp_path / "next").symlink_to("new")
        os.replace(tmp_path / "next", tmp_path / "..data")
        give_up_at = time.monotonic() + 10
        while subject(ssl.get_server_certificate((host, int(port)), timeout=10)) != "new":
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
    (tmp_path / "new/server.key").write_text("hush")
    done = run(tmp_path, "serve", "--config", "emitd.yml")
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1] == (
        "emitd could not start: cannot listen on 127.0.0.1:0 (server.listen[0]): tls.key_file "
        f"'{tmp_path}/..data/server.key' holds no private key in PEM, without a passphrase, of RSA, "
        "P-256 or P-384"
    )
