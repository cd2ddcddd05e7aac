"""What a frame of a watch of jobs consists of: a heading, as many jobs as fit, and how many more there are."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from emitd_cli.jobs.board import JobBoard, Row, active_first
from emitd_cli.jobs.lines import job_lines
from emitd_cli.jobs.text import STATUSES
from emitd_cli.terminal.columns import clip

#: Draws a heading and a line for each of some rows.
DrawRows: TypeAlias = Callable[[Sequence[Row]], Sequence[str]]

NO_JOBS = "no job is like that"


def frame_lines(
    rows: Sequence[Row], width: int, height: int, draw: DrawRows, most: int | None = None
) -> list[str]:
    """Return the lines of a frame no higher than `height`, with at most `most` of the rows."""
    if not rows:
        return [clip(NO_JOBS, width)]
    room = _room(height)
    most = len(rows) if most is None else min(most, len(rows))
    if most > room or most < len(rows):
        most = min(most, max(room - 1, 1))
    rest = rows[most:]
    return [*draw(rows[:most]), *([clip(_how_many_more(rest), width)] if rest else ())]


def watch_rows(board: JobBoard, height: int) -> list[Row]:
    """Return the rows for `emitd job watch`: in the order of the ids that were given, where all of them fit.

    Else the active ones first, and without ids the newest of them.
    """
    if not board.has_order:
        return active_first(board.newest_first())
    rows = list(board.rows.values())
    return rows if len(rows) <= _room(height) else active_first(rows)


def lines_frame(board: JobBoard, width: int, height: int, is_final: bool, *, most: int) -> list[str]:
    """Return a frame of plain lines, for where there is no rich: the jobs in the order of a list."""
    del is_final  # the last one is like the others

    def draw(rows: Sequence[Row]) -> list[str]:
        return [clip(line, width) for line in job_lines([row.job for row in rows])]

    return frame_lines(board.newest_first(), width, height, draw, most) if board.is_complete else []


def _room(height: int) -> int:
    # One line is the heading's, and one is to spare: whoever presses a key sees it there.
    return max(height - 2, 1)


def _how_many_more(rows: Sequence[Row]) -> str:
    counts = Counter(row.job.status for row in rows)
    each = [f"{counts[status]} {name}" for name, status in STATUSES.items() if counts[status]]
    return f"and {len(rows)} more{': ' if each else ''}{', '.join(each)}"
