"""What records say of an exception: the attributes of a log line, the reason and the message of a failed job.

Nothing here raises, whatever the exception's own methods do.
"""

import asyncio
import sys
import traceback
from contextlib import suppress

from emitd.records.encoding import as_text

#: The last part of a longer stack is kept: it says where the exception was raised.
MAX_STACK_CHARACTERS = 16_000
#: A job's reason and message are cut to this number of characters: a report must not fail for its own length.
MAX_REASON_CHARACTERS = 60
MAX_FAILURE_CHARACTERS = 4_000

#: The reason of a job whose task was cancelled.
CANCELLED = "CANCELLED"
#: The reason of a job that was left before its end: see `Incomplete`.
INCOMPLETE = "INCOMPLETE"


class Incomplete(Exception):
    """Stands for the unknown exception of a job that was left before its end."""


def exception_attributes(error: BaseException | None) -> dict[str, object]:
    """Return an exception by OpenTelemetry's names; nothing for None."""
    if error is None:
        return {}
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    try:
        message = str(error)
        stack = "".join(traceback.format_exception(error))
    except Exception as failure:  # somebody's __str__
        message, stack = _no_text(failure), ""
    return {
        "exception.type": module + kind.__qualname__,
        "exception.message": message,
        "exception.stacktrace": stack[-MAX_STACK_CHARACTERS:],
    }


def exception_of(exc_info: object) -> BaseException | None:
    """Return the exception that `exc_info` stands for: itself, a tuple with it, or True for the one being handled."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1] if len(exc_info) > 1 else None
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exception()
    return exc_info if isinstance(exc_info, BaseException) else None


def failure_of(error: BaseException | None) -> BaseException | None:
    """Return the exception by which a block has failed; None: it has not, nor has one that exits with code 0."""
    with suppress(Exception):  # somebody's own kind of SystemExit
        code = error.code if isinstance(error, SystemExit) else error
        # The system takes the last 8 bits; of a number of more than 64 Python makes 255.
        if code is None or (isinstance(code, int) and code % 256 == 0 and -(2**63) <= code < 2**63):
            return None
    return error


def failure_reason(error: BaseException) -> str:
    """Return why a job failed, as a word for programs: the exception's type."""
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    if isinstance(error, Incomplete):
        return INCOMPLETE
    return as_text(type(error).__name__)[:MAX_REASON_CHARACTERS]


def failure_message(error: BaseException) -> str:
    """Return why a job failed, as a sentence for people: the exception's text."""
    try:
        return as_text(str(error))[:MAX_FAILURE_CHARACTERS]
    except Exception as failure:  # somebody's __str__
        return _no_text(failure)


def _no_text(failure: Exception) -> str:
    return f"<its text could not be made: {type(failure).__name__}>"
