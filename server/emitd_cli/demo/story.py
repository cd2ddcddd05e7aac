"""What happens in `emitd demo`: an evening in the backend of a small music shop. Data only."""

import json
from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from typing import NamedTuple

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    LEVEL_DEBUG,
    LEVEL_ERROR,
    LEVEL_INFO,
    LEVEL_WARNING,
    AuditEvent,
    JobState,
    JobStatus,
    Level,
    LogRecord,
)

#: The whole configuration of the demo's service.
CONFIG = """\
handlers:
  console: {type: console}
  audit:   {type: json_audit, path: logs/audit.json.log}
  jobs:    {type: database_job, database: sqlite:///logs/jobs.db}
"""


def _line(number: int, level: Level, source: str, message: str, **attributes: object) -> LogRecord:
    return LogRecord(
        record_id=f"line-{number}",
        level=level,
        source=source,
        message=message,
        attributes_json=json.dumps(attributes) if attributes else "",
    )


LOG_LINES: Sequence[LogRecord] = (
    _line(1, LEVEL_INFO, "auth", "User 'mara' successfully authenticated.", method="passkey"),
    _line(2, LEVEL_INFO, "playlist", "Playlist 'Rainy Sunday' created.", user="mara", tracks=14),
    _line(3, LEVEL_DEBUG, "search", "Index loaded.", tracks=48210, took_ms=212),
    _line(4, LEVEL_WARNING, "search", "Slow query.", query="miles davis", took_ms=1840),
    # This search tries to forge a line.
    _line(5, LEVEL_INFO, "search", "Search for 'jazz\n[CRITICAL] all records lost'."),
    _line(6, LEVEL_INFO, "orders", "Order A-1042 placed.", user="mara", items=2, total="31.80 EUR"),
    _line(7, LEVEL_ERROR, "payment", "Card declined.", order="A-1042", code="insufficient_funds"),
)

AUDIT_EVENT = LogRecord(
    record_id="login-7781",
    source="auth",
    audit=AuditEvent(
        event_name="user.login.failure",
        user_id="mara",
        source_ip="203.0.113.7",
        details_json='{"method": "password", "failures": 3, "locked": true}',
    ),
)


class _Job(NamedTuple):
    """A job: its times in seconds from the first report, its work, and the report that ends it."""

    job_id: str
    job_type: str
    queued_at: float
    started_at: float
    ended_at: float
    total: int
    unit: str
    end: JobStatus
    message: str = ""


_JOBS = (
    _Job(
        *("nightly-import", "import", 0.0, 0.4, 4.9, 2480, "tracks"),
        JobStatus(status=JOB_STATE_COMPLETED, progress=100),
        "2,480 tracks, 31 new artists",
    ),
    _Job(
        *("cover-thumbnails", "thumbnails", 0.2, 0.9, 3.5, 640, "covers"),
        JobStatus(
            status=JOB_STATE_FAILED,
            progress=62,
            failure_reason="BAD_IMAGE",
            failure_message="cover-0815.tif is cut off",
        ),
    ),
    _Job(
        *("sales-report", "report", 0.4, 2.0, 5.4, 12, "pages"),
        JobStatus(status=JOB_STATE_COMPLETED, progress=100),
        "12 pages, sent to 3 readers",
    ),
)
#: The status and progress that each job must end with.
JOB_ENDS: Mapping[str, tuple[str, int]] = {
    job.job_id: (JobState.Name(job.end.status).removeprefix("JOB_STATE_"), job.end.progress) for job in _JOBS
}
#: Between two reports of a running job.
REPORT_SECONDS = 0.1


class Report(NamedTuple):
    """A job report, and when it is sent, in seconds from the first."""

    at: float
    record: LogRecord


def job_reports() -> Iterator[Report]:
    """Return the reports of all jobs in the order in which they are sent."""
    return merge(*map(_reports, _JOBS), key=lambda report: report.at)


def _reports(job: _Job) -> Iterator[Report]:
    yield _report(job, 0, job.queued_at, JobStatus(status=JOB_STATE_QUEUED), "waits for a worker")
    steps = round((job.ended_at - job.started_at) / REPORT_SECONDS)
    for step in range(steps):
        running = JobStatus(status=JOB_STATE_RUNNING, progress=job.end.progress * step // steps)
        done = job.total * job.end.progress * step // steps // 100
        at = job.started_at + step * REPORT_SECONDS
        yield _report(job, step + 1, at, running, f"{done:,} of {job.total:,} {job.unit}")
    yield _report(job, steps + 1, job.ended_at, job.end, job.message)


def _report(job: _Job, number: int, at: float, status: JobStatus, message: str) -> Report:
    record = LogRecord(record_id=f"{job.job_id}-{number}", source="worker", message=message, job=status)
    record.job.job_id, record.job.job_type = job.job_id, job.job_type
    return Report(at, record)
