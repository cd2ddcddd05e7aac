"""`discard` that says how many records it took, in the file `arrived` of the folder the server runs in. For
benchmarks alone.
"""

import os
from collections.abc import Sequence

from emitd_handlers.discard import DiscardHandler
from emitd_handlers.outcome import Outcome
from emitd_handlers.record import LogRecord

__all__ = ["CountedDiscardHandler"]


class CountedDiscardHandler(DiscardHandler):
    """Counts records and forgets them."""

    async def start(self) -> None:
        """Open the file."""
        await super().start()
        self._descriptor = os.open("arrived", os.O_WRONLY | os.O_CREAT, 0o600)

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Count the records."""
        outcomes = await super().emit_batch(records)
        os.pwrite(self._descriptor, b"%020d" % self.counts.total(), 0)
        return outcomes
