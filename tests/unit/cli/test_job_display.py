"""`LiveDisplay`: when a frame is drawn, by a clock that is moved by hand."""

import os

import pytest

from emitd.v1 import WatchJobsResponse
from emitd_cli.jobs import display as job_display
from emitd_cli.jobs.board import LEFT_SECONDS, JobBoard
from emitd_cli.jobs.display import LiveDisplay, live


class Shown:
    """A display, its clock, its terminal's size, and the frames that were drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 100.0
        self.size = os.terminal_size((80, 24))
        #: Width, and whether it is the last.
        self.frames: list[tuple[int, bool]] = []
        monkeypatch.setattr(job_display, "_size", lambda: self.size)
        self.board = JobBoard(["a"], monotonic=lambda: self.seconds)
        self.display = LiveDisplay(self.board, self.draw, monotonic=lambda: self.seconds)

    def draw(self, board: JobBoard, width: int, height: int, is_final: bool) -> list[str]:
        self.frames.append((width, is_final))
        return ["frame"]

    def drawn_after(self, seconds: float) -> int:
        """How many frames are drawn when it is refreshed after so long."""
        before = len(self.frames)
        self.seconds += seconds
        self.display.refresh()
        return len(self.frames) - before


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    return Shown(monkeypatch)


def test_time_goes_on_without_news(shown: Shown) -> None:
    """A frame a second, since it tells how long jobs have run."""
    assert [shown.drawn_after(seconds) for seconds in (0, 0.5, 0.4, 0.2, 0.9, 0.2)] == [1, 0, 0, 1, 0, 1]


def test_news_is_drawn_soon(shown: Shown) -> None:
    """But not more often than one can see."""
    shown.drawn_after(0)
    shown.display.show(WatchJobsResponse(), [])
    assert [shown.drawn_after(seconds) for seconds in (0.05, 0.06, 0.2)] == [0, 1, 0]


def test_another_size_is_noticed_soon(shown: Shown) -> None:
    """Without any news."""
    shown.drawn_after(0)
    shown.size = os.terminal_size((40, 24))
    assert [shown.drawn_after(seconds) for seconds in (0.2, 0.2)] == [1, 0]
    assert shown.frames == [(80, False), (40, False)]


def test_jobs_that_match_no_longer_go_by_themselves(shown: Shown) -> None:
    """Also where nothing else happens."""
    shown.board.rows["a"].left_at = shown.seconds
    shown.drawn_after(LEFT_SECONDS - 0.1)
    assert shown.board.rows
    shown.drawn_after(1)
    assert not shown.board.rows


def test_the_last_frame_is_drawn_however_it_ends(shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    """And stays in lines of its own."""
    with pytest.raises(KeyboardInterrupt), live(JobBoard(), shown.draw):
        raise KeyboardInterrupt
    assert shown.frames == [(80, True)]
    assert capsys.readouterr().out.endswith("\n")
