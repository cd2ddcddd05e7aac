"""The text of a checkpoint: written, read, and refused."""

from base64 import b64encode

import pytest

from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.note import NoteInvalid

ROOT = bytes(range(32))
ENCODED = b64encode(ROOT).decode()


def test_three_lines() -> None:
    """The log's name, the size, the root in base64; what is written is read as it was."""
    checkpoint = Checkpoint("example.com/log", 42, ROOT)
    assert checkpoint.text() == f"example.com/log\n42\n{ENCODED}\n"
    assert Checkpoint.parse(checkpoint.text()) == checkpoint


def test_further_lines_are_passed_over() -> None:
    """The specification allows extensions."""
    assert Checkpoint.parse(f"log\n0\n{ENCODED}\nmore\nand more\n") == Checkpoint("log", 0, ROOT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has not the lines of one"),
        (f"log\n1\n{ENCODED}", "has not the lines of one"),
        ("log\n1\n", "has not the lines of one"),
        (f"\n1\n{ENCODED}\n", "has not the lines of one"),
        (f"log\n1\n{ENCODED}\n\nmore\n", "has not the lines of one"),
        (f"log\n01\n{ENCODED}\n", "size '01' is not a number"),
        (f"log\n-1\n{ENCODED}\n", "size '-1' is not a number"),
        (f"log\n+1\n{ENCODED}\n", "is not a number"),
        (f"log\n1 \n{ENCODED}\n", "is not a number"),
        (f"log\n٣\n{ENCODED}\n", "is not a number"),
        (f"log\n{10**19}\n{ENCODED}\n", "is not a number"),
        ("log\n1\nAAAA\n", "root is not a hash"),
        ("log\n1\nA&\n", "root is not a hash"),
        (f"log\n1\n{ENCODED[:-1]}\n", "root is not a hash"),
        # The same bytes, spelt in a second way.
        (f"log\n1\n{ENCODED[:-2]}9=\n", "root is not a hash"),
    ],
)
def test_what_is_no_checkpoint(text: str, words: str) -> None:
    """It is refused, so that no two texts are the same checkpoint."""
    with pytest.raises(NoteInvalid, match=words):
        Checkpoint.parse(text)
