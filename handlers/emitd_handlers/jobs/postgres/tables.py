"""`Tables`: the names of everything that jobs have in a PostgreSQL database."""

import re
from hashlib import blake2b
from typing import Self

import msgspec

__all__ = ["DEFAULT_TABLE", "Tables", "check_name"]

DEFAULT_TABLE = "job_logs"
#: Leaves room for what is appended: PostgreSQL cuts names at 63 bytes.
MAX_NAME_LENGTH = 40
_NAME = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)


def check_name(setting: str, name: str) -> None:
    """Raise ValueError, naming the setting, for a name that may not be given to a schema or a table."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"{setting}: '{name}' is no name for it: expected at most {MAX_NAME_LENGTH} of a-z, 0-9 and _, "
            "the first no digit"
        )


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """Names as they stand in statements: quoted, those of tables with their schema."""

    schema: str
    jobs: str
    transitions: str
    commits: str
    lease_watch: str
    versions: str
    #: The function that triggers of the table of jobs run.
    cleaner: str
    #: What the names of indexes and triggers begin with; not quoted.
    prefix: str
    #: The row of `versions`.
    component: str
    #: What is notified of changes; a channel is the whole database's.
    channel: str

    @classmethod
    def named(cls, schema: str, table: str) -> Self:
        """Return the names for a table in a schema. The others begin with the table's, but for the default's."""
        companion = "job" if table == DEFAULT_TABLE else table

        def qualified(name: str) -> str:
            return f"{_quoted(schema)}.{_quoted(name)}"

        return cls(
            schema=_quoted(schema),
            jobs=qualified(table),
            transitions=qualified(f"{companion}_transitions"),
            commits=qualified(f"{companion}_commits"),
            lease_watch=qualified(f"{companion}_lease_watch"),
            versions=qualified("emitd_schema"),
            cleaner=qualified(f"{table}_clean_up"),
            prefix=table,
            component="jobs" if table == DEFAULT_TABLE else f"jobs:{table}",
            channel=f"emitd_jobs_{blake2b(f'{schema}/{table}'.encode(), digest_size=16).hexdigest()}",
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
