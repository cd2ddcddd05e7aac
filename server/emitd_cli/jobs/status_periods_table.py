"""A job's history as a table on a terminal."""

from collections.abc import Callable, Sequence

from rich.text import Text

from emitd.v1 import JobTransition
from emitd_cli.command_line.timestamps import iso_time
from emitd_cli.jobs.status_periods import Stay, lasted_text
from emitd_cli.jobs.text import failure_text, status_name
from emitd_cli.terminal.console import STATUS_COLOURS
from emitd_cli.terminal.output import one_line
from emitd_cli.terminal.table import draw_columns, fitting, text_column

GIVE_WAY = ("REVISION", "DONE", "LASTED")


def draw_stays(stays: Sequence[Stay], width: int | None = None) -> str:
    """Return the table of one or more changes with its colours; mere progress is dim.

    `width` None: as wide as it must be for nothing to be cut off. A failure goes on in the next line.
    """

    def texts(
        text: Callable[[JobTransition], str], style: Callable[[JobTransition], str] = lambda _: ""
    ) -> list[Text]:
        return [Text(one_line(text(stay.transition)), style=style(stay.transition)) for stay in stays]

    columns = [
        text_column("TIME", texts(lambda one: iso_time(one.time_unix_nano))),
        text_column("REVISION", texts(lambda one: str(one.revision)), "right"),
        text_column("ATTEMPT", texts(lambda one: str(one.attempt)), "right"),
        text_column("STATUS", texts(_status, _colour)),
        text_column("DONE", texts(lambda one: f"{one.progress} %"), "right"),
        text_column("LASTED", [Text(lasted_text(stay)) for stay in stays], "right"),
        text_column("FAILURE", texts(failure_text, lambda _: "red"), overflow="fold"),
    ]
    if width is not None:
        columns = fitting(columns, width, GIVE_WAY, {})
    return draw_columns(
        columns, [number for number, stay in enumerate(stays) if stay.transition.progress_only]
    )


def _status(transition: JobTransition) -> str:
    return "" if transition.progress_only else status_name(transition.status)


def _colour(transition: JobTransition) -> str:
    return STATUS_COLOURS.get(status_name(transition.status), "")
