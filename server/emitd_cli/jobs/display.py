"""What a watch of jobs shows: JSON, lines, or frames that are drawn over one another."""

import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from os import terminal_size
from typing import TextIO, TypeAlias

from emitd.v1 import WatchJobResponse, WatchJobsResponse
from emitd_cli.jobs.board import BoardChange, JobBoard
from emitd_cli.jobs.text import job_line, transition_line
from emitd_cli.terminal.output import columns_of, one_line, put, to_json

#: A terminal that knows these shows what is between them at once; others ignore them.
BEGIN_UPDATE, END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
ERASE_BELOW = "\x1b[J"

_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class LiveFrame:
    """Draws lines at the end of a terminal's output, one frame over the other.

    Nothing has to be restored if the process is killed: it hides no cursor and opens no second screen. A terminal that
    became narrower may have broken the lines of the last frame. The cursor stands at the end of the last line.
    """

    def __init__(self, stream: TextIO, size: Callable[[], terminal_size]) -> None:
        self._stream = stream
        self._size = size
        #: How many columns each line of the frame takes.
        self._widths: list[int] = []

    def draw(self, lines: Sequence[str]) -> None:
        """Draw a frame: lines no wider than the terminal, with no sequences in them but for colours."""
        self._write(BEGIN_UPDATE + self._erase() + "\n".join(lines) + END_UPDATE)
        self._widths = [columns_of(_COLOURS.sub("", line)) for line in lines]

    def erase(self) -> None:
        """Remove the frame, so that something else may be written; the next frame stands below."""
        self._write(self._erase())
        self._widths = []

    def finish(self) -> None:
        """Keep the frame, and go on in the line below."""
        if self._widths:
            self._write("\n")
        self._widths = []

    def _erase(self) -> str:
        if not self._widths:
            return ""
        columns = max(self._size().columns, 1)
        rows = sum(max(-(-width // columns), 1) for width in self._widths)
        return "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + ERASE_BELOW

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


#: The time between two frames, if something has changed, and if nothing has: a frame also shows how long jobs have run.
MIN_FRAME_SECONDS = 0.1
MAX_FRAME_SECONDS = 1.0

Response: TypeAlias = WatchJobResponse | WatchJobsResponse
#: Returns the lines of a frame for a board, a width and a height; `is_final`: it will not be drawn over.
Draw: TypeAlias = Callable[[JobBoard, int, int, bool], Sequence[str]]


class Display:
    """Prints every message as one JSON object; the other displays show it in their own way."""

    def show(self, response: Response, changes: Sequence[BoardChange]) -> None:
        """Show a message, and the changes in it."""
        put(to_json(response))

    def aside(self, write: Callable[[], None]) -> None:
        """Let `write` write whole lines to standard error."""
        write()

    def refresh(self) -> None:
        """Draw a frame if it is due; called every MIN_FRAME_SECONDS or less."""


class LineDisplay(Display):
    """Prints a line for each change; the ids of the command line stand in a column."""

    def __init__(self, job_ids: Collection[str]) -> None:
        self._id_width = max((columns_of(one_line(job_id)) for job_id in job_ids), default=0)

    def show(self, response: Response, changes: Sequence[BoardChange]) -> None:
        """Print the changes."""
        if isinstance(response, WatchJobResponse):
            for transition in response.transitions:
                if response.has_more or transition.revision != response.job.revision:
                    put(transition_line(response.job.job_id, transition, self._id_width))
        for change in changes:
            left = "  (removed)" if change.is_removed else "  (matches no longer)" if change.has_left else ""
            put(job_line(change.job, self._id_width) + left)


class LiveDisplay(Display):
    """Draws the board in place."""

    def __init__(self, board: JobBoard, draw: Draw, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._draw = draw
        self._monotonic = monotonic
        self._frame = LiveFrame(sys.stdout, _size)
        self._drawn_at = -MAX_FRAME_SECONDS
        self._drawn_size: os.terminal_size | None = None
        self._is_stale = True

    def show(self, response: Response, changes: Sequence[BoardChange]) -> None:
        """Note that the next frame has something to show."""
        self._is_stale = True

    def aside(self, write: Callable[[], None]) -> None:
        """Let it write above the next frame."""
        if sys.stderr.isatty():
            self._frame.erase()
        write()
        self._draw_frame()

    def refresh(self) -> None:
        """Draw if the last frame is old, or no longer true and not quite new."""
        is_changed = self._is_stale or self._drawn_size != _size()
        if self._monotonic() - self._drawn_at >= (MIN_FRAME_SECONDS if is_changed else MAX_FRAME_SECONDS):
            self._draw_frame()

    def finish(self) -> None:
        """Draw the last frame, which stays."""
        self._draw_frame(is_final=True)
        self._frame.finish()

    def _draw_frame(self, *, is_final: bool = False) -> None:
        self._board.forget()
        size = _size()
        self._frame.draw(self._draw(self._board, size.columns, size.lines, is_final))
        self._drawn_at, self._drawn_size, self._is_stale = self._monotonic(), size, False


@contextmanager
def live(board: JobBoard, draw: Draw) -> Iterator[LiveDisplay]:
    """Give a display whose last frame stays, however the context ends."""
    display = LiveDisplay(board, draw)
    try:
        yield display
    finally:
        display.finish()


def _size() -> os.terminal_size:
    """Return the terminal's size now; 80 by 24 if it does not say."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return os.terminal_size((size.columns or 80, size.lines or 24))
