"""`ManyRows`: a statement of SQLite for many rows at once.

For each row of an `executemany` Python gives up its global lock twice, and gets it back late when the event loop
has work of its own. A statement that takes its rows from a VALUES clause is one step for all of them, and cheaper
in SQLite too.
"""

import sqlite3
from collections.abc import Sequence

__all__ = ["ManyRows"]

#: How many rows a statement can take: few different ones, so that each is prepared only once.
_SIZES = (256, 64, 16, 4, 1)


class ManyRows:
    """Runs `<before> VALUES <row>, <row>, ... <after>`, each row with its own parameters."""

    def __init__(self, before: str, row: str, after: str = "") -> None:
        width = row.count("?")
        self._statements = [
            (size * width, f"{before} VALUES {', '.join([row] * size)} {after}") for size in _SIZES
        ]

    def run(
        self, connection: sqlite3.Connection, rows: Sequence[object], first: Sequence[object] = ()
    ) -> int:
        """Run it for all rows, whose parameters stand in `rows` one after the other.

        `first` are the parameters in `before`. Returns how many rows of the table were changed.
        """
        changed = start = 0
        for length, statement in self._statements:
            while start + length <= len(rows):
                parameters = (*first, *rows[start : start + length])
                changed += connection.execute(statement, parameters).rowcount
                start += length
        return changed
