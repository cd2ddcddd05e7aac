"""Jobs and their history in words: one line, several fields, or plain columns for a pipe."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from emitd.records.levels import job_state_name
from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    Job,
    JobState,
    JobTransition,
)
from emitd_cli.command_line.values import iso_time, utc_text
from emitd_cli.terminal.output import aligned, columns_of, field_lines, one_line

NANOS = 1_000_000_000
#: Shorter periods are shown with a decimal.
MINUTE_NANOS = 60 * NANOS
#: Shown for a duration that is not known.
NOTHING = "–"
#: A rate measured over less than this says nothing.
MIN_MEASURED_NANOS = 2 * NANOS

JOB_HEADINGS = ("JOB", "TYPE", "STATUS", "PROGRESS", "ATTEMPT", "UPDATED", "MESSAGE")
HISTORY_HEADINGS = ("TIME", "REVISION", "ATTEMPT", "STATUS", "PROGRESS", "LASTED", "FAILURE")


def has_ended(job: Job) -> bool:
    """Return whether the newest attempt has ended."""
    return job.status in (JOB_STATE_COMPLETED, JOB_STATE_FAILED)


def is_asked_to_stop(job: Job) -> bool:
    """Return whether cancelling was requested, and the job has not ended yet."""
    return job.cancel_requested and not has_ended(job)


def failure_text(failed: Job | JobTransition) -> str:
    """Return why an attempt failed: the word for programs, then the sentence for people."""
    return " ".join(filter(None, (failed.failure_reason, failed.failure_message)))


def last_words(job: Job) -> str:
    """Return why the job failed, or else its last message, after a request to cancel that is still open."""
    wish = f"(cancel requested{_reason(job)})" if is_asked_to_stop(job) else ""
    return " ".join(filter(None, (wish, failure_text(job) or job.message)))


def job_line(job: Job, id_width: int = 0) -> str:
    """Return the job in one line; its id takes at least `id_width` columns."""
    line = _line(job.job_id, job.status, job.progress, job.attempt, id_width)
    return _with(line, last_words(job))


def transition_line(job_id: str, transition: JobTransition, id_width: int = 0) -> str:
    """Return a transition of a job in one line, like `job_line`."""
    line = _line(job_id, transition.status, transition.progress, transition.attempt, id_width)
    return _with(line, failure_text(transition))


def describe_job(job: Job) -> str:
    """Return everything known of the job, a line for each field."""
    fields = {
        "job": job.job_id,
        "type": job.job_type,
        "status": job_state_name(job.status),
        "progress": f"{job.progress} %",
        "attempt": str(job.attempt),
        "revision": str(job.revision),
        "message": job.message,
        "failure": failure_text(job),
        "cancel": f"requested{_reason(job)}" if job.cancel_requested else "",
        "source": job.source,
        "owner": job.owner,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "details": job.details_json,
        "created": utc_text(job.create_time_unix_nano),
        "started": utc_text(job.start_time_unix_nano),
        "updated": utc_text(job.update_time_unix_nano),
        "ended": utc_text(job.end_time_unix_nano),
        "lease ends": utc_text(job.lease_expire_time_unix_nano),
    }
    return field_lines(fields)


def _line(job_id: str, status: JobState, progress: int, attempt: int, id_width: int) -> str:
    name = one_line(job_id)
    name += " " * (id_width - columns_of(name))
    line = f"{name}  {job_state_name(status):<9}  {progress:>3} %"
    return f"{line}  attempt {attempt}" if attempt > 1 else line


def _with(line: str, text: str) -> str:
    return f"{line}  {one_line(text)}" if text else line


def _reason(job: Job) -> str:
    return f": {job.cancel_reason}" if job.cancel_reason else ""


def elapsed_nanos(job: Job) -> int | None:
    """Return how long the newest attempt has run, or ran until it ended; None: it was never RUNNING."""
    if not job.start_time_unix_nano:
        return None
    return max((job.end_time_unix_nano or time.time_ns()) - job.start_time_unix_nano, 0)


def remaining_nanos(job: Job, start_progress: int) -> int | None:
    """Return how long the job will take at the rate since its start; None: not known.

    `start_progress`: the progress with which the attempt began to run.
    """
    elapsed = elapsed_nanos(job)
    done = job.progress - start_progress
    if job.status != JOB_STATE_RUNNING or elapsed is None or elapsed < MIN_MEASURED_NANOS or done <= 0:
        return None
    return elapsed * (100 - job.progress) // done


def duration_text(nanos: int | None) -> str:
    """Return a duration as `0:07`, `1:02:03` or, from 100 hours on, `5 d 2 h`."""
    if nanos is None or nanos < 0:
        return NOTHING
    minutes, seconds = divmod(nanos // NANOS, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def job_lines(jobs: Sequence[Job]) -> Iterator[str]:
    """Yield a heading and a line for each job, nothing without jobs; the message is the last column."""
    return aligned(JOB_HEADINGS, map(_job_cells, jobs))


def _job_cells(job: Job) -> tuple[str, ...]:
    """Return a job's cells under JOB_HEADINGS."""
    cells = (
        job.job_id,
        job.job_type,
        job_state_name(job.status),
        f"{job.progress}%",
        str(job.attempt),
        iso_time(job.update_time_unix_nano),
        last_words(job),
    )
    return tuple(map(one_line, cells))


class StatusPeriod(NamedTuple):
    """A transition, or a report of mere progress, and how long the job kept that status."""

    transition: JobTransition
    #: Until the next transition, by the times in the reports; None after the end, and for mere progress. Negative if
    #: the clocks of two reporters differ.
    nanos: int | None = None
    #: The job still has this status.
    is_current: bool = False


def status_periods(transitions: Sequence[JobTransition], now_unix_nano: int) -> list[StatusPeriod]:
    """Return a period for each of a job's transitions, in their order: the oldest first, and up to the newest."""
    periods: list[StatusPeriod] = []
    until, is_current = now_unix_nano, True
    for transition in reversed(transitions):
        if transition.progress_only:
            periods.append(StatusPeriod(transition))
            continue
        is_end = is_current and transition.status in (JOB_STATE_COMPLETED, JOB_STATE_FAILED)
        nanos = None if is_end else until - transition.time_unix_nano
        periods.append(StatusPeriod(transition, nanos, is_current and not is_end))
        until, is_current = transition.time_unix_nano, False
    return periods[::-1]


def lasted_text(period: StatusPeriod) -> str:
    """Return how long a period lasted, or empty."""
    if period.nanos is None or period.nanos < 0:
        return ""
    short = period.nanos < MINUTE_NANOS
    text = f"{period.nanos // (NANOS // 10) / 10} s" if short else duration_text(period.nanos)
    return f"{text} so far" if period.is_current else text


def history_lines(periods: Sequence[StatusPeriod]) -> Iterator[str]:
    """Yield a heading and a line for each, nothing without periods."""
    return aligned(HISTORY_HEADINGS, map(_period_cells, periods))


def _period_cells(period: StatusPeriod) -> tuple[str, ...]:
    """Return a period's cells under HISTORY_HEADINGS; none but the last is empty, so that programs can split lines."""
    transition = period.transition
    cells = (
        iso_time(transition.time_unix_nano),
        str(transition.revision),
        str(transition.attempt),
        "" if transition.progress_only else job_state_name(transition.status),
        f"{transition.progress}%",
        lasted_text(period),
        failure_text(transition),
    )
    return (*(cell or "-" for cell in cells[:-1]), one_line(cells[-1]))
