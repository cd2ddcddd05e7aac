"""ManyRows: any number of rows in few statements."""

import sqlite3

import pytest

from emitd_handlers.jobs.sqlite.rows import ManyRows


@pytest.mark.parametrize("count", [0, 1, 3, 4, 255, 256, 257, 700])
def test_every_row_is_written_once(count: int) -> None:
    """Also where the rows fill no whole statement; an update of them counts them all."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c INTEGER)")
    insert = ManyRows("INSERT INTO t", "(?, nullif(?, ''), 0)")
    update = ManyRows("UPDATE t SET c = ?, b = column2 FROM (", "(?, ?)", ") WHERE a = column1")
    assert insert.run(connection, [item for number in range(count) for item in (number, "")]) == count
    assert connection.execute("SELECT count(*) FROM t WHERE b IS NULL").fetchone() == (count,)
    assert update.run(connection, [x for n in range(count) for x in (n, str(n))], (7,)) == count
    rows = connection.execute("SELECT a, b, c FROM t ORDER BY a").fetchall()
    assert rows == [(number, str(number), 7) for number in range(count)]
    connection.close()
