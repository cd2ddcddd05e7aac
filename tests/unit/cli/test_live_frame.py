"""Frames that are drawn over one another, on a terminal that may change its size between two of them."""

import io
import os

import pytest

from emitd_cli.jobs.display import LiveFrame
from support.processes.screen import Screen


class Drawn:
    """A frame on a screen that shows each write at once."""

    def __init__(self, columns: int = 20, lines: int = 12, before: str = "$ emitd\r\n") -> None:
        self.screen = Screen(columns, lines)
        self.screen.write(before)
        self._size = os.terminal_size((columns, lines))
        self._written = io.StringIO()
        self._frame = LiveFrame(self._written, lambda: self._size)

    def resize(self, columns: int, lines: int = 12) -> None:
        self._size = os.terminal_size((columns, lines))
        self.screen.resize(columns, lines)

    def draw(self, *lines: str) -> str:
        self._frame.draw(lines)
        return self._show()

    def erase_and_write(self, text: str) -> str:
        self._frame.erase()
        self._written.write(text)
        return self._show()

    def finish(self) -> str:
        self._frame.finish()
        return self._show()

    def _show(self) -> str:
        self.screen.write(self._written.getvalue().replace("\n", "\r\n"))
        self._written.seek(0)
        self._written.truncate()
        return self.screen.text


def test_one_frame_takes_the_place_of_the_other() -> None:
    """What stood above stays; a shorter frame leaves nothing of the longer one."""
    drawn = Drawn()
    assert drawn.draw("one", "two", "three") == "$ emitd\none\ntwo\nthree"
    assert drawn.draw("1", "2", "3", "4") == "$ emitd\n1\n2\n3\n4"
    assert drawn.draw("x") == "$ emitd\nx"
    assert drawn.draw() == "$ emitd"
    assert drawn.draw("y") == "$ emitd\ny"


def test_colours_take_no_room() -> None:
    """Nor do wide letters count once only."""
    drawn = Drawn(columns=10)
    for _ in range(3):
        assert (
            drawn.draw("\x1b[31m" + "r" * 10 + "\x1b[0m", "日本語日本") == "$ emitd\nrrrrrrrrrr\n日本語日本"
        )


@pytest.mark.parametrize("columns", [5, 9, 10, 11, 40])
def test_a_terminal_that_becomes_narrower_or_wider(columns: int) -> None:
    """The lines that it has broken go with the frame."""
    drawn = Drawn(columns=20, before="$ x\r\n")
    drawn.draw("a" * 20, "b" * 11, "c")
    drawn.resize(columns)
    assert drawn.draw("new", "frame") == "$ x\nnew\nframe"


def test_a_terminal_that_becomes_too_low() -> None:
    """The screen is right again with the next frame."""
    drawn = Drawn(lines=8)
    drawn.draw(*"abcdef")
    drawn.resize(20, 4)
    assert drawn.draw("new", "frame").splitlines()[-2:] == ["new", "frame"]


def test_something_is_written_in_between() -> None:
    """It stands above the next frame."""
    drawn = Drawn()
    drawn.draw("one", "two")
    assert drawn.erase_and_write("note\n") == "$ emitd\nnote"
    assert drawn.draw("one", "two") == "$ emitd\nnote\none\ntwo"


def test_the_last_frame_stays() -> None:
    """What comes next stands in a line of its own; where there was no frame, nothing is written."""
    drawn = Drawn()
    assert drawn.finish() == "$ emitd"
    drawn.draw("one")
    drawn.finish()
    drawn.screen.write("$ ")
    assert drawn.screen.text == "$ emitd\none\n$"
    assert drawn.draw("two") == "$ emitd\none\n$ two"
