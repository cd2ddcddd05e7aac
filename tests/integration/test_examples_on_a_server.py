"""The examples beside the Python client against a real server: run as users run them, and run twice."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes.run_main import run_main
from support.processes.server_process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
SSHD_LOG = """\
Mar  5 10:00:01 gate sshd[101]: Failed password for invalid user admin from 192.0.2.7 port 4001 ssh2
Mar  5 10:00:02 gate sshd[101]: message repeated 3 times: [ Failed password for root from 192.0.2.7 port 4001 ssh2]
Mar  5 10:00:03 gate sshd[104]: Accepted publickey for ann from 2001:db8::8 port 4003 ssh2: ED25519 SHA256:abc
"""
APPLICATION = "1700000000000_0007"
GOOD, BAD = (f"attempt_{APPLICATION}_m_00000{number}_0" for number in range(2))
HADOOP_MESSAGES = [
    f"Created MRAppMaster for application appattempt_{APPLICATION}_000001",
    f"Input size for job job_{APPLICATION} = 4096. Number of splits = 2",
    f"job_{APPLICATION}Job Transitioned from SETUP to RUNNING",
    f"{GOOD} TaskAttempt Transitioned from ASSIGNED to RUNNING",
    f"{BAD} TaskAttempt Transitioned from ASSIGNED to RUNNING",
    f"Progress of TaskAttempt {GOOD} is : 0.5",
    f"Progress of TaskAttempt {BAD} is : 0.25",
    f"{GOOD} TaskAttempt Transitioned from SUCCESS_CONTAINER_CLEANUP to SUCCEEDED",
    f"Diagnostics report from {BAD}: Error: java.net.NoRouteToHostException: no route",
    f"{BAD} TaskAttempt Transitioned from FAIL_TASK_CLEANUP to FAILED",
    "Num completed Tasks: 1",
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, tmp_path) as server:
        yield server


def run_example(name: str, log: Path, server: ServerProcess) -> list[str]:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", log, "--batch-size", "4"],
        capture_output=True,
        text=True,
        env={**os.environ, "EMITD_ADDRESS": server.address},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_an_sshd_log_is_an_audit_trail(server: ServerProcess, tmp_path: Path) -> None:
    """Each login is one line of the trail, in order; the second run writes none, also after the server was killed."""
    log, audit = tmp_path / "auth.log", tmp_path / "audit.json.log"
    log.write_text(SSHD_LOG)
    counts = "3 lines read: 1 user.login.success, 4 user.login.failure"
    assert run_example("sshd_audit", log, server) == [
        "5 records sent: 5 committed, 0 queued, 0 duplicates, 0 refused",
        counts,
    ]
    trail = audit.read_text()
    lines = [json.loads(line) for line in trail.splitlines()]
    assert [(line["event_name"], line["user_id"], line["source_ip"]) for line in lines] == [
        ("user.login.failure", "admin", "192.0.2.7"),
        *[("user.login.failure", "root", "192.0.2.7")] * 3,
        ("user.login.success", "ann", "2001:db8::8"),
    ]
    again = ["5 records sent: 0 committed, 0 queued, 5 duplicates, 0 refused", counts]
    assert run_example("sshd_audit", log, server) == again
    server.kill()
    with ServerProcess.start(CONFIG, tmp_path) as second:
        assert run_example("sshd_audit", log, second) == again
    assert audit.read_text() == trail


def test_a_hadoop_log_is_jobs(server: ServerProcess, tmp_path: Path) -> None:
    """Every report is applied, the jobs end as the log says, and the second run changes none."""
    log = tmp_path / "syslog"
    log.write_text(
        "".join(
            f"2026-03-01 10:00:{second:02},000 INFO [main] a.B: {message}\n"
            for second, message in enumerate(HADOOP_MESSAGES)
        )
    )
    states = [
        "11 lines read; 3 jobs at the server:",
        "mapreduce.job: 1 RUNNING",
        "mapreduce.task_attempt: 1 COMPLETED, 1 FAILED",
    ]
    first = "11 records sent: 11 committed, 0 queued, 0 duplicates, 0 refused"
    assert run_example("hadoop_jobs", log, server) == [first, *states]

    def job(job_id: str) -> dict[str, object]:
        done = run_main("job", "get", job_id, "--json", "--address", server.address)
        return dict(json.loads(done.stdout))

    failed = job(BAD)
    assert (failed["progress"], failed["failure_reason"]) == (25, "java.net.NoRouteToHostException")
    whole = job(f"job_{APPLICATION}")
    assert (whole["progress"], whole["revision"]) == (50, "5")
    again = "11 records sent: 0 committed, 0 queued, 11 duplicates, 0 refused"
    assert run_example("hadoop_jobs", log, server) == [again, *states]
    assert job(f"job_{APPLICATION}") == whole
