"""`RecentLines`: the last log lines that were accepted, kept in memory for those who read them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from emitd_handlers.outcome import Committed, Outcomes
from emitd_handlers.record import Level, LogRecord
from emitd_server.memory import records_bytes


class RecentLines:
    """A ring of lines in the order of acceptance, bounded by the memory that they take; each has a number.

    All is done in the service's event loop.
    """

    def __init__(self, max_bytes: int, now_unix_nano: int) -> None:
        """Keep up to `max_bytes`; 0 keeps none. What was received until now is not here."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lines: deque[LogRecord] = deque()
        self._sizes: deque[int] = deque()
        #: The number of the next line to come.
        self.next_number = 0
        #: No line that was received later than this has been dropped; none received until then need be here.
        self.dropped_until = now_unix_nano
        #: Called after each batch.
        self.listeners: list[Callable[[], None]] = []

    @property
    def is_on(self) -> bool:
        """Whether lines are kept."""
        return self._max_bytes > 0

    @property
    def first_number(self) -> int:
        """The number of the oldest line that is kept."""
        return self.next_number - len(self._lines)

    def add(self, records: Sequence[LogRecord], outcomes: Outcomes) -> None:
        """Keep the lines among `records` that were accepted, and not before."""
        exceptional = outcomes.exceptional
        lines = [
            record
            for place, record in enumerate(records)
            if record.level < Level.AUDIT and (place not in exceptional or _is_new(outcomes[place]))
        ]
        sizes = records_bytes(lines)
        self._lines.extend(lines)
        self._sizes.extend(sizes)
        self.next_number += len(lines)
        self._bytes += sum(sizes)
        while self._bytes > self._max_bytes:
            self._bytes -= self._sizes.popleft()
            self.dropped_until = max(self.dropped_until, self._lines.popleft().received_unix_nano)
        for listener in self.listeners:
            listener()

    def after(self, number: int, limit: int) -> Iterator[LogRecord]:
        """Return up to `limit` lines from `number` on, which is not before `first_number`."""
        start = number - self.first_number
        if start <= len(self._lines) // 2:
            return islice(self._lines, start, start + limit)
        # A deque is walked from the nearer end.
        newest = list(islice(reversed(self._lines), len(self._lines) - start))
        return islice(reversed(newest), limit)

    def snapshot(self) -> Sequence[LogRecord]:
        """Return the lines that are kept now, in the order of acceptance."""
        return list(self._lines)


def _is_new(outcome: object) -> bool:
    return isinstance(outcome, Committed) and not outcome.duplicate
