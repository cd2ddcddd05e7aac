"""UUID version 7 (RFC 9562): ids that sort by the time they were made."""

import os
import random
import threading
from itertools import count
from time import time_ns

#: The millisecond of the last id, the first 24 characters of its ids, and what counts their last 48 bits.
_series: "tuple[int, str, count[int]]"
_lock: threading.Lock


def uuid7() -> str:
    """Return a new UUIDv7 in its usual spelling; each sorts after all that this process had before.

    Within a millisecond ids count up from a random start (RFC 9562, section 6.2, method 1), and so they do
    while the clock has gone back. Unique, but not secret. May be called from any thread.
    """
    milli = time_ns() // 1_000_000
    if milli > _series[0]:
        _start_series(milli)
    _, prefix, counter = _series
    return f"{prefix}{next(counter):x}"


def _start_series(milli: int) -> None:
    global _series
    with _lock:
        if milli <= _series[0]:  # another thread came first
            return
        high = f"{milli:012x}"
        version, variant = 0x7000 | random.getrandbits(12), 0x8000 | random.getrandbits(14)
        # From 12 hexadecimal digits up, with room for 2**47 ids.
        counter = count(2**44 + random.getrandbits(46))
        _series = (milli, f"{high[:8]}-{high[8:]}-{version:x}-{variant:x}-", counter)


def _forget() -> None:
    """Forget the series: a forked child must not continue its parent's."""
    global _series, _lock
    _series = (-1, "", count())
    _lock = threading.Lock()


_forget()
os.register_at_fork(after_in_child=_forget)
