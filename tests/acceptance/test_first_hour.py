"""`docs/first-hour.md`, typed command by command into real shells: they show what the page says."""

import re
from pathlib import Path

import pytest

from support.docs.console_page import console_blocks
from support.docs.page_reader import ROOT, PageReader, clone

PAGE = ROOT / "docs" / "first-hour.md"
ONE, TWO = "01a20b37-5943-7a7b-94e2-1df237944a48", "01a20b37-59ff-7113-a4ff-377730deabbd"


@pytest.mark.slow
def test_the_first_hour(tmp_path: Path) -> None:
    """Each command, typed in the page's order, shows what the page says, and nothing else."""
    folder = tmp_path.resolve()
    clone(folder)
    page = PAGE.read_text()
    with PageReader(folder, PAGE.name) as reader:
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
    with (
        PageReader(tmp_path, PAGE.name) as reader,
        pytest.raises((AssertionError, pytest.fail.Exception)) as failure,
    ):
        for one in console_blocks(page):
            reader.read(one)
    assert re.search(told, str(failure.value), re.DOTALL), failure.value


def test_what_a_terminal_shows_later_is_not_lost(tmp_path: Path) -> None:
    """Output that the page does not tell fails at the end, also that of a command which was left running."""
    page = "<!-- terminal: other -->\n```console\n$ echo one; echo two\none\n```\n"
    with PageReader(tmp_path, PAGE.name) as reader:
        (block,) = console_blocks(page)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            reader.read(block)
            reader.leave()


def test_a_comment_that_is_not_understood_is_refused() -> None:
    """A slip in the name of a comment, or a line between it and its block, would type into the wrong terminal."""
    for comment in ("<!-- termnal: first -->\n", "<!-- terminal: first -->\n\n"):
        with pytest.raises(ValueError, match="comment"):
            list(console_blocks(comment + "```console\n$ emitd serve\n```\n"))
