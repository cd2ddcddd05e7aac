"""A handler on the root logger, while everything logs about everything."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes.server_process import ServerProcess

PROGRAM = Path(__file__).parents[1] / "support" / "client" / "logging_recursion.py"
#: What Python's own libraries may log of a few seconds' work, beside a line for each of the program's.
OTHERS = 500


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.slow
def test_the_clients_own_work_makes_no_records_and_ends(tmp_path: Path) -> None:
    """With grpc, asyncio and standard error logging at DEBUG, and a server killed meanwhile, records stay bounded."""
    address = f"127.0.0.1:{free_port()}"
    config = (
        f"server: {{listen: {address}}}\n"
        "handlers:\n"
        "  console: {type: console, levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]}\n"
        "  audit: {type: json_audit, levels: [AUDIT], path: audit.json.log}\n"
        "  jobs: {type: database_job, levels: [JOB_STATUS], database: 'sqlite:///jobs.db'}\n"
    )
    environ = {**os.environ, "GRPC_VERBOSITY": "DEBUG", "EMITD_SPOOL": str(tmp_path / "spool")}
    with ServerProcess.start(config, tmp_path):
        program = subprocess.Popen(
            [sys.executable, PROGRAM, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        time.sleep(2.5)
    time.sleep(1.5)
    with ServerProcess.start(config, tmp_path):
        time.sleep(2)
        out, err = program.communicate("", timeout=60)
        time.sleep(0.5)
    assert program.returncode == 0, err
    counted = json.loads(out)
    arrived = (tmp_path / "stdout").read_text().count("\n")
    assert counted["made"]["grpc.calls"] > counted["lines"], "grpc is to log of every call"
    assert counted["made"]["asyncio"] > 0
    assert counted["in_quiet"] == {}
    assert counted["lines"] // 2 <= arrived <= 2 * counted["lines"] + OTHERS
    assert "dropped_queue_full" not in counted["stats"]
