"""The jobs of `emitd job watch` on a terminal: a bar and a line for each."""

from collections.abc import Callable, Sequence

from rich.text import Text

from emitd.v1 import JOB_STATE_FAILED
from emitd_cli.jobs.board import JobBoard, Row
from emitd_cli.jobs.durations import duration_text, elapsed_nanos, remaining_nanos
from emitd_cli.jobs.frames import frame_lines, watch_rows
from emitd_cli.jobs.table import bar, message_colour, short_ids, status_colour
from emitd_cli.jobs.text import last_words, status_name
from emitd_cli.terminal.output import one_line
from emitd_cli.terminal.table import Cell, Column, draw_columns, fitting, text_column

BAR_COLUMNS = 16
NARROW_BAR_COLUMNS = 10
#: In a narrower terminal bars are short.
WIDE_COLUMNS = 100
MAX_TYPE_COLUMNS = 16
MIN_MESSAGE_COLUMNS = 16
#: The width of COMPLETED: a column that grows and shrinks all the time cannot be read.
STATUS_COLUMNS = 9
TIME_COLUMNS = 7
GIVE_WAY = ("TYPE", "ATTEMPT", "LEFT", "ELAPSED", "PROGRESS")


def bars_frame(board: JobBoard, width: int, height: int, is_final: bool) -> list[str]:
    """Return a frame of `emitd job watch`; a final one has all the jobs that were named, whatever the height."""
    if not board.is_complete:
        return []
    now = board.clock.now_unix_nano()
    if is_final and board.has_order:
        height = len(board.rows) + 2

    def draw(rows: Sequence[Row]) -> list[str]:
        return draw_bars(rows, now, width, is_final=is_final).splitlines()

    return frame_lines(watch_rows(board, height), width, height, draw)


def draw_bars(rows: Sequence[Row], now_unix_nano: int, width: int, *, is_final: bool = False) -> str:
    """Return a heading and a line for each of one or more jobs, with colours, no line wider than `width`.

    `is_final`: nothing will be drawn over it, so that why a job has failed may go on in further lines.
    """
    bar_width = BAR_COLUMNS if width >= WIDE_COLUMNS else NARROW_BAR_COLUMNS
    ids = short_ids([one_line(row.job.job_id) for row in rows], width)
    columns = _columns(rows, ids, now_unix_nano, bar_width)
    if is_final and any(row.job.status == JOB_STATE_FAILED for row in rows):
        columns[-1] = columns[-1]._replace(overflow="fold")
    limits = {"TYPE": MAX_TYPE_COLUMNS}
    left = [number for number, row in enumerate(rows) if row.left_at is not None]
    return draw_columns(fitting(columns, width, GIVE_WAY, limits, MIN_MESSAGE_COLUMNS), left)


def _columns(rows: Sequence[Row], ids: Sequence[str], now_unix_nano: int, bar_width: int) -> list[Column]:
    def texts(text: Callable[[Row], str], style: Callable[[Row], str] = lambda _: "") -> list[Text]:
        return [Text(one_line(text(row)), style=style(row)) for row in rows]

    bars: list[Cell] = [bar(row.job, bar_width) if row.job.status else Text() for row in rows]
    columns = [
        text_column("JOB", [Text(job_id, style="bold") for job_id in ids]),
        text_column("TYPE", texts(lambda row: row.job.job_type)),
        text_column("STATUS", texts(_status, lambda row: status_colour(row.job)), min_width=STATUS_COLUMNS),
        Column("PROGRESS", bars, bar_width),
        text_column("DONE", texts(lambda row: f"{row.job.progress} %"), "right", min_width=len("100 %")),
    ]
    if any(row.job.attempt > 1 for row in rows):
        columns.append(text_column("ATTEMPT", texts(lambda row: str(row.job.attempt)), "right"))
    return [
        *columns,
        text_column(
            "ELAPSED",
            texts(lambda row: duration_text(elapsed_nanos(row.job, now_unix_nano))),
            "right",
            min_width=TIME_COLUMNS,
        ),
        text_column("LEFT", texts(lambda row: _left(row, now_unix_nano)), "right", min_width=TIME_COLUMNS),
        text_column("MESSAGE", texts(_message, _message_colour)),
    ]


def _status(row: Row) -> str:
    return status_name(row.job.status) if row.job.status else ""


def _left(row: Row, now_unix_nano: int) -> str:
    return duration_text(remaining_nanos(row.job, row.start_progress, now_unix_nano))


def _message(row: Row) -> str:
    if row.problem:
        return row.problem
    return last_words(row.job) if row.job.status else "no report yet"


def _message_colour(row: Row) -> str:
    return "red" if row.problem else message_colour(row.job)
