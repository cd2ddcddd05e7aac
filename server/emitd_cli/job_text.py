"""A job in words."""

from datetime import UTC, datetime

from emitd.v1 import Job, JobState

__all__ = ["describe_job", "job_line", "status_name"]


def status_name(job: Job) -> str:
    """Return the status without its prefix: `RUNNING`."""
    return JobState.Name(job.status).removeprefix("JOB_STATE_")


def job_line(job: Job) -> str:
    """Return the job in one line."""
    line = f"{job.job_id}  {status_name(job):<9}  {job.progress:>3} %"
    if job.attempt > 1:
        line += f"  attempt {job.attempt}"
    text = " ".join(filter(None, (job.failure_reason, job.failure_message))) or job.message
    return line + (f"  {one_line(text)}" if text else "")


def describe_job(job: Job) -> str:
    """Return everything known of the job, a line for each field."""
    fields = {
        "job": job.job_id,
        "type": job.job_type,
        "status": status_name(job),
        "progress": f"{job.progress} %",
        "attempt": str(job.attempt),
        "revision": str(job.revision),
        "message": one_line(job.message),
        "failure": one_line(" ".join(filter(None, (job.failure_reason, job.failure_message)))),
        "source": job.source,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "details": job.details_json,
        "created": _time(job.create_time_unix_nano),
        "updated": _time(job.update_time_unix_nano),
        "lease ends": _time(job.lease_expire_time_unix_nano),
    }
    return "\n".join(f"{name:<10}  {value}" for name, value in fields.items() if value)


def one_line(text: str) -> str:
    """Return the text with everything that would move a terminal's cursor escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _time(unix_nano: int) -> str:
    if not unix_nano:
        return ""
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
