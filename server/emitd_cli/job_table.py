"""Jobs as a table on a terminal, drawn by `rich`: as many columns as its width has room for.

rich itself would squeeze every column alike until none can be read. Here the widths are fixed beforehand.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from emitd.v1 import Job
from emitd_cli.job_text import last_words, status_name
from emitd_cli.moments import ago
from emitd_cli.output import one_line
from emitd_cli.terminal import STATUS_COLOURS, make_console

__all__ = ["draw_table"]

BAR_COLUMNS = 14
GAP_COLUMNS = 2
MAX_TYPE_COLUMNS = 24
#: A job's id is what one copies: it is never cut off. One that needs more than this share of the width goes on in
#: the next line.
MAX_ID_SHARE = 0.4
MIN_ID_COLUMNS = 16
#: Other columns give way to the message, in this order, until it has so much room.
MIN_MESSAGE_COLUMNS = 24
GIVE_WAY = ("PROGRESS", "ATTEMPT", "TYPE", "UPDATED", "MESSAGE")

_SPACES_AT_END = re.compile(r" +((?:\x1b\[[\d;]*m)*)$", re.MULTILINE)

Cell: TypeAlias = Text | ProgressBar


class _Column(NamedTuple):
    heading: str
    cells: Sequence[Cell]
    width: int
    justify: Literal["left", "right"] = "left"
    overflow: Literal["fold", "ellipsis"] = "ellipsis"


def draw_table(jobs: Sequence[Job], now_unix_nano: int, width: int | None = None) -> str:
    """Return the table of one or more jobs with its colours; times are told from `now_unix_nano`.

    `width` None: as wide as it must be for nothing to be cut off.
    """
    columns = _all_columns(jobs, now_unix_nano)
    if width is not None:
        columns = _fitting(columns, width)
    console = make_console(width=_total_width(columns))
    with console.capture() as captured:
        console.print(_table(columns))
    # rich fills each line up to the full width; copied text would end in spaces.
    return _SPACES_AT_END.sub(r"\1", captured.get())


def _all_columns(jobs: Sequence[Job], now_unix_nano: int) -> list[_Column]:
    def texts(text: Callable[[Job], str], style: Callable[[Job], str] = lambda _: "") -> list[Cell]:
        return [Text(one_line(text(job)), style=style(job)) for job in jobs]

    bars: list[Cell] = [_bar(job) for job in jobs]
    return [
        _column("JOB", texts(lambda job: job.job_id), overflow="fold"),
        _column("TYPE", texts(lambda job: job.job_type)),
        _column("STATUS", texts(lambda job: status_name(job.status), _colour)),
        _Column("PROGRESS", bars, BAR_COLUMNS),
        _column("DONE", texts(lambda job: f"{job.progress} %"), justify="right"),
        _column("ATTEMPT", texts(lambda job: str(job.attempt)), justify="right"),
        _column("UPDATED", texts(lambda job: ago(job.update_time_unix_nano, now_unix_nano)), justify="right"),
        _column("MESSAGE", texts(last_words, lambda job: "red" if _colour(job) == "red" else "")),
    ]


def _column(
    heading: str,
    cells: Sequence[Cell],
    justify: Literal["left", "right"] = "left",
    overflow: Literal["fold", "ellipsis"] = "ellipsis",
) -> _Column:
    width = max(cell_len(text) for text in (heading, *map(str, cells)))
    return _Column(heading, cells, width, justify, overflow)


def _bar(job: Job) -> ProgressBar:
    colour = _colour(job)
    return ProgressBar(100, job.progress, BAR_COLUMNS, complete_style=colour, finished_style=colour)


def _colour(job: Job) -> str:
    return STATUS_COLOURS.get(status_name(job.status), "default")


def _fitting(columns: Sequence[_Column], width: int) -> list[_Column]:
    """Leave out columns until the message has room, and give it what the others leave."""
    limits = {"JOB": max(MIN_ID_COLUMNS, int(width * MAX_ID_SHARE)), "TYPE": MAX_TYPE_COLUMNS}
    kept = [column._replace(width=min(column.width, limits.get(column.heading, width))) for column in columns]
    for heading in GIVE_WAY:
        message = kept[-1]
        room = width - _total_width(kept[:-1]) - GAP_COLUMNS
        if room >= min(message.width, MIN_MESSAGE_COLUMNS):
            return [*kept[:-1], message._replace(width=min(message.width, room))]
        kept = [column for column in kept if column.heading != heading]
    return kept


def _total_width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + GAP_COLUMNS * (len(columns) - 1)


def _table(columns: Sequence[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP_COLUMNS, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.heading,
            width=column.width,
            justify=column.justify,
            overflow=column.overflow,
            no_wrap=column.overflow == "ellipsis",
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table
