"""Tables on a terminal, drawn by `rich`: as many columns as the width has room for.

rich itself would squeeze every column alike until none can be read. Here the widths are fixed beforehand.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from emitd_cli.terminal.console import make_console

GAP_COLUMNS = 2
#: Other columns give way to the last, the message, until it has so much room.
MIN_MESSAGE_COLUMNS = 24
#: With less than this it is left out.
MIN_LAST_COLUMNS = 8

_SPACES_AT_END = re.compile(r" +((?:\x1b\[[\d;]*m)*)$", re.MULTILINE)

Cell: TypeAlias = Text | ProgressBar
Justify: TypeAlias = Literal["left", "right"]
#: `fold`: what does not fit goes on in the next line.
Overflow: TypeAlias = Literal["fold", "ellipsis"]


class Column(NamedTuple):
    """A column: its heading, a cell for each row, and its width."""

    heading: str
    cells: Sequence[Cell]
    width: int
    justify: Justify = "left"
    overflow: Overflow = "ellipsis"


def text_column(
    heading: str,
    cells: Sequence[Text],
    justify: Justify = "left",
    overflow: Overflow = "ellipsis",
    min_width: int = 0,
) -> Column:
    """Return a column that is as wide as its widest cell."""
    width = max(cell_len(text) for text in (heading, *(cell.plain for cell in cells)))
    return Column(heading, cells, max(width, min_width), justify, overflow)


def fitting(
    columns: Sequence[Column],
    width: int,
    give_way: Sequence[str],
    limits: Mapping[str, int],
    min_message: int = MIN_MESSAGE_COLUMNS,
) -> list[Column]:
    """Leave out columns until the last has room, and give it what the others leave.

    `give_way`: the headings of those that may go, the first to go first. `limits`: the greatest widths of some.
    """
    kept = [column._replace(width=min(column.width, limits.get(column.heading, width))) for column in columns]
    for heading in ("", *give_way):
        kept = [column for column in kept if column.heading != heading]
        room = width - _total_width(kept[:-1]) - GAP_COLUMNS
        if room >= min(kept[-1].width, min_message):
            return [*kept[:-1], kept[-1]._replace(width=min(kept[-1].width, room))]
    return [*kept[:-1], kept[-1]._replace(width=room)] if room >= MIN_LAST_COLUMNS else kept[:-1]


def draw_columns(columns: Sequence[Column], dimmed: Collection[int] = ()) -> str:
    """Return the table with its colours, each line with its end; `dimmed`: the rows that matter less, from 0."""
    console = make_console(width=_total_width(columns))
    with console.capture() as captured:
        console.print(_table(columns, dimmed))
    # rich fills each line up to the full width; copied text would end in spaces.
    return _SPACES_AT_END.sub(r"\1", captured.get())


def _total_width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP_COLUMNS * (len(columns) - 1)


def _table(columns: Sequence[Column], dimmed: Collection[int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP_COLUMNS, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.heading,
            width=column.width,
            justify=column.justify,
            overflow=column.overflow,
            no_wrap=column.overflow == "ellipsis",
        )
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*row, style="dim" if number in dimmed else None)
    return table
