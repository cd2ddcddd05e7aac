"""One way to stop: every signal drains, only a later one forces, and what is left is always counted."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from emitd.v1 import LEVEL_INFO, EmitBatchRequest, EmitRequest, LogRecord, LogServiceStub
from support.processes.server_process import ServerProcess

#: Real processes that wait for clocks, signals and retries.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_loop")]

LINES = 100
HANDLERS = """
import asyncio
import time
from emitd_handlers import BaseLogHandler, Delivery

def write(record):
    with open("out", "a") as out:
        out.write(record.message + "\\n")

class Slow(BaseLogHandler):
    async def emit(self, record):
        await asyncio.sleep(0.01)
        write(record)

class Stuck(BaseLogHandler):
    async def emit(self, record):
        await asyncio.sleep(600)

class Commits(BaseLogHandler):
    default_delivery = Delivery.COMMITTED
    async def emit(self, record):
        open("began", "w").close()
        await asyncio.sleep(600)

class Hog(BaseLogHandler):
    async def emit(self, record):
        await asyncio.sleep(0.1)  # for the senders to get their reply
        time.sleep(600)

class Lingers(BaseLogHandler):
    async def emit(self, record):
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)

class NeverUp(Slow):
    async def start(self):
        open("starting", "w").close()
        await asyncio.sleep(600)
"""
#: What is close together: on a busy machine more may pass. `tests/unit/server/test_stop_signals.py` has the real times.
PATIENT = """
from emitd_server import process
process.ONE_REQUEST_SECONDS = process.ONE_PRESS_SECONDS = 10.0
"""


def serve(folder: Path, handler: str, drain_seconds: float = 30.0) -> ServerProcess:
    return ServerProcess.start(config_of(folder, handler, drain_seconds), folder)


def config_of(folder: Path, handler: str, drain_seconds: float = 30.0) -> str:
    (folder / "mine").mkdir()
    (folder / "mine" / "mine.py").write_text(HANDLERS)
    server = f"{{listen: '127.0.0.1:0', shutdown: {{drain_seconds: {drain_seconds}}}}}"
    return f"server: {server}\nhandler_paths: [mine]\nhandlers:\n  a: {{type: mine.{handler}}}\n"


def send_lines(server: ServerProcess) -> None:
    records = [LogRecord(level=LEVEL_INFO, message=str(number)) for number in range(LINES)]
    with grpc.insecure_channel(server.address) as channel:
        LogServiceStub(channel).EmitBatch(EmitBatchRequest(records=records))


def delivered(folder: Path) -> int:
    return len((folder / "out").read_text().splitlines()) if (folder / "out").exists() else 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for(server: ServerProcess, text: str) -> None:
    wait_until(lambda: text in server.stderr)


@pytest.mark.parametrize(
    "name",
    ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXCPU", "SIGRTMIN"],
)
def test_every_signal_drains(tmp_path: Path, name: str) -> None:
    """The process delivers what it accepted, says so, and exits 0."""
    with serve(tmp_path, "Slow") as server:
        send_lines(server)
        os.kill(server.pid, getattr(signal, name))
        assert server.wait() == 0
    assert delivered(tmp_path) == LINES
    assert "emitd stopping\nemitd stopped\n" in server.stderr


@pytest.mark.parametrize(
    "names", [["SIGTERM"] * 2, ["SIGINT"] * 2, ["SIGTERM", "SIGHUP", "SIGTERM", "SIGINT"]]
)
def test_signals_close_together_are_one(tmp_path: Path, names: list[str]) -> None:
    """A supervisor signals make and the service, and make passes the signal on: nothing is lost."""
    settings = config_of(tmp_path, "Slow")
    (tmp_path / "mine" / "mine.py").write_text(HANDLERS + PATIENT)
    with ServerProcess.start(settings, tmp_path) as server:
        send_lines(server)
        for name in names:
            os.kill(server.pid, getattr(signal, name))
            time.sleep(0.005)
        assert server.wait() == 0
    assert delivered(tmp_path) == LINES


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_the_group_of_make_is_signalled(tmp_path: Path, name: str) -> None:
    """As a terminal, systemd and supervisord do."""
    (tmp_path / "emitd.yml").write_text(config_of(tmp_path, "Slow"))
    (tmp_path / "Makefile").write_text(f"serve:\n\t{sys.executable} -m emitd_cli serve --config emitd.yml\n")
    make = subprocess.Popen(
        ["make", "serve"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    server = ServerProcess(make)
    try:
        server.wait_until_up()
        send_lines(server)
        os.killpg(make.pid, getattr(signal, name))
        server.wait()
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGKILL)
    assert delivered(tmp_path) == LINES
    assert "emitd stopped" in server.stderr


def test_sigpipe_and_a_hangup_under_nohup_do_not_stop(tmp_path: Path) -> None:
    """The service lives on, and stops in order later."""
    (tmp_path / "emitd.yml").write_text(config_of(tmp_path, "Slow"))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the child inherits it, as from nohup
    try:
        server = ServerProcess.launch(tmp_path, "--config", "emitd.yml")
    finally:
        signal.signal(signal.SIGHUP, before)
    with server:
        server.wait_until_up()
        for number in (signal.SIGHUP, signal.SIGPIPE):
            os.kill(server.pid, number)
        time.sleep(0.2)
        send_lines(server)
        server.terminate()
        assert server.wait() == 0
    assert delivered(tmp_path) == LINES


@pytest.mark.parametrize(("name", "pause"), [("SIGTERM", 2.0), ("SIGHUP", 2.0), ("SIGINT", 0.7)])
@pytest.mark.parametrize("handler", ["Stuck", "Hog"])
def test_a_second_signal_forces_and_counts(tmp_path: Path, name: str, pause: float, handler: str) -> None:
    """A second later, or at the second Ctrl-C; also while a handler blocks the event loop."""
    with serve(tmp_path, handler) as server:
        send_lines(server)
        time.sleep(0.2)
        os.kill(server.pid, getattr(signal, name))
        time.sleep(pause)
        os.kill(server.pid, getattr(signal, name))
        assert server.wait(15) == 5
    assert f"handler 'a' did not finish in time: {LINES} records were left" in server.stderr
    assert "ending at once" in server.stderr
    assert "Traceback" not in server.stderr


def test_a_forced_end_counts_commits_under_way(tmp_path: Path) -> None:
    """Their senders have no answer; the operator knows how many they were."""
    with serve(tmp_path, "Commits") as server, grpc.insecure_channel(server.address) as channel:
        record = LogRecord(level=LEVEL_INFO, message="x")
        call = LogServiceStub(channel).Emit.future(EmitRequest(record=record))
        wait_until((tmp_path / "began").exists)
        server.terminate()
        wait_for(server, "stopping")
        time.sleep(1.05)
        os.kill(server.pid, signal.SIGUSR1)
        assert server.wait(15) == 5
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert "handler 'a' did not finish in time: 1 records were left" in server.stderr


def test_a_forced_end_does_not_wait_for_standard_error(tmp_path: Path) -> None:
    """Nobody reads it, and it is full."""
    (tmp_path / "emitd.yml").write_text(config_of(tmp_path, "Stuck"))
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"], cwd=tmp_path, stderr=write_end
    )
    try:
        said = b""
        while not (up := re.search(rb"listening on \S+\n", said)):
            said += os.read(read_end, 1000)
        assert up
        os.set_blocking(write_end, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4096)
        os.set_blocking(write_end, True)
        process.terminate()
        time.sleep(2.0)
        process.terminate()
        assert process.wait(15) == 5
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("handler", ["Hog", "Lingers"])
def test_a_stop_that_does_not_end_is_forced(tmp_path: Path, handler: str) -> None:
    """The event loop is blocked, or a thread runs on: the process ends some seconds after its time."""
    with serve(tmp_path, handler, drain_seconds=0.2) as server:
        send_lines(server)
        time.sleep(0.2)
        server.terminate()
        assert server.wait(30) == 5
    assert "not stopped after 5.2 s: ending at once" in server.stderr
    assert (f"{LINES} records were left" in server.stderr) == (handler == "Hog")


def test_a_signal_during_the_start(tmp_path: Path) -> None:
    """A handler that never starts does not hold the process."""
    (tmp_path / "emitd.yml").write_text(config_of(tmp_path, "NeverUp"))
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml") as server:
        wait_until((tmp_path / "starting").exists)
        server.terminate()
        assert server.wait(10) == 0
    assert "emitd stopping\nemitd stopped\n" in server.stderr
