"""DiscardHandler takes and counts."""

from emitd_handlers.discard import DiscardHandler
from emitd_handlers.outcome import Committed
from emitd_handlers.record import Level
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import make_record


async def test_records_are_taken_and_counted_by_level() -> None:
    """Every record is committed, and nothing of it is kept but the count of its level."""
    handler = DiscardHandler()
    records = [make_record(level) for level in (Level.DEBUG, Level.INFO, Level.DEBUG)]
    assert await handler.emit_batch(records) == [Committed()] * 3
    await handler.emit(make_record(Level.INFO))
    assert handler.counts == {Level.DEBUG: 2, Level.INFO: 2}


def test_it_takes_audit_events_only_when_told_to() -> None:
    """An entry without levels cannot swallow audit events or job reports."""
    assert not DiscardHandler().can_handle(Level.AUDIT)
    assert not DiscardHandler().can_handle(Level.JOB_STATUS)
    assert DiscardHandler(HandlerSettings(levels=(Level.AUDIT,))).can_handle(Level.AUDIT)


def test_it_is_queued() -> None:
    """Nobody waits for what is discarded, unless its entry says so."""
    assert DiscardHandler().default_delivery is Delivery.QUEUED
