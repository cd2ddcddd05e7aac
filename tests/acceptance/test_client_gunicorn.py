"""The client in a real gunicorn, whose workers are forked."""

import re
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.fork.counts import CONFIG, assert_once, keys_in_audit, keys_in_lines, program, wait_until
from support.processes.pythons import PYTHONS, python_for
from support.processes.server_process import ServerProcess

WORKERS = 3
REQUESTS = 120
#: Workers are replaced after so many, so that they are forked while the master has long been at work.
REQUESTS_OF_A_WORKER = 20
CALLERS = 4


def get(address: str, keys: Sequence[str], answers: list[bytes]) -> None:
    for key in keys:
        with urllib.request.urlopen(f"{address}/{key}", timeout=20) as answer:
            answers.append(answer.read())


@pytest.mark.slow
@pytest.mark.parametrize("loaded", ["in the master and used", "in the master", "in each worker"])
@pytest.mark.parametrize("version", PYTHONS)
def test_what_gunicorns_workers_log_arrives_once(tmp_path: Path, version: str, loaded: str) -> None:
    """With a client from before the fork, used or not, or of their own; the last lines are sent at a worker's end."""
    python, log = python_for(version), tmp_path / "log"
    arguments = [
        *("gunicorn", "--bind", "127.0.0.1:0", "--workers", WORKERS, "--threads", "2"),
        *("--max-requests", REQUESTS_OF_A_WORKER, "--max-requests-jitter", 5, "support.fork.web"),
        *(() if loaded == "in each worker" else ("--preload",)),
    ]
    keys = [f"request{number}" for number in range(REQUESTS)]
    answers: list[bytes] = []
    with ServerProcess.start(CONFIG, tmp_path) as server:
        environ = {
            "EMITD_ADDRESS": server.address,
            "EMITD_SPOOL": str(tmp_path / "spool"),
            "EMITD_LINGER": "60",
            "FORK_WEB_USES": "0" if loaded == "in the master" else "1",
        }
        with program(python, log, *arguments, environ=environ) as gunicorn:
            wait_until(lambda: "Listening at" in log.read_text(), log)
            (address,) = re.findall(r"Listening at: (\S+)", log.read_text())
            callers = [
                threading.Thread(target=get, args=(address, keys[number::CALLERS], answers))
                for number in range(CALLERS)
            ]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            gunicorn.terminate()
            assert gunicorn.wait(30) == 0, log.read_text()
        assert answers == [b"COMMITTED"] * REQUESTS, log.read_text()
        events = keys_in_audit(tmp_path)
        loads = {key for key in events if key.startswith("load")}
        lines = keys_in_lines(server, tmp_path)
    assert "Traceback" not in log.read_text()
    assert len(re.findall("Booting worker", log.read_text())) > WORKERS
    assert_once(events, [*keys, *loads])
    assert_once(lines, [*keys, *loads])
    match loaded:
        case "in the master":
            assert not loads
        case "in the master and used":
            assert len(loads) == 1
        case _:
            assert len(loads) > WORKERS
