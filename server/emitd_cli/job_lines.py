"""Jobs as plain aligned lines, for pipes: one job a line, nothing cut off."""

import unicodedata
from collections.abc import Iterator, Sequence

from emitd.v1 import Job
from emitd_cli.job_text import last_words, status_name
from emitd_cli.moments import iso_time
from emitd_cli.output import one_line

__all__ = ["job_lines"]

HEADINGS = ("JOB", "TYPE", "STATUS", "PROGRESS", "ATTEMPT", "UPDATED", "MESSAGE")
#: One column that is wider than this no longer widens the others' lines.
MAX_PADDING = 60


def job_lines(jobs: Sequence[Job]) -> Iterator[str]:
    """Return a heading and a line for each job; columns are two spaces apart, the message is the last."""
    rows = [HEADINGS, *map(_cells, jobs)]
    widths = [min(max(map(_columns, column)), MAX_PADDING) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()


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


def _columns(text: str) -> int:
    """How many columns a terminal takes for a printable text."""
    if text.isascii():
        return len(text)
    return sum(_columns_of_character(character) for character in text)


def _columns_of_character(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):  # stands on the character before
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
