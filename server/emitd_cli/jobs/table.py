"""Jobs on a terminal: the table of `emitd job list`, the bars of `emitd job watch`, the table of a history."""

from collections.abc import Collection, Sequence

from rich.progress_bar import ProgressBar
from rich.text import Text

from emitd.v1 import JOB_STATE_FAILED, Job, JobTransition
from emitd_cli.command_line.values import status_name
from emitd_cli.jobs.board import JobBoard, Row, frame_lines, watch_rows
from emitd_cli.jobs.text import (
    HISTORY_HEADINGS,
    JOB_HEADINGS,
    StatusPeriod,
    duration_text,
    elapsed_nanos,
    is_asked_to_stop,
    job_cells,
    last_words,
    period_cells,
    remaining_nanos,
)
from emitd_cli.terminal.output import clip_middle, one_line
from emitd_cli.terminal.table import Column, draw_columns, fitting, text_columns

STATUS_COLOURS = {"QUEUED": "yellow", "RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red"}

#: The columns of a table that give way, the first to go first.
TABLE_GIVE_WAY = ("ATTEMPT", "TYPE", "UPDATED")
MAX_TABLE_TYPE_COLUMNS = 24
#: A job's id is there to be copied: it is cut only if each job must have one line. Otherwise an id that needs more than
#: this share of the width goes on in the next line.
MAX_ID_SHARE = 0.4
MIN_ID_COLUMNS = 16
MAX_SHORT_ID_SHARE = 0.28
MIN_SHORT_ID_COLUMNS = 12

#: The same of bars.
BARS_GIVE_WAY = ("TYPE", "ATTEMPT", "LEFT", "ELAPSED", "PROGRESS")
BAR_COLUMNS = 16
NARROW_BAR_COLUMNS = 10
#: Bars are short in a narrower terminal.
WIDE_COLUMNS = 100
MAX_BAR_TYPE_COLUMNS = 16
MIN_BAR_MESSAGE_COLUMNS = 16
#: The width of COMPLETED: a column that changes its width all the time cannot be read.
STATUS_COLUMNS = 9
TIME_COLUMNS = 7

HISTORY_GIVE_WAY = ("REVISION", "PROGRESS", "LASTED")


def draw_table(
    jobs: Sequence[Job],
    width: int | None = None,
    *,
    one_line_each: bool = False,
    dimmed: Collection[int] = (),
) -> str:
    """Return the table of one or more jobs: the columns of a pipe, with colours.

    `width` None: as wide as it must be to cut nothing off. `one_line_each`: long ids lose their middle. `dimmed`: the
    jobs to dim, counted from 0.
    """
    columns = text_columns(JOB_HEADINGS, map(job_cells, jobs), right=("PROGRESS", "ATTEMPT"))
    if width is not None and one_line_each:
        columns[0] = _id_column(jobs, _short_id_columns(width))
    columns[0] = columns[0]._replace(overflow="fold")
    columns[2] = columns[2].styled(map(_colour, jobs))
    columns[-1] = columns[-1].styled(map(_message_colour, jobs))
    limits = {"JOB": max(MIN_ID_COLUMNS, int((width or 0) * MAX_ID_SHARE)), "TYPE": MAX_TABLE_TYPE_COLUMNS}
    return draw_columns(fitting(columns, width, TABLE_GIVE_WAY, limits), dimmed)


def table_frame(board: JobBoard, width: int, height: int, is_final: bool, *, most: int) -> list[str]:
    """Return a frame of `emitd job list --watch`, with at most `most` jobs; those that have left are dim."""
    del is_final  # the last one is like the others

    def draw(rows: Sequence[Row]) -> str:
        return draw_table([row.job for row in rows], width, one_line_each=True, dimmed=_left_rows(rows))

    return frame_lines(board.newest_first(), width, height, draw, most) if board.is_complete else []


def bars_frame(board: JobBoard, width: int, height: int, is_final: bool) -> list[str]:
    """Return a frame of `emitd job watch`; a final one has all jobs of the command line, whatever the height."""
    if not board.is_complete:
        return []
    now = board.clock.now_unix_nano()
    if is_final and board.has_order:
        height = len(board.rows) + 2
    rows = watch_rows(board, height)
    return frame_lines(rows, width, height, lambda shown: draw_bars(shown, now, width, is_final=is_final))


def draw_bars(rows: Sequence[Row], now_unix_nano: int, width: int, *, is_final: bool = False) -> str:
    """Return a heading and a line for each of one or more jobs, with colours, no line wider than `width`.

    `is_final`: nothing will be drawn over it, so the reason of a failure may go on in further lines.
    """
    jobs = [row.job for row in rows]
    headings = ("JOB", "TYPE", "STATUS", "DONE", "ATTEMPT", "ELAPSED", "LEFT", "MESSAGE")
    cells = [_bar_cells(row, now_unix_nano) for row in rows]
    _, kind, status, done, attempt, elapsed, left, message = text_columns(
        headings, cells, right=("DONE", "ATTEMPT", "ELAPSED", "LEFT")
    )
    if is_final and any(job.status == JOB_STATE_FAILED for job in jobs):
        message = message._replace(overflow="fold")
    columns = [
        _id_column(jobs, _short_id_columns(width)).styled(["bold"] * len(jobs)),
        kind,
        status.styled(map(_colour, jobs)).at_least(STATUS_COLUMNS),
        _progress_column(jobs, BAR_COLUMNS if width >= WIDE_COLUMNS else NARROW_BAR_COLUMNS),
        done.at_least(len("100 %")),
        *([attempt] if any(job.attempt > 1 for job in jobs) else ()),
        elapsed.at_least(TIME_COLUMNS),
        left.at_least(TIME_COLUMNS),
        message.styled("red" if row.problem else _message_colour(row.job) for row in rows),
    ]
    limits = {"TYPE": MAX_BAR_TYPE_COLUMNS}
    fitted = fitting(columns, width, BARS_GIVE_WAY, limits, MIN_BAR_MESSAGE_COLUMNS)
    return draw_columns(fitted, _left_rows(rows))


def draw_history(periods: Sequence[StatusPeriod], width: int | None = None) -> str:
    """Return the table of one or more transitions: the columns of a pipe, with colours; mere progress is dim.

    `width` None: as wide as it must be to cut nothing off. A failure goes on in the next line.
    """
    right = ("REVISION", "ATTEMPT", "PROGRESS", "LASTED")
    columns = text_columns(HISTORY_HEADINGS, map(period_cells, periods), right=right)
    columns[3] = columns[3].styled(_colour(period.transition) for period in periods)
    columns[-1] = columns[-1].styled(["red"] * len(periods))._replace(overflow="fold")
    dimmed = [number for number, period in enumerate(periods) if period.transition.progress_only]
    return draw_columns(fitting(columns, width, HISTORY_GIVE_WAY, {}), dimmed)


def _bar_cells(row: Row, now_unix_nano: int) -> Sequence[str]:
    job = row.job
    message = last_words(job) if job.status else "no report yet"
    return (
        job.job_id,
        job.job_type,
        status_name(job.status) if job.status else "",
        f"{job.progress} %",
        str(job.attempt),
        duration_text(elapsed_nanos(job, now_unix_nano)),
        duration_text(remaining_nanos(job, row.start_progress, now_unix_nano)),
        row.problem or message,
    )


def _progress_column(jobs: Sequence[Job], width: int) -> Column:
    cells = [
        ProgressBar(100, job.progress, width, complete_style=_colour(job), finished_style=_colour(job))
        if job.status
        else Text()
        for job in jobs
    ]
    return Column("PROGRESS", cells, width)


def _id_column(jobs: Sequence[Job], width: int) -> Column:
    """Return the ids, each without its middle if it is longer: ids mostly differ at the end."""
    (column,) = text_columns(("JOB",), [(clip_middle(one_line(job.job_id), width),) for job in jobs])
    return column


def _short_id_columns(width: int) -> int:
    return max(MIN_SHORT_ID_COLUMNS, int(width * MAX_SHORT_ID_SHARE))


def _left_rows(rows: Sequence[Row]) -> list[int]:
    return [number for number, row in enumerate(rows) if row.left_at is not None]


def _colour(job: Job | JobTransition) -> str:
    return STATUS_COLOURS.get(status_name(job.status), "default")


def _message_colour(job: Job) -> str:
    """Return the colour of the job's last words: a failure and a request to cancel must be seen."""
    if is_asked_to_stop(job):
        return "yellow"
    return "red" if job.status == JOB_STATE_FAILED else ""
