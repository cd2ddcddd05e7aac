"""`PageReader`: types the commands of a page into real shells, and compares what they show with what the page says.

The commands run as the page has them, in a copy of the files that they need of the repository:

- `.venv` is a folder with `emitd`, `python` and `pytest` of the environment that the tests run in;
- EMITD_LISTEN makes the service take a free port, and EMITD_ADDRESS gives it to the commands; the output has the
  page's port in its place; nothing else of the developer's environment is passed on.
"""

import difflib
import os
import re
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from support.docs.console_page import INTERRUPT, MAIN, Block, SavedFile, Step, example
from support.processes.terminal import Terminal

ROOT = Path(__file__).parents[3]
#: The address and the folder of the clone, as pages write them.
ADDRESS = "127.0.0.1:50051"
FOLDER = "/home/you/emitd"
#: The programs that a page may call. Check a new one before you add it: it runs on developers' machines.
PROGRAMS = frozenset(
    (
        "make",
        ".venv/bin/emitd",
        "emitd",
        "pytest",
        "python",
        "kill",
        "mv",
        "sed",
        "sh",
        "source",
        "cd",
        "mkdir",
        "rm",
        "cat",
        "grep",
        "echo",
        "sleep",
    )
)
#: Text that differs from run to run: a pattern, and its replacement on both sides.
VARIES = (
    (r"\b\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d+)?", r"DATE\1TIME"),
    # Tests run in random order, and the place of a skip depends on the installation of pytest.
    (r"(?m)^[.s]+( +\[100%\])$", r"TESTS\1"),
    (r"\bin \d+\.\d\ds\b", "in SECONDS"),
    (r"(?m)^(SKIPPED \[1\]) \S+:\d+:", r"\1 PLACE:"),
    # Every log has a key of its own.
    (r"\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}", "+KEY"),
    (r"(signed by emitd\.local/\S+)\+[0-9a-f]{8}", r"\1+KEY"),
    # A shell without a terminal prints more about a command that was killed.
    (r"(?m)^bash: line \d+: +\d+ Killed .*$", "Killed"),
)
UUID = r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
HANDED_ON = ("PATH", "PYTHONPATH", "TMPDIR")
EMITD = """#!/bin/sh
exec "{python}" -m emitd_cli "$@"
"""
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m pip" ] && {{ echo "the test installs nothing: is .venv/.ready older than what it needs?"; exit 2; }}
exec "{python}" "$@"
"""
PYTEST = """#!/bin/sh
exec "{python}" -m pytest "$@"
"""


class Text:
    """One side of the comparison, with varying text replaced.

    Ids are numbered in the order of their first appearance, so an id that repeats on one side must repeat on the other.
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def lines(self, text: str) -> list[str]:
        """Return the lines of a text, as they are compared."""
        text = re.sub(UUID, lambda match: f"UUID-{self._ids.setdefault(match[0], len(self._ids) + 1)}", text)
        for pattern, stands_for in VARIES:
            text = re.sub(pattern, stands_for, text)
        return text.splitlines()


class PageReader:
    """Does what a page says, block by block. The page belongs to `folder`, made by `clone` if it needs the project."""

    def __init__(self, folder: Path, page: str) -> None:
        self._page = page
        self._folder = folder
        self._terminals: dict[str, Terminal] = {}
        #: The output of the last command.
        self._printed = ""
        self._address = ADDRESS
        self._stack = ExitStack()
        self._told = Text()
        self._shown = Text()
        self._environ = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        self._environ |= {"HOME": str(folder), "LC_ALL": "C.UTF-8", "EMITD_LISTEN": "127.0.0.1:0"}
        self.typed = 0
        self.blocks = 0

    def read(self, block: Block) -> None:
        """Do one block, and compare."""
        if block.file is not None:
            (self._folder / "first-hour" / block.file.name).write_text(self._text_of(block.file))
        for step, following in zip(block.steps, [*block.steps[1:], None], strict=True):
            may_go_on = following is None or following.typed == INTERRUPT
            self._do(
                step,
                self._terminal(block.terminal),
                until_end=block.terminal == MAIN or not may_go_on,
            )
        self.blocks += 1

    def leave(self) -> None:
        """Check at the end that nothing runs on, and that nothing was shown that the page leaves out."""
        for name, terminal in self._terminals.items():
            rest = terminal.read(0, until_end=False)
            assert (terminal.busy, rest) == (False, ""), f"left over in the {name} terminal"

    def _text_of(self, file: SavedFile) -> str:
        if file.page:
            return example((ROOT / file.page).read_text(), file.example)
        return self._printed.partition(":\n\n")[2].rpartition("\n\n")[0] + "\n"

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = self._stack.enter_context(Terminal(self._folder, self._environ))
        return self._terminals[name]

    def _do(self, step: Step, terminal: Terminal, *, until_end: bool) -> None:
        if step.typed == INTERRUPT:
            terminal.interrupt()
        elif step.typed:
            assert step.typed.split()[0] in PROGRAMS, f"{self._page}:{step.line}: is `{step.typed}` harmless?"
            terminal.export("EMITD_ADDRESS", self._address)
            terminal.type(step.typed)
            self.typed += 1
        shown = terminal.read(len(step.output), until_end=until_end or step.typed == INTERRUPT)
        self._printed = shown
        if listening := re.search(r"^emitd listening on (\S+)$", shown, re.MULTILINE):
            self._address = listening[1]
        self._compare(step, shown)

    def _compare(self, step: Step, shown: str) -> None:
        shown = shown.replace(str(self._folder), FOLDER).replace(self._address, ADDRESS)
        told = self._told.lines("\n".join(step.output))
        got = self._shown.lines(shown)
        if got != told:
            diff = "\n".join(difflib.unified_diff(told, got, "the page says", "it was", lineterm="", n=99))
            pytest.fail(f"{self._page}:{step.line}: {step.typed}\n{diff}\n\nin full:\n{shown}", pytrace=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def clone(folder: Path) -> None:
    """Fill a folder with the files of the repository that the page's commands need, as after `make setup`."""
    for name in ("Makefile", "pyproject.toml", "logging_config.yml", ".ci/constraints.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "handlers").mkdir()
    programs = folder / ".venv" / "bin"
    names = {"python": sys.executable}
    program(programs / "emitd", EMITD.format(**names))
    program(programs / "python", PYTHON.format(**names))
    program(programs / "pytest", PYTEST.format(**names))
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
    (folder / ".venv" / ".ready").touch()


def program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
