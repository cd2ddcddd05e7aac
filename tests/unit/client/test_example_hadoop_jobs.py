"""The example that turns a Hadoop log into job reports: what it makes of the log, and says at the end."""

import json
from datetime import UTC, datetime
from pathlib import Path
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
from support.client.fake_log_service import accept, fail, fake_log_service
from support.docs.examples import load_example, run_example

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


def at(record: LogRecord) -> datetime:
    return datetime.fromtimestamp(record.time_unix_nano / 1e9, UTC)


def read_hadoop(messages: list[str]) -> list[LogRecord]:
    lines = [
        f"2026-03-01 10:00:{number:02},250 INFO [IPC Server handler {number}] org.example.Logger: {message}\r\n"
        for number, message in enumerate(messages)
    ]
    return list(load_example("hadoop_jobs").HadoopLog(ZoneInfo("UTC")).read(lines))


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


def test_jobs_are_told_by_their_final_state(tmp_path: Path) -> None:
    """As the log has them in a dry run, and as the server has them after sending."""
    lines = [f"2026-03-01 10:00:00,000 INFO [main] a.B: {message}\n" for message in HADOOP_MESSAGES]
    (tmp_path / "syslog").write_text("".join(lines))
    _, stdout, stderr = run_example("hadoop_jobs", str(tmp_path / "syslog"), "--dry-run")
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
        code, told, _ = run_example("hadoop_jobs", str(tmp_path / "syslog"), "--address", service.address)
    assert code == 0
    assert told.splitlines() == [
        f"{len(stdout.splitlines())} records sent: "
        f"{len(stdout.splitlines())} committed, 0 queued, 0 duplicates, 0 refused",
        "18 lines read; 3 jobs at the server:",
        "mapreduce.job: 1 FAILED",
        "mapreduce.task_attempt: 1 FAILED, 1 UNSPECIFIED",
    ]
