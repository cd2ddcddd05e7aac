"""Tables, progress bars and colours on a terminal, drawn by `rich`.

rich itself would squeeze every column alike until none can be read, so the widths are fixed before it draws.
"""

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from emitd_cli.terminal.output import one_line

GAP_COLUMNS = 2
#: Other columns give way to the last, the message, until it has this width.
MIN_MESSAGE_COLUMNS = 24
#: With less than this it is left out.
MIN_LAST_COLUMNS = 8

_SPACES_AT_END = re.compile(r" +((?:\x1b\[[\d;]*m)*)$", re.MULTILINE)

Cell: TypeAlias = Text | ProgressBar


class Column(NamedTuple):
    """A column: its heading, a cell for each row, and its width."""

    heading: str
    cells: Sequence[Cell]
    width: int
    justify: Literal["left", "right"] = "left"
    #: `fold`: what does not fit goes on in the next line.
    overflow: Literal["fold", "ellipsis"] = "ellipsis"

    def styled(self, styles: Iterable[str]) -> "Column":
        """Return the column with a style for each cell."""
        texts = [Text(str(cell), style) for cell, style in zip(self.cells, styles, strict=True)]
        return self._replace(cells=texts)

    def at_least(self, width: int) -> "Column":
        """Return the column with at least this width, so that it does not move all the time."""
        return self._replace(width=max(self.width, width))


def make_console(**settings: Any) -> Console:
    """Return a console that prints texts as they are, without colour if NO_COLOR is set and not empty."""
    # NO_COLOR is read here, since rich releases differ on an empty one.
    no_color = bool(os.environ.get("NO_COLOR"))
    return Console(**{"no_color": no_color, "highlight": False, "emoji": False, **settings})


def terminal_width() -> int | None:
    """Return the width for a table; None in a pipe with FORCE_COLOR: there nothing may be cut off."""
    return make_console().width if sys.stdout.isatty() else None


def text_columns(
    headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()
) -> list[Column]:
    """Return the columns of one or more rows of texts, escaped, each as wide as its widest cell."""
    columns = []
    for heading, *texts in zip(headings, *rows, strict=True):
        cells = [Text(one_line(text)) for text in texts]
        width = max(cell_len(heading), *(cell.cell_len for cell in cells))
        columns.append(Column(heading, cells, width, "right" if heading in right else "left"))
    return columns


def fitting(
    columns: Sequence[Column],
    width: int | None,
    give_way: Sequence[str],
    limits: Mapping[str, int],
    min_message: int = MIN_MESSAGE_COLUMNS,
) -> Sequence[Column]:
    """Leave out columns until the last one has room, and give it the rest of the width (None: no limit).

    `give_way`: the headings of those that may go, the first to go first. `limits`: the greatest widths of some.
    """
    if width is None:
        return columns
    kept = [column._replace(width=min(column.width, limits.get(column.heading, width))) for column in columns]
    for heading in ("", *give_way):
        kept = [column for column in kept if column.heading != heading]
        room = width - _total_width(kept[:-1]) - GAP_COLUMNS
        if room >= min(kept[-1].width, min_message):
            return [*kept[:-1], kept[-1]._replace(width=min(kept[-1].width, room))]
    return [*kept[:-1], kept[-1]._replace(width=room)] if room >= MIN_LAST_COLUMNS else kept[:-1]


def draw_columns(columns: Sequence[Column], dimmed: Collection[int] = ()) -> str:
    """Return the table with its colours, each line with its end; `dimmed`: the rows to dim, counted from 0."""
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
    console = make_console(width=_total_width(columns))
    with console.capture() as captured:
        console.print(table)
    # rich fills each line up to the full width; copied text would end in spaces.
    return _SPACES_AT_END.sub(r"\1", captured.get())


@contextmanager
def transfer_bar(verb: str, *, is_visible: bool = True) -> Iterator[Callable[..., None]]:
    """Show a bar of bytes on standard error; give `update(advance=, total=, visible=)`, which draws it.

    No thread draws it: the process may be forked while the bar is there.
    """
    columns = (verb, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(verb, total=None, visible=is_visible)
        yield lambda **change: bar.update(task, refresh=True, **change)


def _total_width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP_COLUMNS * (len(columns) - 1)
