"""An entry's fault stays its own: odd numbers, no descriptors, no modules, a short program, gevent."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from emitd import LogClient
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

#: Real processes that wait for clocks, signals and retries.
pytestmark = pytest.mark.slow

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ServerProcess.start(CONFIG, tmp_path_factory.mktemp("server"))
    yield server.address
    server.kill()


def run(program: str, *arguments: object) -> str:
    """Run a program to its end; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("total", "steps", "percent"),
    [
        (12.5, 0.5, 4),
        (Decimal("0.5") * 5, Decimal("1"), 40),
        (Fraction(7, 2), Fraction(1, 2), 14),
        (10**30, 10**29, 10),
        (4, 1e300, 100),
        (4, -1e300, 0),
    ],
)
def test_any_finite_number_is_progress(
    address: str, tmp_path: Path, total: Any, steps: Any, percent: int
) -> None:
    """The job and the events of other threads go on; the service has the percentage."""
    with LogClient(address, source="numbers", spool="off") as client:
        with client.job("numbers", "test", total=total, lease=30) as job:
            job.advance(steps)
            assert client.flush(10)
            state = client.get_job("numbers")
            assert state is not None
            assert state.progress == percent
        receipts: list[str] = []
        thread = threading.Thread(
            target=lambda: receipts.append(client.audit("numbers.done", user_id="u").state)
        )
        thread.start()
        thread.join(10)
        assert receipts == ["COMMITTED"]


@pytest.mark.parametrize(
    "odd", [float("nan"), float("inf"), Decimal("sNaN"), 1j, "1", True, None, [1]], ids=repr
)
def test_what_is_no_number_is_refused_at_the_call(address: str, odd: Any) -> None:
    """The error names the argument, and the job goes on to its end."""
    with LogClient(address, source="numbers", spool="off") as client:
        if odd is not None:
            with pytest.raises(ValueError, match="total: "):
                client.job("odd", "test", total=odd)
        with client.job("odd", "test", total=10) as job:
            with pytest.raises(ValueError, match="steps: "):
                job.advance(odd)
            with pytest.raises(ValueError, match="percent: "):
                job.progress(odd)
        assert client.flush(10)
        state = client.get_job("odd")
        assert state is not None
        assert state.progress == 100


NOTHING_IMPORTED = """
import asyncio, sys
from emitd import AsyncLogClient, LogClient

class Gone:
    tried = []
    def find_spec(self, name, path=None, target=None):
        self.tried.append(name)
        raise ImportError(f"{name} is gone")

up, down, spool = sys.argv[1:]
settings = {"source": "late", "spool": spool, "timeout": 0.3, "close_timeout": 2, "spool_records": "all"}
clients = [LogClient(address, **settings) for address in (down, up)]
asynchronous = [AsyncLogClient(address, **settings) for address in (down, up)]
sys.meta_path.insert(0, Gone())
states = []
for client in clients:
    client.info("a line", order=17)
    states.append(client.audit("late.event", user_id="u").state)
    client.flush(0.5)

async def main():
    for client in asynchronous:
        client.info("a line", order=17)
        states.append((await client.audit("late.event", user_id="u")).state)
        await client.flush(0.5)
        await client.close()

asyncio.run(main())
with clients[1].job("late", "test", total=2) as job:
    job.advance()
for client in clients:
    client.close()
print(*states, *Gone.tried)
"""


def test_nothing_on_a_record_s_way_is_imported_late(address: str, tmp_path: Path) -> None:
    """After `pip install -U`, or in a deleted environment, a running process sends, and spools in an outage."""
    out = run(NOTHING_IMPORTED, address, f"127.0.0.1:{free_port()}", tmp_path / "spool")
    assert out.split() == ["SPOOLED", "COMMITTED", "SPOOLED", "COMMITTED"]


NO_DESCRIPTORS = """
import os, resource, sys
from emitd import EmitError, LogClient

client = LogClient(sys.argv[1], source="fds", spool=sys.argv[2], timeout=0.5)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
client.error("no descriptor is free")
try:
    client.audit("fds.none", user_id="u")
except EmitError as error:
    print(type(error).__name__)
for descriptor in taken:
    os.close(descriptor)
client.error("some are")
print(client.flush(10), client.stats()["sent"], client.audit("fds.some", user_id="u").state)
"""


def test_without_free_descriptors_a_plain_call_does_not_raise(address: str, tmp_path: Path) -> None:
    """What was logged is sent when there are some; `audit` raises the client's own error; the process lives."""
    assert run(NO_DESCRIPTORS, address, tmp_path / "spool").split() == [
        "Unavailable",
        "True",
        "2",
        "COMMITTED",
    ]


SHORT = """
import sys
from emitd import LogClient

client = LogClient(sys.argv[1], source="short", spool=sys.argv[2], timeout=0.2)
if sys.argv[3] == "leave":
    for number in range(3):
        assert client.audit("short.event", user_id="u").state == "SPOOLED"
else:
    client.info("short")
if sys.argv[3] == "close":
    client.close()
"""


@pytest.mark.parametrize("way", ["close", "exit"])
def test_a_short_program_brings_the_spool_home(tmp_path: Path, way: str) -> None:
    """Also if it logs one line and ends: `close` and the end wait for a replay that makes progress."""
    spool, there = tmp_path / "spool", f"127.0.0.1:{free_port()}"
    for _ in range(2):
        run(SHORT, there, spool, "leave")
    assert list(spool.iterdir())
    folder = tmp_path / "server"
    folder.mkdir()
    server = ServerProcess.start(CONFIG.replace("127.0.0.1:0", there), folder)
    try:
        run(SHORT, there, spool, way)
        assert not list(spool.iterdir())
        assert (folder / "audit.json.log").read_text().count("short.event") == 6
    finally:
        server.kill()


GEVENT = """
from gevent import monkey; monkey.patch_all()
import socket, sys, time
import gevent
from emitd import EmitError, LogClient

silent = socket.socket()
silent.bind(("127.0.0.1", 0))
silent.listen()
gaps, last = [], time.monotonic()

def tick():
    global last
    while True:
        gevent.sleep(0.02)
        now = time.monotonic()
        gaps.append(now - last)
        last = now

client = LogClient(f"127.0.0.1:{silent.getsockname()[1]}", spool="off", timeout=2, call_timeout=2, close_timeout=0.1)
gevent.spawn(tick)
client.info("to nobody")
try:
    client.audit("to.nobody", user_id="u")
except EmitError:
    pass
print(max(gaps) < 1.0, len(gaps) > 20)
client.close()
with LogClient(sys.argv[1], spool="off") as client:
    print(client.audit("green.event", user_id="u").state)
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
def test_a_hung_server_stops_no_greenlet(address: str) -> None:
    """Under gevent's monkey-patching the others run on while a call waits."""
    assert run(GEVENT, address).split() == ["True", "True", "COMMITTED"]
