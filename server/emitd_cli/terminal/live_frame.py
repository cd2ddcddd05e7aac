"""Lines at the end of a terminal's output that are drawn over in place, without any other state of the terminal.

Nothing has to be put back when the process is killed: no hidden cursor, no second screen. Between two frames the
terminal may have become narrower, and have broken the lines of the last one: that is counted in.
"""

import re
from collections.abc import Callable, Sequence
from os import terminal_size
from typing import TextIO

from emitd_cli.terminal.output import columns_of

__all__ = ["LiveFrame"]

#: A terminal that knows it shows all that stands between at once; others ignore it.
BEGIN_UPDATE, END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
ERASE_BELOW = "\x1b[J"

_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class LiveFrame:
    """Draws one frame over the other. While there is one, the cursor stands at the end of its last line."""

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
        """Let the frame stand, and go on in the line below."""
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
