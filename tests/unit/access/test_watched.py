"""`Watched`: reading again what has changed, and keeping what was good."""

import asyncio
import os
from pathlib import Path

import pytest

from emitd_server.access import watched
from emitd_server.access.watched import Watched, look_for_ever


class Words:
    """A file of words, and how often it was read."""

    def __init__(self, path: Path, text: str = "a b") -> None:
        self.path = path
        self.path.write_text(text)
        self.reads = 0
        self.changes: list[str] = []
        self.watched = Watched(
            "words", self.load, (), names_of=lambda words: words, paths=[path], changed=self.changes.append
        )

    def load(self) -> tuple[str, ...]:
        self.reads += 1
        text = self.path.read_text()
        if "!" in text:
            raise ValueError("it has a !\nand more")
        return tuple(text.split())


@pytest.fixture
def words(tmp_path: Path) -> Words:
    words = Words(tmp_path / "words")
    words.watched.start()
    return words


def test_a_file_that_has_not_changed_is_not_read_again(words: Words) -> None:
    """Looking costs one stat."""
    for _ in range(3):
        words.watched.look()
    assert (words.watched.value, words.reads, words.changes) == (("a", "b"), 1, [])


def test_a_changed_file_is_read_and_the_change_is_said(words: Words) -> None:
    """Once, with what came and what went."""
    words.path.write_text("b c d")
    words.watched.look()
    words.watched.look()
    assert words.watched.value == ("b", "c", "d")
    assert words.changes == ["words: added c, d; removed a"]


def test_a_pipe_in_its_place_is_not_read(words: Words, capfd: pytest.CaptureFixture[str]) -> None:
    """It would wait for a writer, and with it all that is looked at; so would the end of the process."""
    words.path.unlink()
    os.mkfifo(words.path)
    words.watched.look()
    assert (words.watched.value, words.reads) == (("a", "b"), 1)
    assert "words: is not a file; what was read before stays in use" in capfd.readouterr().err
    words.path.unlink()
    words.path.write_text("c")
    words.watched.look()
    assert words.watched.value == ("c",)


def test_a_change_without_other_names_is_said(words: Words) -> None:
    """Such as another group of a token, or another key under the same id."""
    words.path.write_text("b a")
    words.watched.look()
    assert words.changes == ["words: changed"]


def test_a_file_of_the_same_size_and_time_is_another_by_its_inode(words: Words) -> None:
    """As `cp -p` and `mv` may leave it."""
    before = words.path.stat()
    other = words.path.with_suffix(".new")
    other.write_text("x y")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(words.path)
    words.watched.look()
    assert words.watched.value == ("x", "y")


def test_a_link_to_another_file_is_a_change(words: Words) -> None:
    """Kubernetes replaces secrets by a symbolic link to another folder."""
    for name in ("one", "two"):
        (words.path.parent / name).mkdir()
        (words.path.parent / name / "words").write_text(name)
    link = words.path.parent / "now"
    link.symlink_to("one")
    words.path.unlink()
    words.path.symlink_to("now/words")
    words.watched.look()
    (words.path.parent / "next").symlink_to("two")
    (words.path.parent / "next").rename(link)
    words.watched.look()
    assert words.watched.value == ("two",)


def test_a_bad_version_leaves_the_old_one_and_is_reported_once(
    words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line; the good version after it counts, and another bad one is reported again."""
    words.path.write_text("!")
    for _ in range(3):
        words.watched.look()
    assert (words.watched.value, words.reads) == (("a", "b"), 2)
    said = "emitd words: it has a !; and more; what was read before stays in use\n"
    assert capsys.readouterr().err == said
    words.path.write_text("c")
    words.watched.look()
    assert words.watched.value == ("c",)
    words.path.write_text("!")
    words.watched.look()
    assert capsys.readouterr().err == said


def test_a_file_that_is_gone_leaves_the_old_version(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    """And counts again when it is back."""
    words.path.unlink()
    words.watched.look()
    assert words.watched.value == ("a", "b")
    assert "No such file" in capsys.readouterr().err
    words.path.write_text("c")
    words.watched.look()
    assert words.watched.value == ("c",)


def test_a_failed_read_is_tried_again_though_no_file_has_changed(
    words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wrong may have been the process: too many open files."""
    monkeypatch.setattr(watched, "RETRY_SECONDS", 0.0)
    words.path.write_text("c")
    monkeypatch.setattr(
        Path, "read_text", lambda _: (_ for _ in ()).throw(OSError(24, "Too many open files"))
    )
    words.watched.look()
    monkeypatch.undo()
    words.watched.look()
    assert words.watched.value == ("c",)


def test_the_same_problem_is_reported_once_however_often_it_is_found(
    words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that of a server which is out of reach for a night."""
    monkeypatch.setattr(watched, "RETRY_SECONDS", 0.0)
    words.path.write_text("!")
    for _ in range(3):
        words.watched.look()
    assert words.reads == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bad_first_file_is_raised_and_a_bad_first_answer_is_not(tmp_path: Path) -> None:
    """A service starts without the server that has its keys, and not with a file that is wrong."""
    words = Words(tmp_path / "words", "!")
    with pytest.raises(ValueError, match="it has a !"):
        words.watched.start()
    answer = Watched[tuple[str, ...]](
        "words", words.load, (), names_of=lambda value: value, every_seconds=0.0
    )
    answer.start()
    assert answer.value == ()
    words.path.write_text("a")
    answer.look()
    assert answer.value == ("a",)


def test_an_equal_value_is_the_same_object(words: Words) -> None:
    """What was made of it can stay."""
    before = words.watched.value
    words.path.write_text("a  b")
    words.watched.look()
    assert words.reads == 2
    assert words.watched.value is before


async def test_the_timer_looks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the loop's thread."""
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0.001)
    loop, seen, enough = asyncio.get_running_loop(), [], asyncio.Event()

    def look() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen.append(1)
        if len(seen) == 3:
            loop.call_soon_threadsafe(enough.set)

    timer = asyncio.create_task(look_for_ever(look))
    await asyncio.wait_for(enough.wait(), 10)
    timer.cancel()
