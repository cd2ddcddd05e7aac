"""The diagnostics of the service and its handlers: lines on standard error, nothing else."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from emitd_handlers.text.escape import escape

#: Takes one line for the operator, without a newline.
Report: TypeAlias = Callable[[str], None]


def report(line: str) -> None:
    """Write `emitd LINE` to standard error, escaped; ignore that it is closed."""
    with suppress(OSError, ValueError):  # a closed pipe, or a closed file
        print(f"emitd {escape(line)}", file=sys.stderr, flush=True)


class Throttle:
    """Allows the first report at once, and then one every `interval_seconds`."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether a report is allowed now; if so, the next one has to wait."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval_seconds
        return True
