"""Colours and bars on a terminal. `rich` brings them; without it, and in a pipe, commands write plain lines."""

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

STATUS_COLOURS = {"QUEUED": "yellow", "RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red"}


def make_console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """Return a console that has no colour where NO_COLOR is set and not empty. Raises ImportError without rich.

    The rest is rich's own: FORCE_COLOR, TERM=dumb, COLUMNS. Texts are printed as they are: no markup of their own,
    no colouring by what they look like.
    """
    from rich.console import Console

    # Said here, since rich releases differ on an empty NO_COLOR.
    no_color = bool(os.environ.get("NO_COLOR"))
    return Console(stderr=stderr, no_color=no_color, width=width, highlight=False, emoji=False)


def is_terminal(stream: TextIO) -> bool:
    """Return whether to write for a terminal: it is one, or FORCE_COLOR asks for what one would get."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def can_redraw(stream: TextIO) -> bool:
    """Return whether what was written can be drawn over: the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
