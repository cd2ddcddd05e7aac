"""A call of a handler, whose every failure becomes a refusal."""

import asyncio
from collections.abc import Sequence

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerError, HandlerUnavailable
from emitd_handlers.outcome import Outcome, Refused
from emitd_handlers.record import LogRecord

__all__ = ["call_handler"]


async def call_handler(handler: BaseLogHandler, records: Sequence[LogRecord]) -> Sequence[Outcome]:
    """Return the handler's outcomes; whatever it raises, or a wrong number of outcomes, refuses all records.

    Only the cancellation of the calling task itself is passed on.
    """
    try:
        outcomes = await handler.emit_batch(records)
    except HandlerError as error:
        return [Refused(error)] * len(records)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _failed(handler, records, error)
    except (Exception, SystemExit) as error:
        return _failed(handler, records, error)
    if len(outcomes) == len(records):
        return outcomes
    wrong = f"handler '{handler.name}' gave {len(outcomes)} outcomes for {len(records)} records"
    return [Refused(HandlerUnavailable(wrong))] * len(records)


def _failed(handler: BaseLogHandler, records: Sequence[LogRecord], error: BaseException) -> Sequence[Outcome]:
    failure = HandlerUnavailable(f"handler '{handler.name}' failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return [Refused(failure)] * len(records)
