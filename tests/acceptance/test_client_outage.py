"""The client in an outage: the real server is killed under load, and so is the client; both ends are compared."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitd.client import LogClient
from support.client.sending import until
from support.soak import death as soak_death
from support.soak.run import Soak
from support.soak.server import soak_server
from support.soak.verdict import Told, audit_counts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = float(os.environ.get("EMITD_SOAK_SECONDS", "25"))
#: So short that events are spooled also while the server is up, and then raced by their own replay.
HASTY_SECONDS = 0.002
#: A client that does not die by itself, because it never comes to that point, is killed after so long.
LIFE_SECONDS = 30.0


def test_every_record_stands_where_its_sender_was_told_after_kills_of_the_server(tmp_path: Path) -> None:
    """Audit events once, jobs in their right rows, and log lines lost or doubled only as counted."""
    soak = Soak(tmp_path, clients=2, kill_every=3.5, lease=4, longest_job=2.0)
    verdict = soak.run(SECONDS)
    print(*(f"{count:8} {figure}" for figure, count in sorted(verdict.figures.items())), sep="\n")
    assert not verdict.problems
    assert soak.client_kills >= 3
    for figure in (
        "audits COMMITTED",
        "audits SPOOLED",
        "audits SPOOLED by a client that was killed",
        "lines lost",
    ):
        assert verdict.figures[figure], f"{figure}: the kills came at no bad moment"


@contextmanager
def dying_client(
    folder: Path, address: str, point: str, count: int
) -> "Iterator[tuple[subprocess.Popen[bytes], Path]]":
    """A client of audit events only, which dies at a point of its own code; and its journal."""
    name = f"{point.replace(' ', '-')}-{count}"
    journal = folder / f"{name}.jsonl"
    profile = {"job_threads": 0, "line_pause": 1.0, "audit_pause": 0.0, "audit_timeout": HASTY_SECONDS}
    arguments = (point, count, address, name, folder / "spool", journal, json.dumps(profile))
    process = subprocess.Popen(
        [sys.executable, soak_death.__file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process, journal
    finally:
        process.kill()
        process.wait()


def wait_for_death(process: "subprocess.Popen[bytes]", journal: Path, point: str) -> None:
    if point.endswith("close"):  # that is at its end, or where it has sent what another left

        def has_spooled() -> bool:
            return journal.exists() and b"SPOOLED" in journal.read_bytes()

        until(lambda: has_spooled() or process.poll() is not None, LIFE_SECONDS)
        process.send_signal(signal.SIGTERM)
    assert process.wait(LIFE_SECONDS) == -signal.SIGKILL, f"it never came to the point: {point}"


def deliver_what_is_left(folder: Path, address: str) -> None:
    """Be the process that comes next."""
    spool = folder / "spool"
    with LogClient(address, spool=str(spool)) as client:
        client.info("here")
        until(lambda: not list(spool.glob("*.db")))


def check(folder: Path, audit_file: Path) -> int:
    """What was answered is in the file once, what was not at most once; return how many were answered SPOOLED."""
    told = [Told.read(path) for path in folder.glob("*.jsonl")]
    counts = audit_counts(audit_file)
    safe = {event: state for client in told for event, state in client.safe.items()}
    assert not [event for event in safe if not counts[event]]
    assert not [event for event, count in counts.items() if count > 1]
    assert counts.keys() <= {event for client in told for event in client.sent}
    assert not [client.failed for client in told if client.failed]
    return list(safe.values()).count("SPOOLED")


def test_what_was_answered_survives_the_death_of_the_client_at_every_point(tmp_path: Path) -> None:
    """A client is killed before and after each step of a record; the next one sends what it left, once."""
    with soak_server(tmp_path) as server:
        for point in soak_death.POINTS:
            for count in soak_death.COUNTS[point.split()[1]]:
                with dying_client(tmp_path, server.address, point, count) as (process, journal):
                    wait_for_death(process, journal, point)
        deliver_what_is_left(tmp_path, server.address)
        assert check(tmp_path, server.folder / "audit.json.log") > 50


def test_what_was_spooled_survives_the_death_of_the_client_while_no_server_is_there(tmp_path: Path) -> None:
    """What three clients that were killed were promised is sent once the server is back, by another."""
    with soak_server(tmp_path) as server:
        server.kill()
        for count in (1, 7, 60):
            with dying_client(tmp_path, server.address, "after append", count) as (process, journal):
                wait_for_death(process, journal, "after append")
        server.start()
        deliver_what_is_left(tmp_path, server.address)
        assert check(tmp_path, server.folder / "audit.json.log") > 50


def test_with_several_servers_the_death_of_one_holds_up_nobody(tmp_path: Path) -> None:
    """Every event is in one of the logs, and never twice in one; the server that came back is used again."""
    with soak_server(tmp_path, "one") as one, soak_server(tmp_path, "other") as other:
        addresses = f"{one.address},{other.address}"
        with LogClient(addresses, spool="off", timeout=10.0) as client:
            slowest = 0.0
            for number in range(300):
                begin = time.monotonic()
                client.audit("x", user_id="u", details={"event": str(number)})
                slowest = max(slowest, time.monotonic() - begin)
                if number == 100:
                    threading.Timer(0.01, one.kill).start()
            until(lambda: one.kills)
            before = audit_counts(one.folder / "audit.json.log")
            one.start()

            def is_used() -> bool:
                client.audit("x", user_id="u", details={"event": "back"})
                return audit_counts(one.folder / "audit.json.log") != before

            until(is_used)
    logs = [audit_counts(server.folder / "audit.json.log") for server in (one, other)]
    for log in logs:
        log.pop("back", None)
        assert max(log.values()) == 1
    assert {*logs[0], *logs[1]} == set(map(str, range(300)))
    assert 50 <= len(logs[0]) < 290
    assert slowest < 8.0
