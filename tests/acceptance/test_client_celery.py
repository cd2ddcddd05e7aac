"""The client in a real Celery worker, whose pool is forked."""

import signal
import subprocess
from pathlib import Path

import pytest

from support.fork.counts import (
    CONFIG,
    SUPPORT,
    assert_once,
    keys_in_audit,
    keys_in_lines,
    program,
    wait_until,
)
from support.processes.pythons import PYTHONS, environ_of, python_for
from support.processes.server_process import ServerProcess

TASKS = 24
#: Then it is replaced.
TASKS_OF_A_WORKER = 5


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_what_celerys_workers_log_arrives_once(tmp_path: Path, version: str) -> None:
    """They use the client that their parent has made and used; the last lines are sent at a worker's end."""
    python, log = python_for(version), tmp_path / "log"
    for folder in ("queue", "control"):
        (tmp_path / folder).mkdir()
    keys = [*(f"task{number}" for number in range(TASKS)), "loaded"]
    with ServerProcess.start(CONFIG, tmp_path) as server:
        environ = {
            "EMITD_ADDRESS": server.address,
            "EMITD_SPOOL": str(tmp_path / "spool"),
            "EMITD_LINGER": "60",
            "FORK_TASKS": str(tmp_path),
        }
        sender = [python, SUPPORT / "tasks.py", str(TASKS)]
        subprocess.run(sender, env=environ_of(python, **environ), check=True, timeout=60)
        arguments = [
            *("celery", "--app", "support.fork.tasks", "worker", "--pool", "prefork", "--concurrency", 2),
            *("--max-tasks-per-child", TASKS_OF_A_WORKER),
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
        ]
        with program(python, log, *arguments, environ=environ) as celery:
            wait_until(lambda: len(keys_in_audit(tmp_path)) == len(keys), log)
            celery.send_signal(signal.SIGTERM)
            assert celery.wait(30) == 0, log.read_text()
        assert_once(keys_in_audit(tmp_path), keys)
        assert_once(keys_in_lines(server, tmp_path), keys)
    assert "Traceback" not in log.read_text()
