"""What a watch of jobs shows: JSON, lines, or frames that are drawn over one another."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from emitd.v1 import WatchJobResponse, WatchJobsResponse
from emitd_cli.jobs.board import BoardChange, JobBoard
from emitd_cli.jobs.text import job_line, transition_line
from emitd_cli.terminal.columns import columns_of
from emitd_cli.terminal.live_frame import LiveFrame
from emitd_cli.terminal.output import one_line, to_json

#: A frame is drawn at most so often, and at least.
MIN_FRAME_SECONDS = 0.1
MAX_FRAME_SECONDS = 1.0
#: How often it is looked whether the terminal has another size.
LOOK_SECONDS = 0.25

Response: TypeAlias = WatchJobResponse | WatchJobsResponse
#: Returns the lines of a frame for a board, a width and a height; `is_final`: it will not be drawn over.
Draw: TypeAlias = Callable[[JobBoard, int, int, bool], Sequence[str]]


class Display(Protocol):
    """Where a watch shows what arrives; for one thread."""

    def show(self, response: Response, changes: Sequence[BoardChange]) -> None:
        """Show a message, and what is new in it."""

    def aside(self, write: Callable[[], None]) -> None:
        """Let `write` write whole lines to standard error."""

    def refresh(self) -> float | None:
        """Draw what is due; return after how many seconds to come again, None for never."""


class JsonDisplay:
    """Prints every message as one object."""

    def show(self, response: Response, changes: Sequence[BoardChange]) -> None:
        """Print it."""
        print(to_json(response), flush=True)

    def aside(self, write: Callable[[], None]) -> None:
        """Let it write."""
        write()

    def refresh(self) -> None:
        """There is never anything due."""


class LineDisplay:
    """Prints a line for each change; lines of the jobs that were named stand in columns."""

    def __init__(self, job_ids: Collection[str]) -> None:
        self._id_width = max((columns_of(one_line(job_id)) for job_id in job_ids), default=0)

    def show(self, response: Response, changes: Sequence[BoardChange]) -> None:
        """Print what is new."""
        if isinstance(response, WatchJobResponse):
            for transition in response.transitions:
                if response.has_more or transition.revision != response.job.revision:
                    print(transition_line(response.job.job_id, transition, self._id_width))
        for one in changes:
            print(self._line(one))
        sys.stdout.flush()

    def aside(self, write: Callable[[], None]) -> None:
        """Let it write."""
        write()

    def refresh(self) -> None:
        """There is never anything due."""

    def _line(self, change: BoardChange) -> str:
        line = job_line(change.job, self._id_width)
        if change.is_removed:
            return f"{line}  (removed)"
        return f"{line}  (matches no longer)" if change.has_left else line


class LiveDisplay:
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

    def refresh(self) -> float:
        """Draw if the last frame is old, or not so old and no longer true."""
        age = self._monotonic() - self._drawn_at
        due = MIN_FRAME_SECONDS if self._is_stale or self._drawn_size != _size() else MAX_FRAME_SECONDS
        if age < due:
            return min(due - age, LOOK_SECONDS)
        self._draw_frame()
        return LOOK_SECONDS

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
    """The terminal's size now; 80 by 24 where it does not say."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return os.terminal_size((size.columns or 80, size.lines or 24))
