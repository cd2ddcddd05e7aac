"""Turn the log of a Hadoop application master (MapReduce on YARN) into reports on jobs.

  job in emitd                 type                     meaning
  job_1445144423722_0020       mapreduce.job            the whole MapReduce job
  attempt_..._m_000003_0       mapreduce.task_attempt   each attempt of each of its tasks

Attempts are jobs of their own, because two attempts of one task may run at the same time (speculation) and the
first to end wins; the labels of each name its task and its job. An attempt in emitd is an attempt of the application
master: a second one restarts the job, as in Hadoop.

  state in Hadoop                                      state in emitd
  NEW, INITED, UNASSIGNED, ASSIGNED                    QUEUED
  SUCCEEDED                                            COMPLETED
  FAILED, KILLED, ERROR                                FAILED
  all others (RUNNING, COMMIT_PENDING, cleanups, ...)  RUNNING

`details` has Hadoop's state (`hadoop_state`), the container and the node. An attempt's progress is that of the log
(`Progress of TaskAttempt ... is : 0.42`). The job's progress is the mean over its tasks of their best attempt that has
not failed, and is reported at each whole percent. The reason of a failure is the class of the exception in the first
diagnostics report, or the state in Hadoop; the message is that report. If the log ends first, the job stays RUNNING.

The log's times have no zone: give it with --timezone. A second run over the same log changes nothing.

Examples:
  python hadoop_jobs.py syslog
  tail -n +1 -F syslog | python hadoop_jobs.py - --batch-size 1
  python hadoop_jobs.py syslog --timezone America/Los_Angeles --dry-run

"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

import grpc
from shipping import LineIds, ship, shipping_parser, unix_nano

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_UNSPECIFIED,
    GetJobRequest,
    GetJobResponse,
    JobState,
    JobStatus,
    LogRecord,
    LogServiceStub,
)

__all__ = ["HadoopLog", "main"]

JOB_TYPE, ATTEMPT_TYPE = "mapreduce.job", "mapreduce.task_attempt"
CALL_SECONDS = 30.0

#: All other states of Hadoop's are RUNNING.
_STATES: dict[str, JobState] = {
    "NEW": JOB_STATE_QUEUED,
    "INITED": JOB_STATE_QUEUED,
    "UNASSIGNED": JOB_STATE_QUEUED,
    "ASSIGNED": JOB_STATE_QUEUED,
    "SUCCEEDED": JOB_STATE_COMPLETED,
    "FAILED": JOB_STATE_FAILED,
    "KILLED": JOB_STATE_FAILED,
    "ERROR": JOB_STATE_FAILED,
}
_KINDS = {"m": "map", "r": "reduce"}

_LINE = re.compile(
    r"(?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+ \[.*?\] (?P<logger>[\w.$]+): (?P<text>.*)"
)
_STARTED = re.compile(
    r"Created MRAppMaster for application appattempt_(?P<application>\d+_\d+)_(?P<attempt>\d+)"
)
_INPUT = re.compile(
    r"Input size for job (?P<job>job_\d+_\d+) = (?P<bytes>\d+)\. Number of splits = (?P<maps>\d+)"
)
_REDUCES = re.compile(r"Number of reduces for job (?P<job>job_\d+_\d+) = (?P<reduces>\d+)")
_JOB_STATE = re.compile(r"(?P<job>job_\d+_\d+)Job Transitioned from \w+ to (?P<state>\w+)")
_COMPLETED = re.compile(r"Num completed Tasks: (?P<count>\d+)")
_JOB_FAILED = re.compile(r"Job failed as tasks failed\. .*")
_ATTEMPT = r"(?P<attempt>attempt_(?P<application>\d+_\d+)_(?P<kind>[a-z]+)_(?P<task>\d+)_\d+)"
# Newer versions word the transition to FAILED in the second way.
_ATTEMPT_STATE = re.compile(
    rf"{_ATTEMPT} (?:TaskAttempt Transitioned from|transitioned from state) \w+ to (?P<state>\w+)"
)
_PROGRESS = re.compile(rf"Progress of TaskAttempt {_ATTEMPT} is : (?P<progress>[\d.]+(?:E-?\d+)?)")
_DONE = re.compile(rf"Done acknowledgement from {_ATTEMPT}")
_CONTAINER = re.compile(
    rf"TaskAttempt: \[{_ATTEMPT}\] using containerId: \[(?P<container>\S+) on NM: \[(?P<node>[^\]]+)\]"
)
_DIAGNOSTICS = re.compile(rf"Diagnostics report from {_ATTEMPT}: (?P<report>.+)")
_EXCEPTION = re.compile(r"[\w.$]+(?:Exception|Error)\b")


@dataclass
class _Attempt:
    """One attempt of a task, as the log describes it."""

    attempt_id: str
    job_id: str
    task_id: str
    kind: str
    state: str = "NEW"
    #: From 0 to 1.
    progress: float = 0.0
    container: str = ""
    node: str = ""
    #: The first diagnostics report, which has the cause; later ones are about the end of the container.
    diagnostics: str = ""

    def report(self, message: str) -> LogRecord:
        """Return a report with the attempt's state."""
        report = JobStatus(
            job_id=self.attempt_id,
            job_type=ATTEMPT_TYPE,
            status=_STATES.get(self.state, JOB_STATE_RUNNING),
            progress=_percent(self.progress),
            details_json=_details(hadoop_state=self.state, container=self.container, node=self.node),
            labels={"job": self.job_id, "task": self.task_id, "kind": self.kind},
        )
        _explain_failure(report, self.state, self.diagnostics)
        return LogRecord(message=message, source="mapreduce", job=report)


@dataclass
class _Job:
    """The MapReduce job, as the log describes it."""

    job_id: str
    #: Of the application master.
    attempt: int = 1
    state: str = "NEW"
    maps: int = 0
    reduces: int = 0
    input_bytes: int = 0
    completed_tasks: int = 0
    diagnostics: str = ""
    #: The attempts of each task.
    tasks: dict[str, dict[str, _Attempt]] = field(default_factory=dict)
    #: For each task, the progress of its best attempt that has not failed; and the sum of these.
    best: dict[str, float] = field(default_factory=dict)
    best_sum: float = 0.0
    #: As last reported.
    percent: int = 0

    def note(self, attempt: _Attempt) -> None:
        """Take a change of an attempt into account."""
        attempts = self.tasks[attempt.task_id].values()
        best = max((a.progress for a in attempts if a.state not in ("FAILED", "KILLED")), default=0.0)
        self.best_sum += best - self.best.get(attempt.task_id, 0.0)
        self.best[attempt.task_id] = best

    @property
    def task_count(self) -> int:
        """How many tasks the job has, by the log so far."""
        return max(self.maps + self.reduces, len(self.tasks), 1)

    def report(self, message: str) -> LogRecord:
        """Return a report with the job's state."""
        self.percent = 100 if self.state == "SUCCEEDED" else _percent(self.best_sum / self.task_count)
        report = JobStatus(
            job_id=self.job_id,
            job_type=JOB_TYPE,
            status=_STATES.get(self.state, JOB_STATE_RUNNING),
            progress=self.percent,
            details_json=_details(
                hadoop_state=self.state,
                maps=self.maps,
                reduces=self.reduces,
                input_bytes=self.input_bytes,
                completed_tasks=self.completed_tasks,
            ),
            labels={"application": self.job_id.replace("job_", "application_")},
            attempt=self.attempt,
        )
        _explain_failure(report, self.state, self.diagnostics)
        return LogRecord(message=message, source="mapreduce", job=report)


class HadoopLog:
    """The jobs in a log, and their last reports."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._ids = LineIds()
        self._jobs: dict[str, _Job] = {}
        #: The job that the log named last, for lines that name none.
        self._job = _Job("")
        #: The time of the last report, and how many reports had it before.
        self._stamp = ""
        self._nano = 0
        self.line_count = 0
        #: The last report of each job and attempt.
        self.last_reports: dict[str, JobStatus] = {}
        self._rules = (
            (_PROGRESS, self._on_progress),
            (_ATTEMPT_STATE, self._on_attempt_state),
            (_DONE, self._on_done),
            (_CONTAINER, self._on_container),
            (_DIAGNOSTICS, self._on_diagnostics),
            (_COMPLETED, self._on_completed),
            (_JOB_STATE, self._on_job_state),
            (_JOB_FAILED, self._on_job_failed),
            (_STARTED, self._on_started),
            (_INPUT, self._on_input),
            (_REDUCES, self._on_reduces),
        )

    def read(self, lines: Iterable[str]) -> Iterator[LogRecord]:
        """Yield the reports of a log's lines, in order."""
        for line in lines:
            self.line_count += 1
            if found := _LINE.fullmatch(line.rstrip("\r\n")):
                yield from self._read_message(found)

    def _read_message(self, line: re.Match[str]) -> Iterator[LogRecord]:
        records = self._apply_rule(line["text"])
        if not records:
            return
        moment = datetime.fromisoformat(line["stamp"].replace(",", ".")).replace(tzinfo=self._zone)
        line_id = self._ids.make(self._job.job_id, line["stamp"], line[0])
        if line["stamp"] != self._stamp:
            self._stamp, self._nano = line["stamp"], 0
        for number, record in enumerate(records):
            record.record_id = f"{line_id}-{number}" if number else line_id
            # Of two reports of one time the server keeps the first; the log knows their order.
            record.time_unix_nano = unix_nano(moment) + self._nano
            self._nano += 1
            self.last_reports[record.job.job_id] = record.job
            yield record

    def _apply_rule(self, text: str) -> list[LogRecord]:
        for pattern, rule in self._rules:
            if found := pattern.match(text):
                return rule(found)
        return []

    def _on_started(self, found: re.Match[str]) -> list[LogRecord]:
        job_id = f"job_{found['application']}"
        self._job = self._jobs[job_id] = _Job(job_id, attempt=int(found["attempt"]))
        return [self._job.report(found.string)]

    def _on_input(self, found: re.Match[str]) -> list[LogRecord]:
        job = self._find_job(found["job"])
        job.maps, job.input_bytes = int(found["maps"]), int(found["bytes"])
        return []

    def _on_reduces(self, found: re.Match[str]) -> list[LogRecord]:
        self._find_job(found["job"]).reduces = int(found["reduces"])
        return []

    def _on_job_state(self, found: re.Match[str]) -> list[LogRecord]:
        job = self._find_job(found["job"])
        job.state = found["state"]
        return [job.report(found.string)]

    def _on_completed(self, found: re.Match[str]) -> list[LogRecord]:
        if not self._job.job_id:
            return []
        self._job.completed_tasks = int(found["count"])
        return [self._job.report(found.string)]

    def _on_job_failed(self, found: re.Match[str]) -> list[LogRecord]:
        self._job.diagnostics = found.string
        return []

    def _on_attempt_state(self, found: re.Match[str]) -> list[LogRecord]:
        attempt = self._find_attempt(found)
        attempt.state = found["state"]
        if attempt.state == "SUCCEEDED":
            attempt.progress = 1.0
        self._job.note(attempt)
        return [attempt.report(found.string)]

    def _on_progress(self, found: re.Match[str]) -> list[LogRecord]:
        attempt = self._find_attempt(found)
        attempt.progress = min(1.0, float(found["progress"]))
        job = self._job
        # Only what runs makes progress: the log began later.
        attempt.state = "RUNNING" if _STATES.get(attempt.state) == JOB_STATE_QUEUED else attempt.state
        job.state = "RUNNING" if _STATES.get(job.state) == JOB_STATE_QUEUED else job.state
        job.note(attempt)
        reports = [attempt.report(found.string)]
        if _percent(job.best_sum / job.task_count) != job.percent:
            reports.append(job.report(f"{job.completed_tasks} of {job.task_count} tasks completed"))
        return reports

    def _on_done(self, found: re.Match[str]) -> list[LogRecord]:
        attempt = self._find_attempt(found)
        attempt.progress = 1.0
        self._job.note(attempt)
        return [attempt.report(found.string)]

    def _on_container(self, found: re.Match[str]) -> list[LogRecord]:
        attempt = self._find_attempt(found)
        attempt.container, attempt.node = found["container"], found["node"]
        return []

    def _on_diagnostics(self, found: re.Match[str]) -> list[LogRecord]:
        attempt = self._find_attempt(found)
        attempt.diagnostics = attempt.diagnostics or found["report"]
        return []

    def _find_job(self, job_id: str) -> _Job:
        self._job = self._jobs.setdefault(job_id, _Job(job_id))
        return self._job

    def _find_attempt(self, found: re.Match[str]) -> _Attempt:
        job = self._find_job(f"job_{found['application']}")
        task_id = f"task_{found['application']}_{found['kind']}_{found['task']}"
        attempts = job.tasks.setdefault(task_id, {})
        kind = _KINDS.get(found["kind"], found["kind"])
        return attempts.setdefault(found["attempt"], _Attempt(found["attempt"], job.job_id, task_id, kind))


def _percent(progress: float) -> int:
    # Sums of binary fractions fall short of whole percents by a hair.
    return int(100 * progress + 1e-6)


def _details(**fields: object) -> str:
    return json.dumps({name: value for name, value in fields.items() if value != ""}, ensure_ascii=False)


def _explain_failure(report: JobStatus, state: str, diagnostics: str) -> None:
    if report.status != JOB_STATE_FAILED:
        return
    exception = _EXCEPTION.search(diagnostics)
    report.failure_reason = exception[0] if exception and state == "FAILED" else state
    report.failure_message = diagnostics


def describe_states(reports: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Count jobs by type and state; yield a line for each type. `reports` are pairs of both."""
    counts = Counter(reports)
    for job_type in sorted({job_type for job_type, _ in counts}):
        states = {state: count for (kind, state), count in sorted(counts.items()) if kind == job_type}
        yield f"{job_type}: " + ", ".join(f"{count} {state}" for state, count in states.items())


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return 0, 1 if records were refused, 2 for misuse, 4 if the server does not answer."""
    parser = shipping_parser(__doc__, "the log of an application master, often called syslog")
    options = parser.parse_args(arguments)
    log = HadoopLog(options.timezone)

    def conclude(stub: LogServiceStub | None) -> Iterator[str]:
        where = "in the log" if stub is None else "at the server"
        yield f"{log.line_count} lines read; {len(log.last_reports)} jobs {where}:"
        yield from describe_states(
            (report.job_type, _state(report.status if stub is None else _ask(stub, report.job_id)))
            for report in log.last_reports.values()
        )

    return ship(options, log.read, conclude)


def _ask(stub: LogServiceStub, job_id: str) -> JobState:
    """Return the status that the server knows, UNSPECIFIED if it knows no such job."""
    try:
        response: GetJobResponse = stub.GetJob(GetJobRequest(job_id=job_id), timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return JOB_STATE_UNSPECIFIED
    return response.job.status


def _state(status: JobState) -> str:
    return JobState.Name(status).removeprefix("JOB_STATE_")


if __name__ == "__main__":
    sys.exit(main())
