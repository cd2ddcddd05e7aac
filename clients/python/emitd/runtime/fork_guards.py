"""Which threads are inside grpc and SQLite, so that a fork can wait until none is.

A process that is forked while a thread is inside grpc can crash or hang its child. SQLite has locks in memory; a fork
copies them as another thread holds them, and the child can hang at its first use of SQLite, for ever.
"""

import os
import threading
import time
from threading import RLock


class GrpcForkGuard:
    """Every call of grpc that blocks stands in a `with` block of the guard."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        #: By how many forks it is shut. All are of one thread, which is let in: it is not in here when it forks.
        self._shut_times = 0
        self._forking_thread = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._shut_times and self._forking_thread != threading.get_ident():
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def shut(self) -> None:
        """Let no other thread in: it waits."""
        with self._changed:
            self._forking_thread = threading.get_ident()
            self._shut_times += 1

    def wait_until_empty(self, deadline: float) -> bool:
        """Return whether all threads are out by `deadline` (`time.monotonic`)."""
        with self._changed:
            while self._inside:
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    return not self._inside
            return True

    def open(self) -> None:
        """End one `shut`; after the last, let those in who wait."""
        with self._changed:
            self._shut_times -= 1
            self._changed.notify_all()


#: Held by the thread that is inside SQLite, for all spools of the process, or that forks; the same thread may take it
#: again. It is to be looked up here each time: a child starts afresh.
sqlite_gate = RLock()


def _renew() -> None:
    global sqlite_gate
    sqlite_gate = RLock()


os.register_at_fork(after_in_child=_renew)
