"""Patterns with `*`, by which texts such as a record's source are chosen."""

import re
from collections.abc import Iterable
from functools import lru_cache


def matches_any(patterns: Iterable[str], text: str) -> bool:
    """Return whether one of the patterns matches the whole of a text: `*` stands for any text, all else for itself."""
    return any(_compiled(pattern).fullmatch(text) for pattern in patterns)


@lru_cache(1024)
def _compiled(pattern: str) -> "re.Pattern[str]":
    # Each part is searched for once, from where the part before it ended: no text takes more than one pass a part.
    first, *rest = map(re.escape, re.split(r"\*+", pattern))
    *middle, last = rest or [""]
    between = "".join(f"(?>.*?{part})" for part in middle)
    return re.compile(first + between + (f".*{last}" if rest else ""), re.DOTALL)
