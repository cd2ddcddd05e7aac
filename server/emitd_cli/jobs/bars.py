"""The bars of a watch on a terminal, drawn by `rich`.

rich itself would squeeze every column alike until none can be read, so the widths are fixed before it draws.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from emitd.records.levels import job_state_name
from emitd.v1 import JOB_STATE_FAILED, Job
from emitd_cli.jobs.board import JobBoard, Row, frame_lines, watch_rows
from emitd_cli.jobs.text import duration_text, elapsed_nanos, is_asked_to_stop, last_words, remaining_nanos
from emitd_cli.terminal.output import GAP, clip_middle, one_line
from emitd_cli.terminal.progress import make_console

STATUS_COLOURS = {"QUEUED": "yellow", "RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red"}
#: The columns that give way, the first to go first, until the message has this width. With less than the least it goes.
GIVE_WAY = ("TYPE", "ATTEMPT", "LEFT", "ELAPSED", "PROGRESS")
MIN_MESSAGE_COLUMNS = 16
LEAST_MESSAGE_COLUMNS = 8
#: An id that needs more than this share of the width loses its middle.
MAX_ID_SHARE = 0.28
MIN_ID_COLUMNS = 12
MAX_TYPE_COLUMNS = 16
BAR_COLUMNS = 16
NARROW_BAR_COLUMNS = 10
#: Bars are short in a narrower terminal.
WIDE_COLUMNS = 100
#: A column that changes its width all the time cannot be read; these are the widths of COMPLETED, `100 %` and a time.
STATUS_COLUMNS, DONE_COLUMNS, TIME_COLUMNS = 9, 5, 7

_SPACES_AT_END = re.compile(r" +((?:\x1b\[[\d;]*m)*)$", re.MULTILINE)


class Column(NamedTuple):
    """A column: its heading, a cell for each row, and its width."""

    heading: str
    cells: Sequence[Text | ProgressBar]
    width: int
    is_right: bool = False


def bars_frame(
    board: JobBoard, width: int, height: int, is_final: bool, *, most: int | None = None
) -> list[str]:
    """Return a frame of a watch, with at most `most` jobs; a final one has all jobs of the command line."""
    if not board.is_complete:
        return []
    if is_final and board.has_order:
        height = len(board.rows) + 2
    rows = watch_rows(board, height)
    return frame_lines(rows, width, height, lambda shown: draw_bars(shown, width, is_final=is_final), most)


def draw_bars(rows: Sequence[Row], width: int, *, is_final: bool = False) -> str:
    """Return a heading and a line for each of one or more jobs, with colours, no line wider than `width`.

    `is_final`: nothing will be drawn over it, so the reason of a failure may go on in further lines.
    """
    jobs = [row.job for row in rows]
    colours = [_colour(job) for job in jobs]
    id_columns = max(MIN_ID_COLUMNS, int(width * MAX_ID_SHARE))
    bar_columns = BAR_COLUMNS if width >= WIDE_COLUMNS else NARROW_BAR_COLUMNS
    elapsed = [duration_text(elapsed_nanos(job)) for job in jobs]
    left = [duration_text(remaining_nanos(row.job, row.start_progress)) for row in rows]
    words = [row.problem or (last_words(row.job) if row.job.status else "no report yet") for row in rows]
    columns = [
        # Ids mostly differ at the end.
        _texts("JOB", (clip_middle(one_line(job.job_id), id_columns) for job in jobs), ["bold"] * len(jobs)),
        _texts("TYPE", (job.job_type for job in jobs), most=MAX_TYPE_COLUMNS),
        _texts(
            "STATUS",
            (job_state_name(job.status) if job.status else "" for job in jobs),
            colours,
            STATUS_COLUMNS,
        ),
        Column("PROGRESS", [_bar(job, bar_columns) for job in jobs], bar_columns),
        _texts("DONE", (f"{job.progress} %" for job in jobs), least=DONE_COLUMNS, is_right=True),
        _texts("ATTEMPT", (str(job.attempt) for job in jobs), is_right=True),
        _texts("ELAPSED", elapsed, least=TIME_COLUMNS, is_right=True),
        _texts("LEFT", left, least=TIME_COLUMNS, is_right=True),
        _texts("MESSAGE", words, map(_message_colour, rows)),
    ]
    if all(job.attempt <= 1 for job in jobs):
        columns = [column for column in columns if column.heading != "ATTEMPT"]
    folds = is_final and any(job.status == JOB_STATE_FAILED for job in jobs)
    return _draw(_fitting(columns, width), [row.left_at is not None for row in rows], folds=folds)


def _texts(
    heading: str,
    texts: Iterable[str],
    styles: Iterable[str] | None = None,
    least: int = 0,
    most: int = 10_000,
    *,
    is_right: bool = False,
) -> Column:
    lines = [one_line(text) for text in texts]
    cells = [Text(line, style) for line, style in zip(lines, styles or [""] * len(lines), strict=True)]
    width = min(max(least, *map(cell_len, [heading, *lines])), most)
    return Column(heading, cells, width, is_right)


def _bar(job: Job, width: int) -> Text | ProgressBar:
    colour = _colour(job)
    bar = ProgressBar(100, job.progress, width, complete_style=colour, finished_style=colour)
    return bar if job.status else Text()


def _fitting(columns: Sequence[Column], width: int) -> Sequence[Column]:
    """Leave out columns until the last one has room, and give it the rest of the width."""
    kept = list(columns)
    for heading in ("", *GIVE_WAY):
        kept = [column for column in kept if column.heading != heading]
        room = width - _total_width(kept[:-1]) - len(GAP)
        if room >= min(kept[-1].width, MIN_MESSAGE_COLUMNS):
            break
    message = kept.pop()
    if room >= LEAST_MESSAGE_COLUMNS or room >= message.width:
        kept.append(message._replace(width=min(message.width, room)))
    return kept


def _draw(columns: Sequence[Column], dimmed: Sequence[bool], *, folds: bool) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for column in columns:
        can_fold = folds and column.heading == "MESSAGE"
        table.add_column(
            column.heading,
            width=column.width,
            justify="right" if column.is_right else "left",
            overflow="fold" if can_fold else "ellipsis",
            no_wrap=not can_fold,
        )
    for is_dim, *cells in zip(dimmed, *(column.cells for column in columns), strict=True):
        table.add_row(*cells, style="dim" if is_dim else None)
    console = make_console(width=_total_width(columns))
    with console.capture() as captured:
        console.print(table)
    # rich fills each line up to the full width; copied text would end in spaces.
    return _SPACES_AT_END.sub(r"\1", captured.get())


def _total_width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def _colour(job: Job) -> str:
    return STATUS_COLOURS.get(job_state_name(job.status), "default")


def _message_colour(row: Row) -> str:
    """Return the colour of the job's last words: a failure and a request to cancel must be seen."""
    if is_asked_to_stop(row.job) and not row.problem:
        return "yellow"
    return "red" if row.problem or row.job.status == JOB_STATE_FAILED else ""
