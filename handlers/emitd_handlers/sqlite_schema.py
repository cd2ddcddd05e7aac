"""The tables that jobs are kept in, and how older ones are brought up to date.

The database may be the user's own: nothing but these tables is touched. People and other programs may read
`job_logs` and `job_transitions`; `job_receipts` and `emitd_schema` are for emitd alone. Times are UTC, as SQLite's date
functions and Python's `datetime.fromisoformat` read them; columns whose names end in `_unix_nano` are nanoseconds since
1970-01-01T00:00:00Z.
"""

import sqlite3
from collections.abc import Sequence

from emitd_handlers.errors import HandlerUnavailable

__all__ = ["migrate", "transaction"]
