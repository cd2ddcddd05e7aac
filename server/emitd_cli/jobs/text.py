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
from emitd_cli.command_line.suggestions import not_one_of
from emitd_cli.errors import Misuse
from emitd_cli.terminal.columns import columns_of
from emitd_cli.terminal.output import one_line

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


def has_ended(job: Job) -> bool:
    """Return whether the newest attempt has ended."""
    return job.status in (JOB_STATE_COMPLETED, JOB_STATE_FAILED)


def is_asked_to_stop(job: Job) -> bool:
    """Return whether someone asked for the job to be cancelled, and it has not ended yet."""
    return job.cancel_requested and not has_ended(job)


def failure_text(failed: Job | JobTransition) -> str:
    """Return why an attempt failed: the word for programs, then the sentence for people."""
    return " ".join(filter(None, (failed.failure_reason, failed.failure_message)))


def last_words(job: Job) -> str:
    """Return why the job failed, or else its last message; before it the wish to cancel a job that goes on."""
    wish = f"(cancel requested{_reason(job)})" if is_asked_to_stop(job) else ""
    return " ".join(filter(None, (wish, failure_text(job) or job.message)))


def job_line(job: Job, id_width: int = 0) -> str:
    """Return the job in one line; its id takes at least `id_width` columns."""
    line = _line(job.job_id, job.status, job.progress, job.attempt, id_width)
    return _with(line, last_words(job))


def transition_line(job_id: str, transition: JobTransition, id_width: int = 0) -> str:
    """Return a change of a job's status in one line, like `job_line`."""
    line = _line(job_id, transition.status, transition.progress, transition.attempt, id_width)
    return _with(line, failure_text(transition))


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
        "failure": failure_text(job),
        "cancel": f"requested{_reason(job)}" if job.cancel_requested else "",
        "source": job.source,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "details": job.details_json,
        "created": _time(job.create_time_unix_nano),
        "started": _time(job.start_time_unix_nano),
        "updated": _time(job.update_time_unix_nano),
        "ended": _time(job.end_time_unix_nano),
        "lease ends": _time(job.lease_expire_time_unix_nano),
    }
    return "\n".join(f"{name:<10}  {one_line(value)}" for name, value in fields.items() if value)


def _line(job_id: str, status: JobState, progress: int, attempt: int, id_width: int) -> str:
    name = one_line(job_id)
    name += " " * (id_width - columns_of(name))
    line = f"{name}  {status_name(status):<9}  {progress:>3} %"
    return f"{line}  attempt {attempt}" if attempt > 1 else line


def _with(line: str, text: str) -> str:
    return f"{line}  {one_line(text)}" if text else line


def _reason(job: Job) -> str:
    return f": {job.cancel_reason}" if job.cancel_reason else ""


def _time(unix_nano: int) -> str:
    if not unix_nano:
        return ""
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
