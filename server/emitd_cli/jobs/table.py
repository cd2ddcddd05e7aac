"""Jobs as a table on a terminal: `emitd job list`, with --watch or without."""

from collections.abc import Callable, Collection, Sequence

from rich.progress_bar import ProgressBar
from rich.text import Text

from emitd.v1 import Job
from emitd_cli.command_line.timestamps import ago
from emitd_cli.jobs.board import JobBoard, Row
from emitd_cli.jobs.frames import frame_lines
from emitd_cli.jobs.text import is_asked_to_stop, last_words, status_name
from emitd_cli.terminal.columns import clip_middle
from emitd_cli.terminal.console import STATUS_COLOURS
from emitd_cli.terminal.output import one_line
from emitd_cli.terminal.table import Column, draw_columns, fitting, text_column

BAR_COLUMNS = 14
MAX_TYPE_COLUMNS = 24
#: A job's id is what one copies: it is never cut off, unless each job must have one line. One that needs more than
#: this share of the width goes on in the next.
MAX_ID_SHARE = 0.4
MIN_ID_COLUMNS = 16
MAX_SHORT_ID_SHARE = 0.28
MIN_SHORT_ID_COLUMNS = 12
GIVE_WAY = ("PROGRESS", "ATTEMPT", "TYPE", "UPDATED")


def draw_table(
    jobs: Sequence[Job],
    now_unix_nano: int,
    width: int | None = None,
    *,
    one_line_each: bool = False,
    dimmed: Collection[int] = (),
) -> str:
    """Return the table of one or more jobs with its colours; times are told from `now_unix_nano`.

    `width` None: as wide as it must be for nothing to be cut off. `one_line_each`: long ids lose their middle.
    `dimmed`: the jobs that matter less, from 0.
    """
    ids = [one_line(job.job_id) for job in jobs]
    if width is not None and one_line_each:
        ids = short_ids(ids, width)
    columns = _columns(jobs, [Text(job_id) for job_id in ids], now_unix_nano)
    if width is not None:
        limits = {"JOB": max(MIN_ID_COLUMNS, int(width * MAX_ID_SHARE)), "TYPE": MAX_TYPE_COLUMNS}
        columns = fitting(columns, width, GIVE_WAY, limits)
    return draw_columns(columns, dimmed)


def table_frame(board: JobBoard, width: int, height: int, is_final: bool, *, most: int) -> list[str]:
    """Return a frame of `emitd job list --watch`, with at most `most` jobs; those that match no longer are dim."""
    del is_final  # the last one is like the others
    now = board.clock.now_unix_nano()

    def draw(rows: Sequence[Row]) -> list[str]:
        left = [number for number, row in enumerate(rows) if row.left_at is not None]
        jobs = [row.job for row in rows]
        return draw_table(jobs, now, width, one_line_each=True, dimmed=left).splitlines()

    return frame_lines(board.newest_first(), width, height, draw, most) if board.is_complete else []


def short_ids(ids: Sequence[str], width: int) -> list[str]:
    """Return printable ids for a table of `width` where each must have one line."""
    columns = max(MIN_SHORT_ID_COLUMNS, int(width * MAX_SHORT_ID_SHARE))
    return [clip_middle(job_id, columns) for job_id in ids]


def texts(
    jobs: Sequence[Job], text: Callable[[Job], str], style: Callable[[Job], str] = lambda _: ""
) -> list[Text]:
    """Return a printable cell for each job."""
    return [Text(one_line(text(job)), style=style(job)) for job in jobs]


def bar(job: Job, width: int) -> ProgressBar:
    """Return the job's progress as a bar in the colour of its status."""
    colour = status_colour(job)
    return ProgressBar(100, job.progress, width, complete_style=colour, finished_style=colour)


def status_colour(job: Job) -> str:
    """Return the colour of the job's status."""
    return STATUS_COLOURS.get(status_name(job.status), "default")


def message_colour(job: Job) -> str:
    """Return the colour of the job's last words: the reason of a failure, or a wish, is to be seen."""
    if is_asked_to_stop(job):
        return "yellow"
    return "red" if status_colour(job) == "red" else ""


def _columns(jobs: Sequence[Job], ids: Sequence[Text], now_unix_nano: int) -> list[Column]:
    return [
        text_column("JOB", ids, overflow="fold"),
        text_column("TYPE", texts(jobs, lambda job: job.job_type)),
        text_column("STATUS", texts(jobs, lambda job: status_name(job.status), status_colour)),
        Column("PROGRESS", [bar(job, BAR_COLUMNS) for job in jobs], BAR_COLUMNS),
        text_column("DONE", texts(jobs, lambda job: f"{job.progress} %"), "right"),
        text_column("ATTEMPT", texts(jobs, lambda job: str(job.attempt)), "right"),
        text_column(
            "UPDATED", texts(jobs, lambda job: ago(job.update_time_unix_nano, now_unix_nano)), "right"
        ),
        text_column("MESSAGE", texts(jobs, last_words, message_colour)),
    ]
