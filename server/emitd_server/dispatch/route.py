"""`Route`: which deliveries the records of a batch take, and what their outcomes are together. Pure."""

from collections.abc import Sequence, Set
from typing import TypeAlias

from emitd_handlers.base import COMMON_LEVELS, BaseLogHandler
from emitd_handlers.log_source import LogSource
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import Level
from emitd_handlers.settings import Delivery
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.dispatch.queued_delivery import QueuedDelivery

HandlerDelivery: TypeAlias = CommittedDelivery | QueuedDelivery
#: What decides which handlers a record goes to: its level, and its source if a handler has `sources`.
Kind: TypeAlias = Level | tuple[Level, str]


class Route:
    """The deliveries that a batch with records of some kinds takes."""

    def __init__(self, deliveries: Sequence[HandlerDelivery], kinds: Set[Kind]) -> None:
        #: The kinds of each delivery that takes any.
        self.kinds_of = {delivery: taken for delivery in deliveries if (taken := _kinds_of(delivery, kinds))}
        deliveries = list(self.kinds_of)
        self.committed = [delivery for delivery in deliveries if delivery.kind is Delivery.COMMITTED]
        self.queued = [delivery for delivery in deliveries if delivery.kind is Delivery.QUEUED]
        #: The delivery that takes the whole batch, if there is one and no other takes any of it. Measured: saves
        #: 1.0 of 8.2 µs an audit record, in batches of 512.
        self.only = deliveries[0] if len(deliveries) == 1 and self.kinds_of[deliveries[0]] >= kinds else None
        #: The kinds that some delivery takes.
        self.taken = frozenset().union(*self.kinds_of.values())
        is_line = [_level_of(kind) < Level.AUDIT for kind in kinds]
        self.has_lines, self.is_lines = any(is_line), all(is_line)
        #: (handler's name, its delivery), committed ones first.
        self.deliveries = [
            (delivery.handler.name, delivery.kind) for delivery in (*self.committed, *self.queued)
        ]


def _kinds_of(delivery: HandlerDelivery, kinds: Set[Kind]) -> frozenset[Kind]:
    handler = delivery.handler
    return frozenset(
        kind
        for kind in kinds
        if _level_of(kind) in delivery.levels
        and (isinstance(kind, Level) or handler.can_handle_source(kind[1]))
    )


def _level_of(kind: Kind) -> Level:
    return kind if isinstance(kind, Level) else kind[0]


def merge(first: Outcome | None, second: Outcome) -> Outcome:
    """Combine two handlers' outcomes: a refusal wins; a duplicate is one only if both say so."""
    if first is None or isinstance(second, Refused):
        return second
    if isinstance(first, Refused):
        return first
    return Committed(first.receipt or second.receipt, duplicate=first.duplicate and second.duplicate)


def reach(source: LogSource) -> tuple[bool, int, bool]:
    """Return what says which of two handlers keeps more of the lines."""
    if not isinstance(source, BaseLogHandler):
        return (False, 0, False)
    settings = source.settings
    return (settings.sources is None, len(COMMON_LEVELS & source.levels), not settings.exclude_sources)
