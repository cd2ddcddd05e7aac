"""`report_line`: one line to the operator, on standard error."""

import sys
from contextlib import suppress

__all__ = ["report_line"]


def report_line(text: str) -> None:
    """Print one line, if there is a standard error. What would begin another line, or steer a terminal, is escaped."""
    if sys.stderr is None:  # a daemon, or a window: `print` would take standard output instead
        return
    line = "".join([sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text])
    with suppress(OSError, ValueError, AttributeError):  # closed, or something of the program's own
        sys.stderr.write(f"emitd: {line}\n")  # in one go: several threads print lines
        sys.stderr.flush()
