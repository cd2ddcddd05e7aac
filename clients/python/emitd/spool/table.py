"""`SpoolTable`: the records of one spool in its database, those that wait and those that were refused for good.

Plain statements and what they add up to; who may call them, and when, is `Spool`'s affair.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from emitd.spool.database import transaction

__all__ = ["Counts", "SpoolTable", "Spooled"]

#: Of a reason for a rejection, what is kept.
MAX_REASON_CHARS = 1000
_REJECTED_BYTES = "LENGTH(record) + LENGTH(CAST(reason AS BLOB))"


class Spooled(NamedTuple):
    """A record that waits, and its number in its spool, which no other record there gets."""

    number: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Counts:
    """What there is, in records and bytes; a rejected record's reason counts too."""

    waiting: int
    waiting_bytes: int
    rejected: int
    rejected_bytes: int


class SpoolTable:
    """The tables behind a connection. Called by one thread at a time; everything may raise sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Count what is there. Takes the connection over."""
        self.connection = connection
        self.counts = self._count()
        # Kept here, because SQLite gives the number of the last record again once that is deleted.
        self._next_number = self._last_number() + 1

    @contextmanager
    def change(self) -> Iterator[None]:
        """Make all changes within the block, or none; needed for each of them."""
        before = self.counts
        try:
            with transaction(self.connection):
                yield
        except sqlite3.Error:
            self.counts = before
            raise
        except BaseException:  # a KeyboardInterrupt can come just behind the commit
            self.counts = self._count()
            raise

    def append(self, records: Sequence[bytes]) -> None:
        """Let the records wait behind those that do."""
        first, self._next_number = self._next_number, self._next_number + len(records)
        self.connection.executemany("INSERT INTO waiting VALUES (?, ?)", enumerate(records, first))
        self._add(waiting=len(records), waiting_bytes=sum(map(len, records)))

    def first(self, max_records: int, max_bytes: int) -> Sequence[Spooled]:
        """Return the oldest that wait: at least one if there is any, however large."""
        found: list[Spooled] = []
        statement = "SELECT number, record FROM waiting ORDER BY number LIMIT ?"
        with closing(self.connection.execute(statement, (max(1, max_records),))) as rows:
            for row in map(Spooled._make, rows):
                max_bytes -= len(row.record)
                if found and max_bytes < 0:
                    break
                found.append(row)
        return found

    def delete(self, numbers: Iterable[int]) -> None:
        """Take away records that wait; numbers of no such record are passed over."""
        for number in numbers:
            self._delete("waiting", number)

    def reject(self, number: int, reason: str) -> None:
        """Put aside a record that waits; the number of no such record is passed over."""
        reason = reason.encode(errors="replace").decode()[:MAX_REASON_CHARS]
        row = self.connection.execute("SELECT record FROM waiting WHERE number = ?", (number,)).fetchone()
        if row is None:
            return
        self._delete("waiting", number)
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
        self.connection.execute("INSERT INTO rejected VALUES (?, ?, ?, ?)", (number, row[0], reason, now))
        self._add(rejected=1, rejected_bytes=len(row[0]) + len(reason.encode()))

    def drop_rejected(self, max_bytes: int, *, keep: int = 0) -> None:
        """Delete rejected records, the oldest first, until all of them take `max_bytes`; never the number `keep`."""
        while self.counts.rejected_bytes > max_bytes:
            statement = "SELECT MIN(number) FROM rejected WHERE number <> ?"
            (number,) = self.connection.execute(statement, (keep,)).fetchone()
            if number is None:
                return
            self._delete("rejected", number)

    def is_empty(self) -> bool:
        """Ask the file itself, as it is deleted for that."""
        counts = self._count()
        return not counts.waiting and not counts.rejected

    def _delete(self, table: str, number: int) -> None:
        size = _REJECTED_BYTES if table == "rejected" else "LENGTH(record)"
        row = self.connection.execute(f"SELECT {size} FROM {table} WHERE number = ?", (number,)).fetchone()
        if row is not None:
            self.connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
            self._add(**{table: -1, f"{table}_bytes": -row[0]})

    def _add(self, **changes: int) -> None:
        changed = {name: getattr(self.counts, name) + change for name, change in changes.items()}
        self.counts = replace(self.counts, **changed)

    def _count(self) -> Counts:
        waiting = self.connection.execute("SELECT COUNT(*), TOTAL(LENGTH(record)) FROM waiting").fetchone()
        rejected = self.connection.execute(
            f"SELECT COUNT(*), TOTAL({_REJECTED_BYTES}) FROM rejected"
        ).fetchone()
        return Counts(*map(int, (*waiting, *rejected)))

    def _last_number(self) -> int:
        statement = (
            "SELECT MAX(number) FROM (SELECT number FROM waiting UNION ALL SELECT number FROM rejected)"
        )
        (number,) = self.connection.execute(statement).fetchone()
        return number or 0
