"""`TimeLeft`: how long a client may go on trying: as long as it takes, until it is being closed.

A thread that sends for itself, because no other can be started, has less than that. It waits only while there is
patience: so much for all such waiting together, and all of it again once the service has answered.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from emitd.runtime.threads import sending_by_itself, sending_deadline

__all__ = ["TimeLeft"]

#: The least that a call gets, however late it is: enough for a service that is there.
MIN_CALL_SECONDS = 0.01


class TimeLeft:
    """For any thread."""

    def __init__(self, patience_seconds: float) -> None:
        self._closing = threading.Event()
        self._close_deadline = math.inf
        self._all_patience = self._patience = patience_seconds

    def close(self, deadline: float) -> None:
        """Let everything end by this time of `time.monotonic`, and a pause at once."""
        self._close_deadline = deadline
        self._closing.set()

    def reopen(self) -> None:
        """Let go on what comes even after that."""
        self._close_deadline = math.inf
        self._closing.clear()

    def seconds(self) -> float:
        """Return how much this thread has left; negative: it is late."""
        return min(self._close_deadline, sending_deadline()) - time.monotonic()

    def for_call(self, timeout: float) -> float:
        """Return how long a call may take."""
        return min(timeout, max(self.seconds(), MIN_CALL_SECONDS))

    def pause(self, seconds: float) -> bool:
        """Wait before another try; return False, at once, if there is no time for that."""
        if self.seconds() <= seconds:
            return False
        if self._closing.is_set():
            time.sleep(seconds)
        else:
            self._closing.wait(min(seconds, threading.TIMEOUT_MAX))
        return True

    @contextmanager
    def alone(self, timeout: float = math.inf) -> Iterator[float]:
        """Let this thread send within the block, for so long and while there is patience; give the deadline."""
        began = time.monotonic()
        deadline = began + max(min(timeout, self._patience), MIN_CALL_SECONDS)
        with sending_by_itself(deadline):
            yield deadline
        self._patience = max(self._patience - (time.monotonic() - began), 0.0)

    def answered(self) -> None:
        """Note that the service is there."""
        self._patience = self._all_patience
