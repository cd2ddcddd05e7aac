"""`dictConfig` again and again while records fly: it flushes and closes handlers within the lock of `logging`."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.processes.pythons import PYTHONS, environ_of, python_for
from support.processes.server_process import ServerProcess

PROGRAM = Path(__file__).parents[1] / "support" / "client" / "logging_lock.py"
CONFIG = (
    "server: {listen: '127.0.0.1:0'}\n"
    "handlers: {console: {type: console, levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL], attributes: false}}\n"
)
CLOSE_SECONDS = 3.0
#: No step may take as long as a client takes to close.
STEP_SECONDS = 2.0


@contextmanager
def server_up(folder: Path) -> Iterator[str]:
    with ServerProcess.start(CONFIG, folder) as server:
        yield server.address
        server.terminate()
        server.wait()


@contextmanager
def server_down(folder: Path) -> Iterator[str]:
    with socket.socket() as bound:  # nobody listens on it
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def server_hanging(folder: Path) -> Iterator[str]:
    with socket.socket() as listener:  # nobody answers
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def run(python: Path, address: str, folder: Path, quiet_seconds: float) -> tuple[dict[str, Any], str]:
    environ = environ_of(
        python,
        EMITD_SPOOL=str(folder / "spool"),
        EMITD_CLOSE_TIMEOUT=str(CLOSE_SECONDS),
        EMITD_REPORT_INTERVAL="3600",
    )
    command = [python, PROGRAM, address, "2", str(quiet_seconds)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    counted: dict[str, Any] = json.loads(done.stdout)
    counted["exit_seconds"] = time.time() - counted["ended"]
    return counted, done.stderr


@pytest.mark.parametrize(
    "version", [PYTHONS[0], *(pytest.param(version, marks=pytest.mark.slow) for version in PYTHONS[1:])]
)
def test_a_new_configuration_loses_no_record(tmp_path: Path, version: str) -> None:
    """With the server up, each record that came to a handler arrives, also by one that `dictConfig` closed and left."""
    with server_up(tmp_path) as address:
        counted, said = run(python_for(version), address, tmp_path, 0)
    arrived = (tmp_path / "stdout").read_text().count("line ")
    assert counted["configurations"] > 20
    assert arrived == counted["handled"], said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "version"),
    [(server_up, ""), (server_down, ""), *((server_hanging, version) for version in PYTHONS)],
)
def test_no_step_waits_for_the_server(tmp_path: Path, server: Any, version: str) -> None:
    """Neither `dictConfig` nor a log call takes as long as a close; clients of former handlers end by themselves."""
    with server(tmp_path) as address:
        counted, said = run(python_for(version), address, tmp_path, CLOSE_SECONDS + 4)
    assert counted["configurations"] > 20, said
    assert counted["log"] < STEP_SECONDS
    assert counted["configure"] < STEP_SECONDS
    # The two clients in use: two or three senders each, and what watches over its end.
    assert counted["threads_later"] <= 8
    assert counted["exit_seconds"] < CLOSE_SECONDS + 3
