"""`docs/first-hour.md`, typed command by command into real shells, and what they show against what it says.

The commands run as they stand there, in a copy of what they need of the repository, with these means:

- `.venv` is a folder with `emitd`, `python` and `pytest` of the environment that the tests run in;
- EMITD_LISTEN makes the service take a free port, and EMITD_ADDRESS tells the commands of it; what they show has the
  page's port in its place; nothing else of the developer's environment is handed on;
- `pkill`, which ends processes by their name, is a stand-in that ends the service of this test, and no other.
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

from support.docs.console_page import INTERRUPT, MAIN, Block, Step, console_blocks, example
from support.processes.terminal import Terminal

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first-hour.md"
#: Where the page's service listens, and the folder that its reader has cloned into.
ADDRESS = "127.0.0.1:50051"
FOLDER = "/home/you/emitd"
#: With what the page's commands begin. Another one has to be looked at first: it is run on developers' machines.
PROGRAMS = frozenset(
    (
        "make",
        ".venv/bin/emitd",
        "emitd",
        "pytest",
        "python",
        "pkill",
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
#: What differs from run to run: a pattern, and what stands for it on both sides.
VARIES = (
    (r"\b\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d+)?", r"DATE\1TIME"),
    # Tests run in random order, and the place of a skip is wherever pytest is installed.
    (r"(?m)^[.s]+( +\[100%\])$", r"TESTS\1"),
    (r"\bin \d+\.\d\ds\b", "in SECONDS"),
    (r"(?m)^(SKIPPED \[1\]) \S+:\d+:", r"\1 PLACE:"),
    # Every log has a key of its own.
    (r"\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}", "+KEY"),
    (r"(signed by emitd\.local/\S+)\+[0-9a-f]{8}", r"\1+KEY"),
    # A shell that nobody sits in front of says more of a command that was killed.
    (r"(?m)^bash: line \d+: +\d+ Killed .*$", "Killed"),
)
UUID = r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
ONE, TWO = "01a20b37-5943-7a7b-94e2-1df237944a48", "01a20b37-59ff-7113-a4ff-377730deabbd"
HANDED_ON = ("PATH", "PYTHONPATH", "TMPDIR")
EMITD = """#!/bin/sh
[ "$1" = serve ] && echo $$ > "{pid}"
exec "{python}" -m emitd_cli "$@"
"""
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m pip" ] && {{ echo "the test installs nothing: is .venv/.ready older than what it needs?"; exit 2; }}
exec "{python}" "$@"
"""
PYTEST = """#!/bin/sh
exec "{python}" -m pytest "$@"
"""
PKILL = """#!/bin/sh
[ "$*" = "-9 -f emitd serve" ] || {{ echo "pkill: the test knows only: pkill -9 -f 'emitd serve'"; exit 2; }}
exec kill -9 "$(cat "{pid}")"
"""


class Text:
    """One side of the comparison, with what varies made equal.

    Ids are numbered as they first appear, on each side by itself: the same one again must be the same on the other.
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def lines(self, text: str) -> list[str]:
        """Return the lines of a text, as they are compared."""
        text = re.sub(UUID, lambda match: f"UUID-{self._ids.setdefault(match[0], len(self._ids) + 1)}", text)
        for pattern, stands_for in VARIES:
            text = re.sub(pattern, stands_for, text)
        return text.splitlines()


class Reader:
    """Somebody who does what the page says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._terminals: dict[str, Terminal] = {}
        self._address = ADDRESS
        self._stack = ExitStack()
        self._told = Text()
        self._shown = Text()
        self._environ = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        self._environ["PATH"] = f"{folder / 'stand-ins'}:{self._environ['PATH']}"
        self._environ |= {"HOME": str(folder), "LC_ALL": "C.UTF-8", "EMITD_LISTEN": "127.0.0.1:0"}
        self.typed = 0
        self.blocks = 0

    def read(self, block: Block) -> None:
        """Do one block, and compare."""
        if block.file is not None:
            text = example((ROOT / block.file.page).read_text(), block.file.example)
            (self._folder / "first-hour" / block.file.name).write_text(text)
        for step, following in zip(block.steps, [*block.steps[1:], None], strict=True):
            may_go_on = following is None or following.typed == INTERRUPT
            self._do(
                step,
                self._terminal(block.terminal),
                until_end=block.terminal == MAIN or not may_go_on,
            )
        self.blocks += 1

    def leave(self) -> None:
        """Look around at the end: nothing runs on, and nothing was shown that the page does not tell."""
        for name, terminal in self._terminals.items():
            rest = terminal.read(0, until_end=False)
            assert (terminal.busy, rest) == (False, ""), f"left over in the {name} terminal"

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = self._stack.enter_context(Terminal(self._folder, self._environ))
        return self._terminals[name]

    def _do(self, step: Step, terminal: Terminal, *, until_end: bool) -> None:
        if step.typed == INTERRUPT:
            terminal.interrupt()
        elif step.typed:
            assert step.typed.split()[0] in PROGRAMS, f"{PAGE.name}:{step.line}: is `{step.typed}` harmless?"
            terminal.export("EMITD_ADDRESS", self._address)
            terminal.type(step.typed)
            self.typed += 1
        shown = terminal.read(len(step.output), until_end=until_end or step.typed == INTERRUPT)
        if listening := re.search(r"^emitd listening on (\S+)$", shown, re.MULTILINE):
            self._address = listening[1]
        self._compare(step, shown)

    def _compare(self, step: Step, shown: str) -> None:
        shown = shown.replace(str(self._folder), FOLDER).replace(self._address, ADDRESS)
        told = self._told.lines("\n".join(step.output))
        got = self._shown.lines(shown)
        if got != told:
            diff = "\n".join(difflib.unified_diff(told, got, "the page says", "it was", lineterm="", n=99))
            pytest.fail(f"{PAGE.name}:{step.line}: {step.typed}\n{diff}\n\nin full:\n{shown}", pytrace=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def clone(folder: Path) -> None:
    """Fill a folder with what the page's commands need of the repository, as after `make setup`."""
    for name in ("Makefile", "pyproject.toml", "logging_config.yml", ".ci/constraints.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "handlers").mkdir()
    programs = folder / ".venv" / "bin"
    names = {"python": sys.executable, "pid": folder / "pid"}
    program(programs / "emitd", EMITD.format(**names))
    program(programs / "python", PYTHON.format(**names))
    program(programs / "pytest", PYTEST.format(**names))
    program(folder / "stand-ins" / "pkill", PKILL.format(**names))
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
    (folder / ".venv" / ".ready").touch()


def program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.mark.slow
def test_the_first_hour(tmp_path: Path) -> None:
    """Each command, typed in the page's order, shows what the page says, and nothing else."""
    folder = tmp_path.resolve()
    clone(folder)
    page = PAGE.read_text()
    with Reader(folder) as reader:
        for block in console_blocks(page):
            reader.read(block)
        reader.leave()
    assert reader.blocks == page.count("```console\n")
    assert reader.typed == len(re.findall(r"^\$ ", page, re.MULTILINE))
    assert reader.typed > 12
    assert not (folder / "first-hour").exists()


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("$ echo one\none\n$ echo two\ntoo\n", "first-hour.md:12: echo two\n.*-too\n[+]two"),
        ("$ cd .\nnothing\n", "-nothing"),
        ("$ echo more\n", "[+]more"),
        (f"$ echo {ONE} {ONE}\n{ONE} {TWO}\n", "-UUID-1 UUID-2\n[+]UUID-1 UUID-1"),
        ("$ curl 127.0.0.1\n", "is `curl 127.0.0.1` harmless"),
    ],
    ids=["other", "missing", "too much", "an id", "a command"],
)
def test_a_difference_is_told(tmp_path: Path, block: str, told: str) -> None:
    """A line that is other, missing or too much, an id that changes, a command that nobody has looked at."""
    page = "\n" * 8 + f"```console\n{block}```\n"
    with Reader(tmp_path) as reader, pytest.raises((AssertionError, pytest.fail.Exception)) as failure:
        for one in console_blocks(page):
            reader.read(one)
    assert re.search(told, str(failure.value), re.DOTALL), failure.value


def test_what_a_terminal_shows_later_is_not_lost(tmp_path: Path) -> None:
    """Output that the page does not tell fails at the end, also that of a command which was left running."""
    page = "<!-- terminal: other -->\n```console\n$ echo one; echo two\none\n```\n"
    with Reader(tmp_path) as reader:
        (block,) = console_blocks(page)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            reader.read(block)
            reader.leave()


def test_a_comment_that_is_not_understood_is_refused() -> None:
    """A slip in the name of a comment, or a line between it and its block, would type into the wrong terminal."""
    for comment in ("<!-- termnal: first -->\n", "<!-- terminal: first -->\n\n"):
        with pytest.raises(ValueError, match="comment"):
            list(console_blocks(comment + "```console\n$ emitd serve\n```\n"))


def test_links_lead_somewhere() -> None:
    """Each file that the page links to exists, and so does each heading."""
    for target, heading in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", PAGE.read_text()):
        file = PAGE.parent / target
        assert file.exists(), target
        titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not heading or heading in anchors, f"{target}#{heading}"
