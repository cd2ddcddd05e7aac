"""What `emitd demo` looks like: chapters, commands, the service's own lines, checks.

The same calls make colours on a terminal and plain lines in a pipe. Texts of the service are never read as markup.
"""

import os
import sys
import time

from rich.console import Console
from rich.text import Text

from emitd_cli.terminal.output import can_redraw, one_line

INDENT = "  "
_LEVEL_STYLES = {"DEBUG": "dim", "INFO": "green", "WARNING": "yellow", "ERROR": "bold red"}
#: YAML's plain texts, quoted texts, keys, other values. A later one goes first if they overlap.
_DATA_STYLES = (
    (r"(?<=: )[a-z][^,}\s]*", "green"),
    (r'"[^"]*"', "green"),
    (r'"?\w+"?(?=:\s)', "bright_blue"),
    (r"(?<=: )(\d+|true|false|null)\b", "cyan"),
)
#: The width of `[2026-11-23 03:39:00]`.
_TIME_WIDTH = 21


class _DemoConsole(Console):
    """A console on standard output that leaves a closed pipe to its caller."""

    def on_broken_pipe(self) -> None:
        """Raise the error again: rich itself would end the process here."""
        raise  # it is called while the error is being handled


class Screen:
    """Writes at a pace that people can follow, or with `is_fast` without a pause."""

    def __init__(self, *, is_fast: bool) -> None:
        self._console = _DemoConsole(no_color=bool(os.environ.get("NO_COLOR")), highlight=False, emoji=False)
        #: Whether to draw bars.
        self.is_live = can_redraw(sys.stdout)
        self.is_fast = is_fast
        #: Whether the console's encoding has signs beyond ASCII.
        self._has_signs = not self._console.options.ascii_only
        self._chapters = 0

    def pause(self, seconds: float) -> None:
        """Give people time to read."""
        if not self.is_fast:
            time.sleep(seconds)

    def line(self, text: str | Text) -> None:
        """Write a line of the demo's own."""
        # The terminal breaks long lines: cut, they would not be what the service wrote.
        self._console.print(text if isinstance(text, Text) else Text(text), soft_wrap=True)

    def chapter(self, title: str, note: str) -> None:
        """Begin a numbered chapter."""
        self._chapters += 1
        self.line(
            Text.assemble("\n", (f"{self._chapters} ", "bold cyan"), (title, "bold"), (f"  {note}", "dim"))
        )

    def command(self, *words: str) -> None:
        """Write a command as a user types it."""
        self.line(Text.assemble(INDENT, ("$ ", "dim"), (" ".join(words), "bold")))

    def data(self, text: str) -> None:
        """Write YAML or JSON of the service, keys and values in their colours."""
        coloured = Text(text)
        for pattern, style in _DATA_STYLES:
            coloured.highlight_regex(pattern, style)
        self._quote(coloured)

    def said(self, line: str) -> None:
        """Write a line that the service wrote to standard error."""
        self._quote(Text(one_line(line)))

    def log_line(self, line: str) -> None:
        """Write a line of the service's console, its level in the level's colour."""
        text = Text(one_line(line))
        text.stylize("dim", 0, _TIME_WIDTH)
        level = line[_TIME_WIDTH + 2 :].partition("]")[0]
        text.stylize(_LEVEL_STYLES.get(level, ""), _TIME_WIDTH + 1, _TIME_WIDTH + 3 + len(level))
        self._quote(text)

    def fields(self, name: str, **fields: str) -> None:
        """Write the fields of an answer as `name  key value  key value`."""
        text = Text.assemble(INDENT, (name, "dim"))
        for key, value in fields.items():
            text.append(f"  {key} ").append(value, "cyan")
        self.line(text)

    def check(self, is_good: bool, text: str) -> None:
        """Write whether something is as it should be."""
        good, bad = ("✓ ", "✗ ") if self._has_signs else ("ok: ", "NOT OK: ")
        sign = (good, "bold green") if is_good else (bad, "bold red")
        self.line(Text.assemble(INDENT, sign, (text, "" if is_good else "red")))

    def _quote(self, text: Text) -> None:
        """Write a text of the service behind a bar."""
        for line in text.split("\n"):
            self.line(Text.assemble(INDENT, ("│ " if self._has_signs else "| ", "dim"), line))
