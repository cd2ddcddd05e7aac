"""`GrpcForkGuard`: who is inside grpc, so that a fork can wait until nobody is.

A process that is forked while one of its threads is inside grpc can crash or hang its child.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from types import TracebackType

__all__ = ["GrpcForkGuard", "inside", "pause", "resume"]


class GrpcForkGuard:
    """Every call of grpc that blocks stands in a `with` block of the gate."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        #: By so many forks, all of one thread, which is let in: it cannot be in here when it forks.
        self._shut_times = 0
        self._forking_thread = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._shut_times and self._forking_thread != threading.get_ident():
                self._changed.wait()
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def shut(self) -> None:
        """Let no other thread in any more; who wants to waits."""
        with self._changed:
            self._forking_thread = threading.get_ident()
            self._shut_times += 1

    def wait_until_empty(self, deadline: float) -> bool:
        """Return whether nobody is inside, at the latest at this time of `time.monotonic`."""
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
