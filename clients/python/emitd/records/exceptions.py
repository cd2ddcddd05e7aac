"""What records say of an exception: the attributes of a log line, the reason and the message of a failed job.

Nothing here raises, whatever the exception's own methods do. Long texts lose their middle, and are short enough that
the service takes them: first an exception's own text, so that its type and its frames stay, then the stack.
"""

import asyncio
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress

from emitd.records.encoding import as_text

#: Together with the message in UTF-8 they nearly always fit into the 64 KiB of attributes that the service takes.
MAX_STACK_CHARACTERS = 16_000
#: Of an exception's text within its stack, or of one frame.
MAX_PIECE_CHARACTERS = 2_000
MAX_MESSAGE_CHARACTERS = 4_000
#: A job's reason is cut to this number of characters: a report must not fail for its own length.
MAX_REASON_CHARACTERS = 60


class Incomplete(Exception):
    """Stands for the unknown exception of a job that was left before its end."""


def exception_attributes(error: BaseException | None) -> dict[str, object]:
    """Return an exception by OpenTelemetry's names; nothing for None."""
    if error is None:
        return {}
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {
        "exception.type": module + kind.__qualname__,
        "exception.message": failure_message(error),
        "exception.stacktrace": _stack_of(error),
    }


def stack_text(pieces: Iterable[str] | str) -> str:
    """Return a stack's text: its pieces (of a text, its lines) without the middle of long ones, and of the whole."""
    if isinstance(pieces, str):
        pieces = pieces.splitlines(keepends=True)
    return _cut("".join([_cut(piece, MAX_PIECE_CHARACTERS) for piece in pieces]), MAX_STACK_CHARACTERS)


def exception_of(exc_info: object) -> BaseException | None:
    """Return the exception that `exc_info` stands for: itself, a tuple with it, or True for the one being handled."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1] if len(exc_info) > 1 else None
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exception()
    return exc_info if isinstance(exc_info, BaseException) else None


def failure_of(error: BaseException | None) -> BaseException | None:
    """Return the exception by which a block has failed; None: it has not, nor has one that exits with code 0."""
    with suppress(Exception):  # a subclass of SystemExit may be odd
        code = error.code if isinstance(error, SystemExit) else error
        # The system takes the last 8 bits; of a number of more than 64 Python makes 255.
        if code is None or (isinstance(code, int) and code % 256 == 0 and -(2**63) <= code < 2**63):
            return None
    return error


def failure_reason(error: BaseException) -> str:
    """Return why a job failed, as a word for programs: the exception's type."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    if isinstance(error, Incomplete):
        return "INCOMPLETE"
    return as_text(type(error).__name__)[:MAX_REASON_CHARACTERS]


def failure_message(error: BaseException) -> str:
    """Return why a job failed, as a sentence for people: the exception's text."""
    try:
        return _cut(as_text(str(error)), MAX_MESSAGE_CHARACTERS)
    except Exception as failure:  # somebody's __str__
        return f"<its text could not be made: {type(failure).__name__}>"


def _stack_of(error: BaseException) -> str:
    try:
        return stack_text(traceback.format_exception(error))
    except Exception as failure:  # odd __notes__, or a SyntaxError with odd values
        note = f"{type(error).__name__} <it could not be formatted: {type(failure).__name__}>\n"
        return stack_text([*traceback.format_tb(error.__traceback__), note])


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    mark = f"\n... {len(text) - limit} characters are left out ...\n"
    head = (limit - len(mark)) // 3
    return text[:head] + mark + text[head + len(mark) - limit :]
