"""The console blocks of a page: what is typed into which terminal, and what the page says comes back.

In a block a line `$ COMMAND` is typed, and `^C` is the key; the lines below are the output. A block that begins with
output goes on with that of the command which still runs in its terminal. HTML comments, which readers do not see,
stand right before a block:

    <!-- terminal: NAME -->                          it belongs to this terminal, not to `main`
    <!-- file: NAME, example EXAMPLE of PAGE -->     the reader has just saved that code block under this name
    <!-- file: NAME, printed above -->               the reader has just saved what the last command printed, without
                                                     the paragraphs before and after it
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAIN = "main"
INTERRUPT = "^C"

_BLOCK = re.compile(r"(?:<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TERMINAL = re.compile(r"terminal: (\w+)")
_FILE = re.compile(r"file: (\S+), example (\w+) of (\S+)")
_PRINTED = re.compile(r"file: (\S+), printed above")


@dataclass(frozen=True)
class SavedFile:
    """A file that the reader saves: a code block of a page, or without a page what the last command printed."""

    name: str
    example: str = ""
    page: str = ""


@dataclass
class Step:
    """One thing typed, and what comes back. Nothing is typed where a block goes on with the output of another."""

    line: int
    typed: str
    output: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A console block."""

    line: int
    terminal: str
    file: SavedFile | None
    steps: list[Step]


def console_blocks(page: str) -> Iterator[Block]:
    """Return the console blocks of a page, in order. A comment that is not understood is an error."""
    if astray := re.search(r"^<!-- .*\n(?!```)", page, re.MULTILINE):
        raise ValueError(
            f"line {_line(page, astray.start())}: this comment does not stand right before a block"
        )
    for match in _BLOCK.finditer(page):
        comment, language, text = match.groups()
        if language != "console":
            raise ValueError(
                f"line {_line(page, match.start(2))}: only console blocks are run, not '{language}'"
            )
        line = _line(page, match.start(3))
        terminal, file = _read_comment(comment or "", line)
        yield Block(line, terminal, file, _steps(text, line))


def example(page: str, name: str) -> str:
    """Return the code block after the comment `<!-- example: NAME -->` of a page."""
    match = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ValueError(f"the page has no example '{name}'")
    return match[1]


def _line(page: str, position: int) -> int:
    return page.count("\n", 0, position) + 1


def _read_comment(comment: str, line: int) -> tuple[str, SavedFile | None]:
    if terminal := _TERMINAL.fullmatch(comment):
        return terminal[1], None
    if file := _FILE.fullmatch(comment):
        return MAIN, SavedFile(*file.groups())
    if printed := _PRINTED.fullmatch(comment):
        return MAIN, SavedFile(printed[1])
    if comment:
        raise ValueError(f"line {line - 2}: the comment '{comment}' is not one of those that blocks may have")
    return MAIN, None


def _steps(text: str, first: int) -> list[Step]:
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), first):
        if line.startswith("$ ") or line == INTERRUPT:
            steps.append(Step(number, line.removeprefix("$ ")))
            continue
        if not steps:
            steps.append(Step(number, ""))
        steps[-1].output.append(line)
    return steps
