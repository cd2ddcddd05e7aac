"""Texts by the columns that a terminal takes for them."""

import pytest

from emitd_cli.terminal.output import clip, clip_middle, columns_of


@pytest.mark.parametrize(
    ("text", "width", "clipped"),
    [
        ("nightly-1", 9, "nightly-1"),
        ("nightly-backup-0017", 11, "night…-0017"),
        ("nightly-backup-0017", 10, "night…0017"),
        ("abc", 1, "…"),
        ("日本語の名前です", 9, "日本…です"),
        ("e\u0301" * 9, 5, "e\u0301e\u0301…e\u0301e\u0301"),
    ],
)
def test_a_long_id_loses_its_middle(text: str, width: int, clipped: str) -> None:
    """Both ends stay, and nothing is wider than it may be."""
    assert clip_middle(text, width) == clipped
    assert columns_of(clipped) <= width


@pytest.mark.parametrize(("text", "width", "clipped"), [("copying", 7, "copying"), ("copying", 6, "copyi…")])
def test_a_line_loses_its_end(text: str, width: int, clipped: str) -> None:
    """With a sign in its place."""
    assert clip(text, width) == clipped
