"""`CallerLimits`: how much each principal may send and hold, so that one never takes all."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from emitd_handlers.principal import Principal
from emitd_server.errors import MemoryExhausted, RateExceeded, TooManyWatchers
from emitd_server.settings import LimitSettings

#: What a request costs for each of its records, if it has fewer bytes than that.
LEAST_RECORD_BYTES = 256
#: How much of the account of memory the requests of one principal may hold.
PRINCIPAL_SHARE = 0.5
#: Principals that are remembered; those that hold nothing are forgotten first.
MAX_REMEMBERED = 4096


class StreamLimit:
    """How many streams of a kind may be open at once; `key` is the setting that says so."""

    def __init__(self, limit: int, key: str) -> None:
        self._limit = limit
        self._key = key
        #: How many are open now.
        self.open = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a stream as open in the block. Raises TooManyWatchers."""
        if self.open >= self._limit:
            raise TooManyWatchers(self._limit, self._key)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class Allowance:
    """What one principal holds, and may still send."""

    def __init__(self, rate: float, max_streams: int, max_held: float) -> None:
        self._rate = rate
        self._max_held = max_held
        #: Bytes that may be sent; a request is let while there are any, and may overdraw it.
        self._balance = rate
        self._filled_at = time.monotonic()
        self._streams = StreamLimit(max_streams, "server.limits.max_streams_per_principal")
        self.stream = self._streams.counted
        self.held = 0

    @property
    def is_idle(self) -> bool:
        """Whether forgetting it changes nothing."""
        self._fill()
        return not self._streams.open and not self.held and self._balance >= self._rate

    def refuse_if_spent(self) -> None:
        """Raise RateExceeded if the principal has sent too much."""
        if self._balance <= 0:
            self._fill()
        if self._balance <= 0:
            raise RateExceeded(int(self._rate), (1 - self._balance) / self._rate)

    def spend(self, cost: int) -> None:
        """Count a request that came in."""
        self._fill()
        self._balance -= cost

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count the memory of a request in the block. Raises MemoryExhausted."""
        if self.held and self.held + size > self._max_held:
            problem = (
                f"the requests of this principal hold {self.held} bytes, and may hold {self._max_held:.0f}"
            )
            raise MemoryExhausted(f"{problem}, half of server.limits.memory_bytes")
        self.held += size
        try:
            yield
        finally:
            self.held -= size

    def _fill(self) -> None:
        if self._rate == math.inf:
            return
        now = time.monotonic()
        self._balance = min(self._rate, self._balance + (now - self._filled_at) * self._rate)
        self._filled_at = now


#: Of callers whose listener asks for no name.
UNLIMITED = Allowance(math.inf, sys.maxsize, math.inf)


class CallerLimits:
    """The allowances of all principals, by name."""

    def __init__(self, limits: LimitSettings) -> None:
        self._rate = math.inf if limits.bytes_per_second is None else float(limits.bytes_per_second)
        self._max_streams = limits.max_streams_per_principal
        self._max_held = limits.memory_bytes * PRINCIPAL_SHARE
        self._allowances: dict[str, Allowance] = {}

    def of(self, principal: Principal) -> Allowance:
        """Return the allowance of a principal."""
        if principal.kind == "anonymous":
            return UNLIMITED
        allowance = self._allowances.get(principal.name)
        if allowance is None:
            if len(self._allowances) >= MAX_REMEMBERED:
                self._allowances = {
                    name: known for name, known in self._allowances.items() if not known.is_idle
                }
            allowance = Allowance(self._rate, self._max_streams, self._max_held)
            self._allowances[principal.name] = allowance
        return allowance
