"""The database of a spool: what makes its transactions durable."""

from contextlib import closing
from pathlib import Path

from emitd.spool.database import make_database, open_database

FULL = 2  # https://www.sqlite.org/pragma.html#pragma_synchronous


def test_each_transaction_is_synced(tmp_path: Path) -> None:
    """In a new database and in one that is opened again, also where the system has a sync that syncs more."""
    path = tmp_path / "spool.db"
    make_database(path).close()
    for made in (make_database(tmp_path / "new.db"), open_database(path)):
        assert made is not None
        with closing(made) as connection:
            values = [
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "fullfsync")
            ]
            assert values == [FULL, 1]
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
