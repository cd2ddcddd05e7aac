"""A bar of bytes on standard error, and the console that draws all bars."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from emitd_cli.terminal.output import has_rich

if TYPE_CHECKING:
    from rich.console import Console


def make_console(**settings: Any) -> "Console":
    """Return a console that prints texts as they are, without colour if NO_COLOR is set and not empty."""
    from rich.console import Console

    # NO_COLOR is read here, since rich releases differ on an empty one.
    no_color = bool(os.environ.get("NO_COLOR"))
    return Console(no_color=no_color, highlight=False, emoji=False, **settings)


@contextmanager
def transfer_bar(
    verb: str, min_bytes: int = 0, *, wanted: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Give a function that moves the bar by a number of bytes of a total; it shows a total from `min_bytes` on.

    Nothing is shown if standard error is no terminal, or `rich` is not installed. No thread draws the bar: the process
    may be forked while it is there.
    """
    if not wanted or not sys.stderr.isatty() or not has_rich():
        yield lambda size, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (verb, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(verb, total=None, visible=False)

        def advance(size: int, total: int) -> None:
            if total >= min_bytes:
                bar.update(task, advance=size, total=total, visible=True, refresh=True)

        yield advance
