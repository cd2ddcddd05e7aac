"""The diagnostics of the service and its handlers: lines on standard error, nothing else."""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

__all__ = ["Report", "report"]

#: Takes one line for the operator, without a newline.
Report: TypeAlias = Callable[[str], None]


def report(line: str) -> None:
    """Write `emitd LINE` to standard error; ignore that it is closed."""
    with suppress(OSError, ValueError):  # a closed pipe, or a closed file
        print(f"emitd {line}", file=sys.stderr, flush=True)
