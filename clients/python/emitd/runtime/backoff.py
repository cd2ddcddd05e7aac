"""`Backoff`: how long to wait before another try."""

import random
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `initial` to `maximum` seconds, each shortened by chance to as little as half.

    The jitter keeps clients whose server came back from returning all at the same moment.
    """

    initial: float
    maximum: float

    def pause(self, attempts: int, at_least: float = 0.0) -> float:
        """Return the seconds to wait after `attempts` failed tries, from 1; `at_least` is what the server asks for."""
        longest = min(self.initial * 2.0 ** min(attempts - 1, 32), self.maximum)
        return max(at_least, longest * random.uniform(0.5, 1.0))
