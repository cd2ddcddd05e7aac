"""`log_context`: attributes for every record that is made within a block, by a client or by `logging`.

    with log_context(request_id="r-17"):
        logger.info("order taken")          # carries request_id, and so does what `logging` sends through emitd

They follow `contextvars`: each thread and each asyncio task has its own, and a task starts with those of its maker.
Here too: the span of OpenTelemetry in which a record is made.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_NOTHING: Mapping[str, object] = {}
_attributes: ContextVar[Mapping[str, object]] = ContextVar("emitd_attributes", default=_NOTHING)

#: Return the attributes of the innermost block that is open here; empty outside of any. Not to be changed.
current_attributes = _attributes.get


@contextmanager
def log_context(**attributes: object) -> Iterator[None]:
    """Add these attributes to every record made within the block; those of an outer block stay.

    A record's own attributes of the same name win, then those of `bind`.
    """
    token = _attributes.set({**_attributes.get(), **attributes})
    try:
        yield
    finally:
        _attributes.reset(token)


#: Trace id and span id of a record that is made in no span.
NO_SPAN = (b"", b"")

_modules = sys.modules


def current_span() -> tuple[bytes, bytes]:
    """Return the ids of the current trace (16 bytes) and span (8 bytes); both empty where there is none."""
    trace = _modules.get("opentelemetry.trace")
    if trace is None:
        return NO_SPAN
    try:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return NO_SPAN
        return context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    except Exception:  # half imported, or another library under this name: a log line must not fail for it
        return NO_SPAN
