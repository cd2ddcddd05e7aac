"""`log_context`: attributes for every record that is made within a block, whoever makes it.

    with log_context(request_id="r-17"):
        logger.info("order taken")          # carries request_id, and so does what `logging` sends through emitd

They follow `contextvars`: each thread and each asyncio task has its own, and a task starts with those of its maker.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["current_attributes", "log_context"]

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
