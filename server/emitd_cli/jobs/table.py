"""Jobs on a terminal: the table of `emitd job list`, the bars of `emitd job watch`, the table of a history."""

from collections.abc import Collection, Sequence

from rich.progress_bar import ProgressBar
from rich.text import Text

from emitd.v1 import JOB_STATE_FAILED, Job, JobTransition
from emitd_cli.command_line.values import ago, iso_time
from emitd_cli.jobs.board import JobBoard, Row, frame_lines, watch_rows
from emitd_cli.jobs.text import (
    StatusPeriod,
    duration_text,
    elapsed_nanos,
    failure_text,
    is_asked_to_stop,
    last_words,
    lasted_text,
    remaining_nanos,
    status_name,
)
from emitd_cli.terminal.output import clip_middle, one_line
from emitd_cli.terminal.table import Column, draw_columns, fitting, text_column

__all__ = ["bars_frame", "draw_bars", "draw_history", "draw_table", "table_frame"]

STATUS_COLOURS = {"QUEUED": "yellow", "RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red"}

#: A table's columns, those that give way first, and the greatest widths.
TABLE_GIVE_WAY = ("PROGRESS", "ATTEMPT", "TYPE", "UPDATED")
TABLE_BAR_COLUMNS = 14
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

HISTORY_GIVE_WAY = ("REVISION", "DONE", "LASTED")


def draw_table(
    jobs: Sequence[Job],
    now_unix_nano: int,
    width: int | None = None,
    *,
    one_line_each: bool = False,
    dimmed: Collection[int] = (),
) -> str:
    """Return the table of one or more jobs, with colours; ages are counted back from `now_unix_nano`.

    `width` None: as wide as it must be to cut nothing off. `one_line_each`: long ids lose their middle. `dimmed`: the
    jobs to dim, counted from 0.
    """
    short = _short_id_columns(width) if width is not None and one_line_each else None
    columns = [
        text_column("JOB", jobs, lambda job: _id(job, short), overflow="fold"),
        text_column("TYPE", jobs, lambda job: job.job_type),
        text_column("STATUS", jobs, lambda job: status_name(job.status), _colour),
        _bars(jobs, TABLE_BAR_COLUMNS),
        text_column("DONE", jobs, lambda job: f"{job.progress} %", right=True),
        text_column("ATTEMPT", jobs, lambda job: str(job.attempt), right=True),
        text_column("UPDATED", jobs, lambda job: ago(job.update_time_unix_nano, now_unix_nano), right=True),
        text_column("MESSAGE", jobs, last_words, _message_colour),
    ]
    id_columns = max(MIN_ID_COLUMNS, int((width or 0) * MAX_ID_SHARE))
    limits = {"JOB": id_columns, "TYPE": MAX_TABLE_TYPE_COLUMNS}
    return draw_columns(fitting(columns, width, TABLE_GIVE_WAY, limits), dimmed)


def table_frame(board: JobBoard, width: int, height: int, is_final: bool, *, most: int) -> list[str]:
    """Return a frame of `emitd job list --watch`, with at most `most` jobs; those that have left are dim."""
    del is_final  # the last one is like the others
    now = board.clock.now_unix_nano()

    def draw(rows: Sequence[Row]) -> str:
        return draw_table([row.job for row in rows], now, width, one_line_each=True, dimmed=_left_rows(rows))

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
    id_columns = _short_id_columns(width)
    columns = [
        text_column("JOB", rows, lambda row: _id(row.job, id_columns), lambda _: "bold"),
        text_column("TYPE", rows, lambda row: row.job.job_type),
        text_column(
            "STATUS",
            rows,
            lambda row: _status(row.job),
            lambda row: _colour(row.job),
            min_width=STATUS_COLUMNS,
        ),
        _bars([row.job for row in rows], BAR_COLUMNS if width >= WIDE_COLUMNS else NARROW_BAR_COLUMNS),
        text_column("DONE", rows, lambda row: f"{row.job.progress} %", right=True, min_width=len("100 %")),
    ]
    if any(row.job.attempt > 1 for row in rows):
        columns.append(text_column("ATTEMPT", rows, lambda row: str(row.job.attempt), right=True))

    def elapsed(row: Row) -> str:
        return duration_text(elapsed_nanos(row.job, now_unix_nano))

    def left(row: Row) -> str:
        return duration_text(remaining_nanos(row.job, row.start_progress, now_unix_nano))

    folds = is_final and any(row.job.status == JOB_STATE_FAILED for row in rows)
    columns += [
        text_column("ELAPSED", rows, elapsed, right=True, min_width=TIME_COLUMNS),
        text_column("LEFT", rows, left, right=True, min_width=TIME_COLUMNS),
        text_column(
            "MESSAGE", rows, _row_message, _row_message_colour, overflow="fold" if folds else "ellipsis"
        ),
    ]
    limits = {"TYPE": MAX_BAR_TYPE_COLUMNS}
    fitted = fitting(columns, width, BARS_GIVE_WAY, limits, MIN_BAR_MESSAGE_COLUMNS)
    return draw_columns(fitted, _left_rows(rows))


def draw_history(periods: Sequence[StatusPeriod], width: int | None = None) -> str:
    """Return the table of one or more transitions, with colours; reports of mere progress are dim.

    `width` None: as wide as it must be to cut nothing off. A failure goes on in the next line.
    """
    rows = [period.transition for period in periods]
    columns = [
        text_column("TIME", rows, lambda row: iso_time(row.time_unix_nano)),
        text_column("REVISION", rows, lambda row: str(row.revision), right=True),
        text_column("ATTEMPT", rows, lambda row: str(row.attempt), right=True),
        text_column(
            "STATUS", rows, lambda row: "" if row.progress_only else status_name(row.status), _colour
        ),
        text_column("DONE", rows, lambda row: f"{row.progress} %", right=True),
        text_column("LASTED", periods, lasted_text, right=True),
        text_column("FAILURE", rows, failure_text, lambda _: "red", overflow="fold"),
    ]
    dimmed = [number for number, row in enumerate(rows) if row.progress_only]
    return draw_columns(fitting(columns, width, HISTORY_GIVE_WAY, {}), dimmed)


def _bars(jobs: Sequence[Job], width: int) -> Column:
    cells = [
        ProgressBar(100, job.progress, width, complete_style=_colour(job), finished_style=_colour(job))
        if job.status
        else Text()
        for job in jobs
    ]
    return Column("PROGRESS", cells, width)


def _id(job: Job, width: int | None) -> str:
    text = one_line(job.job_id)
    return text if width is None else clip_middle(text, width)


def _short_id_columns(width: int) -> int:
    return max(MIN_SHORT_ID_COLUMNS, int(width * MAX_SHORT_ID_SHARE))


def _left_rows(rows: Sequence[Row]) -> list[int]:
    return [number for number, row in enumerate(rows) if row.left_at is not None]


def _status(job: Job) -> str:
    return status_name(job.status) if job.status else ""


def _colour(job: Job | JobTransition) -> str:
    return STATUS_COLOURS.get(status_name(job.status), "default")


def _message_colour(job: Job) -> str:
    """Return the colour of the job's last words: a failure and a request to cancel must be seen."""
    if is_asked_to_stop(job):
        return "yellow"
    return "red" if job.status == JOB_STATE_FAILED else ""


def _row_message(row: Row) -> str:
    if row.problem:
        return row.problem
    return last_words(row.job) if row.job.status else "no report yet"


def _row_message_colour(row: Row) -> str:
    return "red" if row.problem else _message_colour(row.job)
