"""A job's history in words: each change, and how long the job stood as it left it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from emitd.v1 import JOB_STATE_COMPLETED, JOB_STATE_FAILED, JobTransition
from emitd_cli.command_line.timestamps import iso_time
from emitd_cli.jobs.durations import NANOS, duration_text
from emitd_cli.jobs.text import failure_text, status_name
from emitd_cli.terminal.columns import aligned
from emitd_cli.terminal.output import one_line

HEADINGS = ("TIME", "REVISION", "ATTEMPT", "STATUS", "PROGRESS", "LASTED", "FAILURE")
#: A shorter time is told with a decimal.
MINUTE_NANOS = 60 * NANOS


class Stay(NamedTuple):
    """A change of status, or a report of mere progress, and what followed."""

    transition: JobTransition
    #: Until the next change of status, by the times that the reports gave; None: there is none, or of mere progress.
    #: Less than nothing where clocks of reporters differ.
    nanos: int | None = None
    #: The job stands there still.
    is_current: bool = False


def stays_of(transitions: Sequence[JobTransition], now_unix_nano: int) -> list[Stay]:
    """Return a Stay for each of a job's transitions, in their order: the oldest first, up to the newest there is."""
    stays: list[Stay] = []
    until, is_current = now_unix_nano, True
    for transition in reversed(transitions):
        if transition.progress_only:
            stays.append(Stay(transition))
            continue
        is_end = is_current and transition.status in (JOB_STATE_COMPLETED, JOB_STATE_FAILED)
        nanos = None if is_end else until - transition.time_unix_nano
        stays.append(Stay(transition, nanos, is_current and not is_end))
        until, is_current = transition.time_unix_nano, False
    return stays[::-1]


def lasted_text(stay: Stay) -> str:
    """Return how long it lasted; empty where there is nothing to tell."""
    if stay.nanos is None or stay.nanos < 0:
        return ""
    short = stay.nanos < MINUTE_NANOS
    text = f"{stay.nanos // (NANOS // 10) / 10} s" if short else duration_text(stay.nanos)
    return f"{text} so far" if stay.is_current else text


def stay_lines(stays: Sequence[Stay]) -> Iterator[str]:
    """Yield a heading and a line for each; nothing is cut off."""
    return aligned([HEADINGS, *map(_cells, stays)])


def _cells(stay: Stay) -> tuple[str, ...]:
    transition = stay.transition
    cells = (
        iso_time(transition.time_unix_nano),
        str(transition.revision),
        str(transition.attempt),
        "" if transition.progress_only else status_name(transition.status),
        f"{transition.progress}%",
        lasted_text(stay),
        failure_text(transition),
    )
    # No column but the last is empty, for programs that count them.
    return (*(cell or "-" for cell in cells[:-1]), one_line(cells[-1]))
