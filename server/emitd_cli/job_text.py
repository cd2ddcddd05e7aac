"""A job in words."""

from datetime import UTC, datetime

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobState,
    JobTransition,
)
from emitd_cli.errors import Misuse
from emitd_cli.nearest import not_one_of
from emitd_cli.output import one_line

__all__ = [
    "STATUSES",
    "describe_job",
    "job_line",
    "last_words",
    "status_from_flag",
    "status_name",
    "transition_line",
]

STATUSES = {
    "QUEUED": JOB_STATE_QUEUED,
    "RUNNING": JOB_STATE_RUNNING,
    "COMPLETED": JOB_STATE_COMPLETED,
    "FAILED": JOB_STATE_FAILED,
}
#: What other systems call them.
_OTHER_STATUS_NAMES = {
    "PENDING": "QUEUED",
    "WAITING": "QUEUED",
    "STARTED": "RUNNING",
    "ACTIVE": "RUNNING",
    "DONE": "COMPLETED",
    "FINISHED": "COMPLETED",
    "SUCCESS": "COMPLETED",
    "SUCCEEDED": "COMPLETED",
    "ERROR": "FAILED",
    "CRASHED": "FAILED",
}


def status_from_flag(name: str) -> JobState:
    """Return the status of this name, in any case. Raises Misuse, which names the nearest."""
    status = STATUSES.get(name.upper())
    if status is None:
        raise Misuse(f"--status: {not_one_of(name, STATUSES, _OTHER_STATUS_NAMES)}", field="--status")
    return status


def status_name(status: JobState) -> str:
    """Return a status without its prefix: `RUNNING`."""
    return JobState.Name(status).removeprefix("JOB_STATE_")


def last_words(job: Job) -> str:
    """Return why the job failed, or else its last message."""
    return " ".join(filter(None, (job.failure_reason, job.failure_message))) or job.message


def job_line(job: Job) -> str:
    """Return the job in one line."""
    text = last_words(job)
    line = _line(job.job_id, job.status, job.progress, job.attempt)
    return one_line(f"{line}  {text}" if text else line)


def transition_line(job_id: str, transition: JobTransition) -> str:
    """Return a change of a job's status in one line, like `job_line`."""
    return one_line(_line(job_id, transition.status, transition.progress, transition.attempt))


def describe_job(job: Job) -> str:
    """Return everything known of the job, a line for each field."""
    fields = {
        "job": job.job_id,
        "type": job.job_type,
        "status": status_name(job.status),
        "progress": f"{job.progress} %",
        "attempt": str(job.attempt),
        "revision": str(job.revision),
        "message": job.message,
        "failure": " ".join(filter(None, (job.failure_reason, job.failure_message))),
        "source": job.source,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "details": job.details_json,
        "created": _time(job.create_time_unix_nano),
        "updated": _time(job.update_time_unix_nano),
        "lease ends": _time(job.lease_expire_time_unix_nano),
    }
    return "\n".join(f"{name:<10}  {one_line(value)}" for name, value in fields.items() if value)


def _line(job_id: str, status: JobState, progress: int, attempt: int) -> str:
    line = f"{job_id}  {status_name(status):<9}  {progress:>3} %"
    return f"{line}  attempt {attempt}" if attempt > 1 else line


def _time(unix_nano: int) -> str:
    if not unix_nano:
        return ""
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
