"""What `emitd demo` looks like: chapters, commands, the service's own lines, checks.

The same calls make colours on a terminal and plain lines in a pipe. What others wrote is printed as it is, and
never as markup.
"""

import os
import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from emitd_cli.terminal.output import one_line

INDENT = "  "
_LEVEL_STYLES = {"DEBUG": "dim", "INFO": "green", "WARNING": "yellow", "ERROR": "bold red"}
#: A later one goes first where they overlap.
_DATA_STYLES = (
    (r"(?<=: )[a-z][^,}\s]*", "green"),  # YAML's plain texts
    (r'"[^"]*"', "green"),
    (r'"?\w+"?(?=:\s)', "bright_blue"),
    (r"(?<=: )(\d+|true|false|null)\b", "cyan"),
)
#: The width of `[2026-11-23 03:39:00]`.
_TIME_WIDTH = 21


class DemoConsole(Console):
    """A console on standard output, which leaves a closed pipe to whoever calls."""

    def __init__(self) -> None:
        super().__init__(no_color=bool(os.environ.get("NO_COLOR")), highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Let the error through: rich's own answer ends the process on the spot."""
        raise  # it is called where the error is being handled


class Screen:
    """Writes to one console, at a pace that people can follow, or with `is_fast` without a pause."""

    def __init__(self, console: Console, *, is_live: bool, is_fast: bool) -> None:
        self.console = console
        #: Whether what was written can be drawn over, as live bars are.
        self.is_live = is_live
        self.is_fast = is_fast
        #: Whether the console's encoding has signs beyond ASCII.
        self._has_signs = not console.options.ascii_only
        self._chapters = 0

    def pause(self, seconds: float) -> None:
        """Give people time to read."""
        if not self.is_fast:
            time.sleep(seconds)

    def title(self, name: str, text: str) -> None:
        """Write the first line."""
        self._print(Text.assemble((name, "bold"), ("  ", ""), (text, "")))

    def chapter(self, title: str, note: str) -> None:
        """Begin a numbered chapter."""
        self._chapters += 1
        self.console.print()
        self._print(Text.assemble((f"{self._chapters} ", "bold cyan"), (title, "bold"), (f"  {note}", "dim")))

    def command(self, *words: str) -> None:
        """Write a command as one types it."""
        self._print(Text.assemble(INDENT, ("$ ", "dim"), (" ".join(words), "bold")))

    def data(self, text: str) -> None:
        """Write YAML or JSON, keys and values in their colours."""
        coloured = Text(text)
        for pattern, style in _DATA_STYLES:
            coloured.highlight_regex(pattern, style)
        self._print_file(coloured)

    def said(self, line: str) -> None:
        """Write a line that the service wrote to standard error."""
        self._print_file(Text(one_line(line)))

    def log_line(self, line: str) -> None:
        """Write a line of the service's console, its level in the level's colour."""
        text = Text(one_line(line))
        text.stylize("dim", 0, _TIME_WIDTH)
        level = line[_TIME_WIDTH + 2 :].partition("]")[0]
        text.stylize(_LEVEL_STYLES.get(level, ""), _TIME_WIDTH + 1, _TIME_WIDTH + 3 + len(level))
        self._print_file(text)

    def fields(self, name: str, fields: Sequence[tuple[str, str]]) -> None:
        """Write what an answer said, as `name  key value  key value`."""
        text = Text.assemble(INDENT, (name, "dim"))
        for key, value in fields:
            text.append(f"  {key} ").append(value, "cyan")
        self._print(text)

    def check(self, is_good: bool, text: str) -> None:
        """Write that something is as it should be, or that it is not."""
        good, bad = ("✓", "✗") if self._has_signs else ("ok:", "NOT OK:")
        sign = (f"{good} ", "bold green") if is_good else (f"{bad} ", "bold red")
        self._print(Text.assemble(INDENT, sign, (text, "" if is_good else "red")))

    def line(self, text: str) -> None:
        """Write a line of the demo's own."""
        self._print(Text(text))

    def blank(self) -> None:
        """Write an empty line."""
        self.console.print()

    def _print_file(self, text: Text) -> None:
        """Write what is the service's own: its files, and what it writes."""
        bar = "│ " if self._has_signs else "| "
        for line in text.split("\n"):
            self._print(Text.assemble(INDENT, (bar, "dim"), line))

    def _print(self, text: Text) -> None:
        # Long lines are left to the terminal: cut or broken ones would not be what the service wrote.
        self.console.print(text, soft_wrap=True)
