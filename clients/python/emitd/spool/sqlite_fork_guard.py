"""The way into SQLite for all spools of a process: one thread at a time, and none while the process forks.

SQLite has locks in memory, which a fork copies as some other thread holds them at that instant. A child that came to
be so can hang at its first use of SQLite, for ever; under load about one in a hundred did.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

__all__ = ["inside", "pause", "resume"]

_gate = RLock()


@contextmanager
def inside() -> Iterator[None]:
    """Run the block while no other thread is inside. The same thread may enter again."""
    with _gate:
        yield


def pause(timeout_seconds: float) -> bool:
    """Wait until no other thread is inside, and keep all out until `resume`; False if that takes too long.

    For the moment of a fork. `resume` belongs to it in the parent, in the same thread and only after True; a child
    starts with a gate of its own.
    """
    return _gate.acquire(timeout=timeout_seconds)


def resume() -> None:
    """End a pause."""
    _gate.release()


def _renew() -> None:
    global _gate
    _gate = RLock()


os.register_at_fork(after_in_child=_renew)
