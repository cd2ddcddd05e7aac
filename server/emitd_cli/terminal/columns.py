"""Texts in aligned columns, by the columns that a terminal takes for them."""

import unicodedata
from collections.abc import Iterator, Sequence

#: One column that is wider than this no longer widens the others' lines.
MAX_PADDING = 60
GAP = "  "


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each row of printable texts; columns are two spaces apart, and nothing is cut off."""
    widths = [min(max(map(columns_of, column)), MAX_PADDING) for column in zip(*rows, strict=True)]
    for row in rows:
        yield pad(row, widths)


def pad(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return a row's line where its columns have at least these widths."""
    padded = (cell + " " * (width - columns_of(cell)) for cell, width in zip(row, widths, strict=True))
    return GAP.join(padded).rstrip()


def clip(line: str, width: int) -> str:
    """Return a printable line that takes no more columns than `width`; a sign says where it was cut."""
    if columns_of(line) <= width:
        return line
    taken = 0
    for at, character in enumerate(line):
        taken += _columns_of_character(character)
        if taken >= width:
            return line[:at] + "…"
    return line


def clip_middle(text: str, width: int) -> str:
    """Return a printable text that takes no more columns than `width`; a sign stands for what was cut out of it.

    Of ids it is mostly the end that differs.
    """
    if columns_of(text) <= width:
        return text
    end = ""
    for character in reversed(text):
        if columns_of(character + end) > (width - 1) // 2:
            break
        end = character + end
    while end and not _columns_of_character(end[0]):  # what it stood on is cut out
        end = end[1:]
    return clip(text, width - columns_of(end)) + end


def columns_of(text: str) -> int:
    """How many columns a terminal takes for a printable text."""
    if text.isascii():
        return len(text)
    return sum(_columns_of_character(character) for character in text)


def _columns_of_character(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):  # stands on the character before
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
