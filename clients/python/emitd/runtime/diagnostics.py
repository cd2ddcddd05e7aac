"""`report_line`: one line to the operator, on standard error; and `report_fault`, for what should not have happened."""

import sys
import time
import traceback
from contextlib import suppress

#: The same fault is reported at most this often.
FAULT_INTERVAL_SECONDS = 60.0

_faults: dict[tuple[str, type[BaseException]], float] = {}


def report_line(text: str) -> None:
    """Print one line, if there is a standard error. What would begin another line, or steer a terminal, is escaped."""
    if sys.stderr is None:  # a daemon, or a window: `print` would take standard output instead
        return
    line = "".join([sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text])
    with suppress(Exception):  # closed, or something of the program's own
        sys.stderr.write(f"emitd: {line}\n")  # in one go: several threads print lines
        sys.stderr.flush()


def report_fault(what: str, error: Exception) -> None:
    """Report an exception that was not expected, with its stack. Never raises."""
    with suppress(Exception):  # out of memory, or at the very end, where modules are gone
        now = time.monotonic()
        if now - _faults.get((what, type(error)), -FAULT_INTERVAL_SECONDS) < FAULT_INTERVAL_SECONDS:
            return
        _faults[what, type(error)] = now
        for line in "".join(traceback.format_exception(error)).splitlines():
            report_line(f"{what}: {line}")
