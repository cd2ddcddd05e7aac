"""Listening: all addresses or none, one line with the reason, and a socket that only its owner can use."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from emitd.v1 import LEVEL_INFO, EmitRequest, LogRecord, LogServiceStub
from support.processes.server_process import ServerProcess

CONFIG = "server: {%s}\nhandlers: {console: {type: console}}\n"


def refused(folder: Path, *arguments: str, config: str = "", listen: str = "") -> tuple[int, list[str]]:
    """Run a server that cannot start; return its exit code and its lines after the first."""
    (folder / "emitd.yml").write_text(CONFIG % config)
    done = subprocess.run(
        [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml", *arguments],
        cwd=folder,
        env={**os.environ, "EMITD_LISTEN": listen},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, [line for line in done.stderr.splitlines() if "runs on" not in line]


def test_a_half_taken_localhost_is_refused(tmp_path: Path) -> None:
    """Clients that try the other address first would reach another server."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, lines = refused(tmp_path, "--listen", f"localhost:{port}")
    assert code == 5
    assert lines == [
        f"emitd could not start: cannot listen on localhost:{port} (--listen): 127.0.0.1:{port}: "
        "the address is in use; stop the other server, or choose another address"
    ]


def test_the_error_names_the_setting(tmp_path: Path) -> None:
    """The flag, the variable or the key that had the address."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        reason = "the address is in use; stop the other server, or choose another address"
        for given, key in (
            (refused(tmp_path, "--listen", taken), "--listen"),
            (refused(tmp_path, listen=taken), "EMITD_LISTEN"),
            (refused(tmp_path, config=f"listen: '{taken}'"), "server.listen"),
            (refused(tmp_path, config=f"listen: ['127.0.0.1:0', '{taken}']"), "server.listen[1]"),
        ):
            assert given == (5, [f"emitd could not start: cannot listen on {taken} ({key}): {reason}"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("listen: '127.0.0.1:65536'", "server.listen: found '127.0.0.1:65536', which has the port '65536'"),
        ("listen: '127.0.0.1'", "server.listen: found '127.0.0.1', which has no port"),
        (
            "socket_mode: 0660",
            "server.socket_mode: found 0660; expected a finite number in decimal digits, or",
        ),
        ("socket_mode: '0999'", "server.socket_mode: found '0999'"),
    ],
)
def test_a_wrong_setting_is_a_configuration_error(tmp_path: Path, config: str, expected: str) -> None:
    """Exit code 3, with the key."""
    code, lines = refused(tmp_path, config=config)
    assert code == 3
    assert expected in lines[0]


@pytest.mark.parametrize(("setting", "mode"), [("", 0o600), (", socket_mode: '0660'", 0o660)])
def test_a_socket_is_its_owners(tmp_path: Path, setting: str, mode: int) -> None:
    """Or its group's, if the setting says so; whatever the umask is."""
    before = os.umask(0)
    try:
        server = ServerProcess.start(CONFIG % f"listen: 'unix:s'{setting}", tmp_path)
    finally:
        os.umask(before)
    with server:
        assert (tmp_path / "s").stat().st_mode & 0o777 == mode
        with grpc.insecure_channel(server.address) as channel:
            LogServiceStub(channel).Emit(EmitRequest(record=LogRecord(level=LEVEL_INFO, message="x")))
