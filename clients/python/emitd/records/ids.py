"""The ids of the records of this process: a random prefix, drawn once, and a counter.

They cost a fraction of a UUID, and are as unique: the prefix has 96 random bits, and a forked child draws its own.
"""

import itertools
import os

__all__ = ["next_record_id"]

_PREFIX_BYTES = 12

_prefix = ""
_counter = itertools.count()


def next_record_id() -> str:
    """Return an id that no other record has. From any thread."""
    return f"{_prefix}{next(_counter):x}"


def _renew() -> None:
    global _prefix, _counter
    _prefix = f"{os.urandom(_PREFIX_BYTES).hex()}-"
    _counter = itertools.count()


_renew()
os.register_at_fork(after_in_child=_renew)
