"""Jobs as plain aligned lines, for pipes: one job a line, nothing cut off."""

from collections.abc import Iterator, Sequence

from emitd.v1 import Job
from emitd_cli.command_line.timestamps import iso_time
from emitd_cli.jobs.text import last_words, status_name
from emitd_cli.terminal.columns import aligned
from emitd_cli.terminal.output import one_line

HEADINGS = ("JOB", "TYPE", "STATUS", "PROGRESS", "ATTEMPT", "UPDATED", "MESSAGE")


def job_lines(jobs: Sequence[Job]) -> Iterator[str]:
    """Return a heading and a line for each job; columns are two spaces apart, the message is the last."""
    return aligned([HEADINGS, *map(_cells, jobs)])


def _cells(job: Job) -> tuple[str, ...]:
    cells = (
        job.job_id,
        job.job_type,
        status_name(job.status),
        f"{job.progress}%",
        str(job.attempt),
        iso_time(job.update_time_unix_nano),
        last_words(job),
    )
    return tuple(map(one_line, cells))
