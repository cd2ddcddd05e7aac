"""The examples beside the Python client: what they make of a log, and what they say at the end."""

import importlib
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    EmitBatchRequest,
    GetJobResponse,
    Job,
    JobStatus,
    LogRecord,
)
from support.fake_log_service import accept, fail, fake_log_service, record_error, refuse

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"

SSHD_LOG = """\
Dec 31 23:59:58 gate sshd[101]: Invalid user admin from 192.0.2.7
Dec 31 23:59:58 gate sshd[101]: pam_unix(sshd:auth): authentication failure; logname= uid=0 rhost=192.0.2.7
Dec 31 23:59:59 gate sshd[101]: Failed password for invalid user admin from 192.0.2.7 port 4001 ssh2
Dec 31 23:59:59 gate sshd[101]: Failed none for invalid user  from 192.0.2.7 port 4001 ssh2
Jan  1 00:00:01 gate sshd[102]: Failed password for root from 2001:db8::1 port 4002 ssh2
Jan  1 00:00:02 gate sshd[102]: message repeated 2 times: [ Failed password for root from 2001:db8::1 port 4002 ssh2]
Jan  1 00:00:03 gate sshd[102]: Connection closed by 2001:db8::1 [preauth]
Jan  1 00:00:04 gate cron[103]: Accepted password for root from 192.0.2.9 port 1 ssh2
Jan  1 00:00:05 gate sshd-session[104]: Accepted publickey for ann from 192.0.2.8 port 4003 ssh2: ED25519 SHA256:abc
Jan  1 00:00:06 gate sshd[105]: Failed password for x from 192.0.2.66 port 1 ssh2: y from 198.51.100.5 port 4004 ssh2
Jan  1 00:00:07 gate sshd[106]: Failed password for bob from UNKNOWN port 65535 ssh2
2026-01-01T00:00:08.250000+02:00 gate sshd[107]: Failed password for eve from 192.0.2.5 port 4005 ssh2
"""

JOB, TASK = "job_1700000000000_0007", "task_1700000000000_0007"
FIRST = "attempt_1700000000000_0007_m_000000_0"
SECOND = "attempt_1700000000000_0007_m_000001_0"
AGAIN = "attempt_1700000000000_0007_m_000001_1"
REDUCE = "attempt_1700000000000_0007_r_000000_0"
HADOOP_MESSAGES = [
    "Created MRAppMaster for application appattempt_1700000000000_0007_000001",
    f"Input size for job {JOB} = 4096. Number of splits = 2",
    f"Number of reduces for job {JOB} = 2",
    f"{JOB}Job Transitioned from NEW to INITED",
    f"{JOB}Job Transitioned from SETUP to RUNNING",
    f"{FIRST} TaskAttempt Transitioned from NEW to UNASSIGNED",
    f"{SECOND} TaskAttempt Transitioned from NEW to UNASSIGNED",
    f"TaskAttempt: [{FIRST}] using containerId: [container_7_01_000002 on NM: [node-1.example.org:8041]",
    f"{FIRST} TaskAttempt Transitioned from ASSIGNED to RUNNING",
    f"Progress of TaskAttempt {FIRST} is : 0.42",
    f"Progress of TaskAttempt {SECOND} is : 9.5E-4",
    f"Done acknowledgement from {FIRST}",
    f"{FIRST} TaskAttempt Transitioned from RUNNING to SUCCESS_CONTAINER_CLEANUP",
    f"{FIRST} TaskAttempt Transitioned from SUCCESS_CONTAINER_CLEANUP to SUCCEEDED",
    "Num completed Tasks: 1",
    f"Progress of TaskAttempt {SECOND} is : 0.8",
    f"Diagnostics report from {SECOND}: Error: java.io.IOException: disk is full",
    f"Diagnostics report from {SECOND}: Container killed on request. Exit code is 143",
]


@pytest.fixture(scope="module", autouse=True)
def examples() -> Iterator[None]:
    """The folder of the examples is on the path, as it is when one of them is run."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def read_sshd(log: str = SSHD_LOG, zone: str = "UTC") -> list[LogRecord]:
    module = load("sshd_audit")
    lines = io.StringIO(log)
    return list(module.SshdLog(module.SyslogClock(2025, ZoneInfo(zone))).read(lines))


def details(record: LogRecord) -> Any:
    return json.loads(record.audit.details_json)


def at(record: LogRecord) -> datetime:
    return datetime.fromtimestamp(record.time_unix_nano / 1e9, UTC)


def test_what_an_sshd_log_tells() -> None:
    """Each ended attempt to log in is an event; what other programs and PAM say is none.

    An address that a client puts into its user name is not taken for its own.
    """
    assert [(e.event_name, e.user_id, e.source_ip) for e in (record.audit for record in read_sshd())] == [
        ("user.login.failure", "admin", "192.0.2.7"),
        ("user.login.failure", "unknown", "192.0.2.7"),
        ("user.login.failure", "root", "2001:db8::1"),
        ("user.login.failure", "root", "2001:db8::1"),
        ("user.login.failure", "root", "2001:db8::1"),
        ("user.login.success", "ann", "192.0.2.8"),
        ("user.login.failure", "x from 192.0.2.66 port 1 ssh2: y", "198.51.100.5"),
        ("user.login.failure", "bob", "unknown"),
        ("user.login.failure", "eve", "192.0.2.5"),
    ]


def test_the_details_of_a_login() -> None:
    """What the line says beyond the mandatory fields."""
    records = read_sshd()
    assert details(records[0]) == {
        "host": "gate",
        "pid": 101,
        "method": "password",
        "port": 4001,
        "invalid_user": True,
    }
    assert details(records[1])["method"] == "none"
    assert "invalid_user" not in details(records[2])
    assert [details(record).get("repetition") for record in records[2:5]] == [None, 1, 2]
    assert details(records[3])["repetitions"] == 2
    assert details(records[5])["key"] == "ED25519 SHA256:abc"
    assert details(records[7])["address"] == "UNKNOWN"
    assert records[5].message.startswith("Accepted publickey for ann")
    assert {record.source for record in records} == {"sshd"}


def test_the_year_of_a_login() -> None:
    """It begins as told, and turns with the log; a time that says its own zone is taken as it is."""
    times = [at(record) for record in read_sshd()]
    assert times[0] == datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert times[2] == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert times[-1] == datetime(2025, 12, 31, 22, 0, 8, 250_000, tzinfo=UTC)
    assert at(read_sshd(zone="Asia/Hong_Kong")[0]).hour == 15


def test_a_day_that_the_year_does_not_have() -> None:
    """The error says which flag is wrong."""
    with pytest.raises(ValueError, match=r"there is no 'Feb 29 .*' in 2025; say the log's --year"):
        read_sshd("Feb 29 00:00:00 gate sshd[1]: Failed password for a from ::1 port 1 ssh2")


def test_a_name_that_is_too_long_for_the_contract() -> None:
    """It is cut at a whole character, and stands in full in the details: an attacker cannot keep an event out."""
    name = "é" * 200
    (record,) = read_sshd(f"Jan  1 00:00:00 gate sshd[1]: Failed password for {name} from ::1 port 1 ssh2")
    assert record.audit.user_id == "é" * 128
    assert details(record)["user"] == name


def test_the_ids_of_logins() -> None:
    """They are the same in each run, also from another line on; equal lines have different ones."""
    line = "Jan  1 00:00:00 gate sshd[1]: Failed password for a from ::1 port 1 ssh2\n"
    ids = [record.record_id for record in read_sshd(SSHD_LOG + line + line)]
    assert len(set(ids)) == len(ids) == 11
    assert [record.record_id for record in read_sshd(SSHD_LOG + line + line)] == ids
    tail = "".join(SSHD_LOG.splitlines(keepends=True)[4:])
    assert [record.record_id for record in read_sshd(tail)] == ids[2:9]
    assert all(record.audit.event_id == record.record_id for record in read_sshd())
    assert read_sshd(line)[0].record_id != read_sshd(line.replace("gate", "door"))[0].record_id


def read_hadoop(messages: list[str]) -> list[LogRecord]:
    lines = [
        f"2026-03-01 10:00:{number:02},250 INFO [IPC Server handler {number}] org.example.Logger: {message}\r\n"
        for number, message in enumerate(messages)
    ]
    return list(load("hadoop_jobs").HadoopLog(ZoneInfo("UTC")).read(lines))


def reports(messages: list[str], job_id: str) -> list[JobStatus]:
    return [record.job for record in read_hadoop(messages) if record.job.job_id == job_id]


def test_an_attempt_that_succeeds() -> None:
    """It goes from QUEUED to COMPLETED; Hadoop's own word, the container and the node stand in the details."""
    mine = reports(HADOOP_MESSAGES, FIRST)
    assert [(report.status, report.progress) for report in mine] == [
        (JOB_STATE_QUEUED, 0),
        (JOB_STATE_RUNNING, 0),
        (JOB_STATE_RUNNING, 42),
        (JOB_STATE_RUNNING, 100),
        (JOB_STATE_RUNNING, 100),
        (JOB_STATE_COMPLETED, 100),
    ]
    assert {report.job_type for report in mine} == {"mapreduce.task_attempt"}
    assert dict(mine[0].labels) == {"job": JOB, "task": f"{TASK}_m_000000", "kind": "map"}
    assert json.loads(mine[0].details_json) == {"hadoop_state": "UNASSIGNED"}
    assert json.loads(mine[-1].details_json) == {
        "hadoop_state": "SUCCEEDED",
        "container": "container_7_01_000002",
        "node": "node-1.example.org:8041",
    }


@pytest.mark.parametrize(
    "transition",
    [
        f"{SECOND} TaskAttempt Transitioned from FAIL_TASK_CLEANUP to FAILED",
        f"{SECOND} transitioned from state RUNNING to FAILED, event type is TA_FAILMSG and nodeId=node-1:8041",
    ],
)
def test_an_attempt_that_fails(transition: str) -> None:
    """The reason is the exception of the first diagnostics report, in the words of older and newer versions."""
    last = reports([*HADOOP_MESSAGES, transition], SECOND)[-1]
    assert last.status == JOB_STATE_FAILED
    assert last.progress == 80
    assert last.failure_reason == "java.io.IOException"
    assert last.failure_message == "Error: java.io.IOException: disk is full"


def test_an_attempt_that_is_killed() -> None:
    """Hadoop's state is the reason; while it is cleaned up, it is not over."""
    killed = [
        f"{REDUCE} TaskAttempt Transitioned from RUNNING to KILL_CONTAINER_CLEANUP",
        f"{REDUCE} TaskAttempt Transitioned from KILL_TASK_CLEANUP to KILLED",
    ]
    cleanup, last = reports(killed, REDUCE)
    assert cleanup.status == JOB_STATE_RUNNING
    assert (last.status, last.failure_reason, last.failure_message) == (JOB_STATE_FAILED, "KILLED", "")
    assert last.labels["kind"] == "reduce"


def test_the_progress_of_the_job() -> None:
    """It is the mean over its tasks of their best attempt that has not failed, told when a whole percent changes."""
    mine = reports(HADOOP_MESSAGES, JOB)
    # 42 of 400, then nothing for 9.5E-4, one whole task of four, and 80 percent of another.
    assert [report.progress for report in mine] == [0, 0, 0, 10, 25, 45]
    assert [report.status for report in mine] == [JOB_STATE_QUEUED] * 2 + [JOB_STATE_RUNNING] * 4
    assert json.loads(mine[-1].details_json) == {
        "hadoop_state": "RUNNING",
        "maps": 2,
        "reduces": 2,
        "input_bytes": 4096,
        "completed_tasks": 1,
    }
    redundant = [
        f"{AGAIN} TaskAttempt Transitioned from NEW to UNASSIGNED",
        f"Progress of TaskAttempt {AGAIN} is : 0.1",
        f"{SECOND} TaskAttempt Transitioned from FAIL_TASK_CLEANUP to FAILED",
        f"Progress of TaskAttempt {AGAIN} is : 0.2",
    ]
    assert [report.progress for report in reports(HADOOP_MESSAGES + redundant, JOB)][6:] == [30]


def test_a_job_that_succeeds() -> None:
    """It is COMPLETED and at 100, whatever the log said of its tasks."""
    last = reports([*HADOOP_MESSAGES, f"{JOB}Job Transitioned from COMMITTING to SUCCEEDED"], JOB)[-1]
    assert (last.status, last.progress, last.job_type) == (JOB_STATE_COMPLETED, 100, "mapreduce.job")


def test_a_job_that_fails() -> None:
    """The reason is Hadoop's state, the message what it says of the tasks."""
    ending = [
        "Job failed as tasks failed. failedMaps:1 failedReduces:0",
        f"{JOB}Job Transitioned from RUNNING to FAIL_WAIT",
        f"{JOB}Job Transitioned from FAIL_ABORT to FAILED",
    ]
    waiting, last = reports(HADOOP_MESSAGES + ending, JOB)[-2:]
    assert waiting.status == JOB_STATE_RUNNING
    assert (last.status, last.failure_reason) == (JOB_STATE_FAILED, "FAILED")
    assert last.failure_message == "Job failed as tasks failed. failedMaps:1 failedReduces:0"


def test_a_second_application_master_starts_the_job_afresh() -> None:
    """Its attempt is the job's."""
    second = "Created MRAppMaster for application appattempt_1700000000000_0007_000002"
    last = reports([*HADOOP_MESSAGES, second], JOB)[-1]
    assert (last.attempt, last.status, last.progress) == (2, JOB_STATE_QUEUED, 0)


def test_a_log_that_begins_in_the_middle() -> None:
    """What names no job before one is known tells nothing; what makes progress is RUNNING."""
    records = read_hadoop(["Num completed Tasks: 3", f"Progress of TaskAttempt {FIRST} is : 0.5"])
    assert [(record.job.job_id, record.job.status, record.job.progress) for record in records] == [
        (FIRST, JOB_STATE_RUNNING, 50),
        (JOB, JOB_STATE_RUNNING, 50),
    ]


def test_the_times_and_ids_of_reports() -> None:
    """A report has its line's time; its id is the same in each run, and no two reports share one.

    Reports of one millisecond keep their order by nanoseconds, since the server keeps the first of two equal times.
    """
    records = read_hadoop(HADOOP_MESSAGES)
    assert at(records[0]) == datetime(2026, 3, 1, 10, 0, 0, 250_000, tzinfo=UTC)
    ids = [record.record_id for record in records]
    assert len(set(ids)) == len(ids)
    assert [record.record_id for record in read_hadoop(HADOOP_MESSAGES)] == ids
    progress = next(record for record in records if record.message.startswith("Progress"))
    derived = records[records.index(progress) + 1]
    assert derived.message == "0 of 4 tasks completed"
    assert derived.time_unix_nano == progress.time_unix_nano + 1
    assert read_hadoop(["nonsense", "at org.example.Stack(Trace.java:1)"]) == []


def run(name: str, *arguments: str) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = load(name).main(list(arguments))
    return code, stdout.getvalue(), stderr.getvalue()


@pytest.fixture
def log(tmp_path: Path) -> str:
    (tmp_path / "auth.log").write_bytes(SSHD_LOG.replace("\n", "\r\n").encode() + b"\xff\n")
    return str(tmp_path / "auth.log")


def test_a_dry_run_prints_what_it_would_send(log: str) -> None:
    """In the contract's JSON form, one record a line; what it found goes to standard error."""
    code, stdout, stderr = run("sshd_audit", log, "--year", "2025", "--dry-run")
    assert code == 0
    assert stderr == "13 lines read: 1 user.login.success, 8 user.login.failure\n"
    first = json.loads(stdout.splitlines()[0])
    assert first["audit"]["userId"] == "admin"
    assert len(stdout.splitlines()) == 9


def test_what_is_sent_is_counted(log: str) -> None:
    """In batches and in order; the end says what became of the records."""
    with fake_log_service(accept) as service:
        code, stdout, stderr = run("sshd_audit", log, "--address", service.address, "--batch-size", "4")
    assert (code, stderr) == (0, "")
    assert stdout.splitlines() == [
        "9 records sent: 9 committed, 0 queued, 0 duplicates, 0 refused",
        "13 lines read: 1 user.login.success, 8 user.login.failure",
    ]
    sent = [record.audit.user_id for request in service.requests for record in request.records]
    assert [len(request.records) for request in service.requests] == [4, 4, 1]
    assert sent == [record.audit.user_id for record in read_sshd()]


def test_what_is_not_taken_at_once_is_sent_again(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed call and a record that is refused for now; one that is refused for good is told: exit code 1."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    partly = refuse(record_error(0, "busy", 1.0), record_error(1, "records[1].audit: no"))
    with fake_log_service(fail(grpc.StatusCode.UNAVAILABLE, "full"), partly, accept) as service:
        code, stdout, stderr = run("sshd_audit", log, "--address", service.address)
    assert code == 1
    assert stdout.startswith("9 records sent: 8 committed, 0 queued, 0 duplicates, 1 refused\n")
    assert stderr.startswith("refused: records[1].audit: no: 'Failed none for invalid user")
    assert [len(request.records) for request in service.requests] == [9, 9, 1]
    assert service.requests[2].records[0] == service.requests[0].records[0]


def test_giving_up(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4 and one line when the server takes no call; 1 when it goes on to refuse a record for now."""
    monkeypatch.setattr(load("shipping"), "RETRY_SECONDS", 0)
    with fake_log_service(fail(grpc.StatusCode.UNAVAILABLE, "full")) as service:
        code, stdout, stderr = run("sshd_audit", log, "--address", service.address)
        assert (code, stderr) == (4, f"{service.address}: UNAVAILABLE: full\n")
        assert stdout.startswith("0 records sent")
    with fake_log_service(refuse(record_error(0, "busy", 1.0))) as service:
        code, stdout, stderr = run("sshd_audit", log, "--address", service.address)
    assert (code, stdout[:15]) == (1, "9 records sent:")
    assert stderr.startswith("refused: not accepted within 0 s: ")


def test_misuse() -> None:
    """Exit code 2 and one line, or argparse's."""
    code, _, stderr = run("sshd_audit", "/nowhere/log")
    assert code == 2
    assert stderr.startswith("/nowhere/log: ")
    for flags in (["--year", "26"], ["--timezone", "Mars/Base"], ["--batch-size", "0"]):
        with pytest.raises(SystemExit, match="2"):
            run("sshd_audit", "-", *flags)


def test_jobs_are_told_by_their_final_state(tmp_path: Path) -> None:
    """As the log has them in a dry run, and as the server has them after sending."""
    lines = [f"2026-03-01 10:00:00,000 INFO [main] a.B: {message}\n" for message in HADOOP_MESSAGES]
    (tmp_path / "syslog").write_text("".join(lines))
    _, stdout, stderr = run("hadoop_jobs", str(tmp_path / "syslog"), "--dry-run")
    summary = [
        "18 lines read; 3 jobs in the log:",
        "mapreduce.job: 1 RUNNING",
        "mapreduce.task_attempt: 1 COMPLETED, 1 RUNNING",
    ]
    assert stderr.splitlines() == summary

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(request, EmitBatchRequest):
            return accept(request, context)
        if request.job_id == SECOND:
            return fail(grpc.StatusCode.NOT_FOUND, "no such job")(request, context)
        return GetJobResponse(job=Job(status=JOB_STATE_FAILED))

    with fake_log_service(answer) as service:
        code, told, _ = run("hadoop_jobs", str(tmp_path / "syslog"), "--address", service.address)
    assert code == 0
    assert told.splitlines() == [
        f"{len(stdout.splitlines())} records sent: "
        f"{len(stdout.splitlines())} committed, 0 queued, 0 duplicates, 0 refused",
        "18 lines read; 3 jobs at the server:",
        "mapreduce.job: 1 FAILED",
        "mapreduce.task_attempt: 1 FAILED, 1 UNSPECIFIED",
    ]


@pytest.mark.parametrize("name", ["sshd_audit", "hadoop_jobs"])
def test_examples_use_the_stubs_only(name: str) -> None:
    """Users have the client, not the server."""
    source = (EXAMPLES / f"{name}.py").read_text() + (EXAMPLES / "shipping.py").read_text()
    assert "emitd_" not in source
