"""`DiscardHandler`: takes records and drops them, on purpose and counted.

For levels that senders emit and no one needs: without a handler they would be refused.
"""

from collections import Counter
from collections.abc import Sequence

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.outcome import Committed, Outcome
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import HandlerSettings


class DiscardHandler(BaseLogHandler):
    """Counts records by level and forgets them. Takes DEBUG to CRITICAL unless its entry says otherwise."""

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings, name=name)
        #: How many records of each level were taken.
        self.counts: Counter[Level] = Counter()

    async def emit(self, record: LogRecord) -> None:
        """Count the record."""
        self.counts[record.level] += 1

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Count the records."""
        self.refuse_if_stopped()
        self.counts.update([record.level for record in records])
        return [_COMMITTED] * len(records)


_COMMITTED = Committed()
