"""A job in words."""

from datetime import UTC, datetime

from emitd.v1 import Job, JobState, JobTransition
from emitd_cli.output import one_line

__all__ = ["describe_job", "job_line", "last_words", "status_name", "transition_line"]


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
