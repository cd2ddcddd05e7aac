"""The command reference in `docs/commands.md` against what the commands print."""

import os
import shutil
import subprocess
import sys

import pytest

from support.docs.command_reference import PAGE, ROOT, command_reference, help_texts, on_page
from support.processes.run_main import run_main

CURE = "run: python tests/support/docs/command_reference.py --write"
PROGRAM = ROOT / "tests" / "support" / "docs" / "command_reference.py"
#: The releases that the package is for.
PYTHONS = ("python3.11", "python3.12", "python3.13")


def test_the_page_has_each_command_s_help() -> None:
    """Word for word, and of no command that is gone."""
    assert on_page(PAGE.read_text()) == command_reference(), CURE


def test_the_reference_is_what_the_commands_print() -> None:
    """Of the program, of the commands that have commands, and of each command."""
    texts = dict(help_texts())
    assert {"emitd", "emitd serve", "emitd emit", "emitd job", "emitd job list"} <= set(texts)
    for name, text in texts.items():
        assert run_main(*name.split()[1:], "--help") == (0, text, "")


def test_every_command_has_examples() -> None:
    """They begin with the command itself, or pipe into it."""
    for name, text in help_texts():
        if name != "emitd":
            assert name in text.partition("\nexamples:\n")[2], name


@pytest.mark.parametrize("columns", ["40", "300"])
def test_help_does_not_depend_on_the_terminal(columns: str) -> None:
    """A page has one width, and terminals have many."""
    done = subprocess.run(
        [sys.executable, "-m", "emitd_cli", "emit", "--help"],
        env={**os.environ, "COLUMNS": columns},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == dict(help_texts())["emitd emit"]


@pytest.mark.parametrize("python", PYTHONS)
def test_help_does_not_depend_on_the_release_of_python(python: str) -> None:
    """Those that are on this machine print the same reference; they need nothing installed for it."""
    program = shutil.which(python)
    if program is None or subprocess.run([program, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {python}")
    done = subprocess.run(
        [program, str(PROGRAM)], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command_reference()
