"""`Confirmations`: which log lines the service accepted so recently that its death may have lost them.

A line that is accepted stands in a queue of the service; nobody is told when it left. So what was accepted shortly
before a server died counts as `unconfirmed`.
"""

import time
from collections import deque
from collections.abc import Callable

__all__ = ["Confirmations"]


class Confirmations:
    """Counts the lines at risk. For one thread at a time: its owner holds a lock."""

    def __init__(self, seconds: float, max_lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Lines are at risk for so many `seconds`; the last `max_lines` at most: what fits a server's queue."""
        self._seconds = seconds
        self._max_lines = max_lines
        self._clock = clock
        self._accepted: deque[tuple[float, int]] = deque()
        self._server_id = 0

    def accepted(self, lines: int) -> None:
        """Note that so many lines were accepted, now."""
        self._accepted.append((self._clock(), lines))
        self._forget_old()

    def answered(self, server_id: int, *, has_one_server: bool) -> int:
        """Note who answered; return how many lines are unconfirmed because another had answered before."""
        before, self._server_id = self._server_id, server_id or self._server_id
        if has_one_server and before and server_id and before != server_id:
            return self.broke()
        return 0

    def broke(self) -> int:
        """Return how many lines are unconfirmed because the connection broke. They are told once."""
        self._forget_old()
        at_risk = min(sum(lines for _, lines in self._accepted), self._max_lines)
        self._accepted.clear()
        return at_risk

    def _forget_old(self) -> None:
        oldest = self._clock() - self._seconds
        while self._accepted and self._accepted[0][0] < oldest:
            self._accepted.popleft()
