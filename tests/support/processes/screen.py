"""A command on a terminal of its own, and what its screen shows.

The screen knows only the sequences that commands may use; any other fails the test. Like most terminals it wraps its
lines again when its width changes.
"""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Self

from rich.cells import cell_len

SECONDS = 30.0
#: What would change what a command writes for a terminal, unless the test sets it.
SETTINGS = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "COLORTERM", "TERM")
#: A colour, cursor up, erase below, and an update that is shown at once.
_SEQUENCE = re.compile(r"\x1b\[(?P<colour>[\d;]*)m|\x1b\[(?P<up>\d+)A|\x1b\[(?P<erase>J)|\x1b\[\?2026[hl]")

_BEGIN_UPDATE, _END_UPDATE = b"\x1b[?2026h", b"\x1b[?2026l"


@dataclass
class _Line:
    """One line of the screen; a wide character has an empty cell behind it."""

    cells: list[str] = field(default_factory=list)
    #: It goes on with what had no room in the line above.
    is_broken: bool = False


class Screen:
    """What a terminal shows after what was written to it."""

    def __init__(self, columns: int, lines: int) -> None:
        self._columns = columns
        self._height = lines
        #: With those that have scrolled away.
        self._lines = [_Line()]
        self._row = self._column = 0
        #: The first line in sight.
        self._top = 0

    def write(self, text: str) -> None:
        """Show a text, which ends with a whole sequence."""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = _SEQUENCE.match(text, at)
                assert match is not None, f"unknown sequence: {text[at : at + 12]!r}"
                self._obey(match)
                at = match.end()
                continue
            self._put(text[at])
            at += 1

    def resize(self, columns: int, lines: int) -> None:
        """Wrap the lines again."""
        whole: list[tuple[list[str], int | None]] = []
        for number, line in enumerate(self._lines):
            if not line.is_broken:
                whole.append(([], None))
            cells, cursor = whole[-1]
            if number == self._row:
                cursor = len(cells) + self._column
            whole[-1] = ([*cells, *line.cells], cursor)
        self._columns, self._height, self._lines = columns, lines, []
        for cells, cursor in whole:
            first = len(self._lines)
            pieces = [cells[at : at + columns] for at in range(0, len(cells), columns)] or [[]]
            self._lines += [_Line(piece, number > 0) for number, piece in enumerate(pieces)]
            if cursor is not None:
                row = min(cursor // columns, len(pieces) - 1)
                self._row, self._column = first + row, cursor - row * columns
        self._top = max(len(self._lines) - lines, 0)

    @property
    def text(self) -> str:
        """The lines in sight, without the spaces at their ends."""
        return "\n".join(self._text(line) for line in self._lines[self._top :]).rstrip("\n")

    @property
    def history(self) -> str:
        """The lines in sight and those that have scrolled away."""
        return "\n".join(map(self._text, self._lines)).rstrip("\n")

    def _text(self, line: _Line) -> str:
        return "".join(line.cells).rstrip()

    def _obey(self, match: "re.Match[str]") -> None:
        if match["up"]:
            self._row = max(self._row - int(match["up"]), self._top)
        elif match["erase"]:
            del self._lines[self._row + 1 :]
            del self._lines[self._row].cells[self._column :]

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._next_line(is_broken=False)
        else:
            assert character.isprintable(), f"a control character: {character!r}"
            cells = [character, ""][: cell_len(character)]
            if self._column + len(cells) > self._columns:
                self._column = 0
                self._next_line(is_broken=True)
            line = self._lines[self._row].cells
            line += [" "] * (self._column - len(line))
            line[self._column : self._column + len(cells)] = cells
            self._column += len(cells)

    def _next_line(self, *, is_broken: bool) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append(_Line(is_broken=is_broken))
            self._top = max(len(self._lines) - self._height, self._top)


class ScreenCommand:
    """A command that runs on a terminal; end it with the context."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 100,
        lines: int = 24,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self.screen = Screen(columns, lines)
        #: All that it has written.
        self.written = ""
        self._set_size(columns, lines)
        environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm-256color", **(environ or {})},
            start_new_session=True,
        )
        os.close(theirs)
        self._changed = Condition()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, is_there: Callable[[str], object], what: str = "") -> str:
        """Return the screen's text as soon as it is as it should be."""
        deadline = time.monotonic() + SECONDS
        with self._changed:
            while not is_there(self.screen.text):
                left = deadline - time.monotonic()
                assert left > 0, f"{what} did not come:\n{self.screen.text}\n{self.written[-2000:]!r}"
                assert self._reader.is_alive(), f"it ended without {what}:\n{self.screen.text}"
                self._changed.wait(min(left, 0.2))
            return self.screen.text

    def wait_for_text(self, *texts: str) -> str:
        """Return the screen's text as soon as it has all of these."""
        return self.wait_for(lambda screen: all(text in screen for text in texts), str(texts))

    def resize(self, columns: int, lines: int) -> None:
        """Make the terminal wider or narrower."""
        with self._changed:
            self._set_size(columns, lines)
            self.screen.resize(columns, lines)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait for the command's end; return its exit code."""
        code = self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self.wait()
        os.close(self._ours)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        unread = b""
        while True:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # the terminal is gone with its process
                chunk = b""
            unread += chunk
            text, unread = _whole(unread)
            with self._changed:
                self.written += text
                self.screen.write(text)
                self._changed.notify_all()
            if not chunk:
                return


def _whole(data: bytes) -> tuple[str, bytes]:
    """Split off an update that is not to be shown yet, or what ends within a sequence or a character."""
    end = len(data)
    escape, update = data.rfind(b"\x1b"), data.rfind(_BEGIN_UPDATE)
    if update > data.rfind(_END_UPDATE):
        end = update
    elif escape >= 0 and _SEQUENCE.match(data[escape:].decode(errors="ignore")) is None:
        end = escape
    while end:
        try:
            return data[:end].decode(), data[end:]
        except UnicodeDecodeError:
            end -= 1
    return "", data
