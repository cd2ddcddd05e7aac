"""What the service and its handlers say about themselves: lines on standard error, nothing else."""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

__all__ = ["Report", "report"]

#: Takes one line for the operator, without a newline.
Report: TypeAlias = Callable[[str], None]


def report(line: str) -> None:
    """Write `emitd LINE` to standard error; if nobody reads it any more, go on without."""
    with suppress(OSError, ValueError):  # a closed pipe, or a closed file
        print(f"emitd {line}", file=sys.stderr, flush=True)
