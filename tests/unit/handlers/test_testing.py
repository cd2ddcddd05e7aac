"""The tools for tests: records like no other, and a handler that does as it is told."""

import asyncio

import pytest

from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.outcome import Committed, Refused
from emitd_handlers.record import AuditEvent, JobStatus, Level
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import InMemoryHandler, make_record
from support.processes.own_threads import alive, own_threads

# make_record


@pytest.mark.parametrize("level", list(Level))
def test_made_records_are_valid_and_unlike_each_other(level: Level) -> None:
    """The payload belongs to the level; ids and times never repeat; times of receipt only grow."""
    first, second = make_record(level), make_record(level)
    payload = {Level.AUDIT: AuditEvent, Level.JOB_STATUS: JobStatus}.get(level, type(None))
    assert first.level is level
    assert isinstance(first.payload, payload)
    assert first.record_id != second.record_id
    assert first.received_unix_nano < second.received_unix_nano
    assert first.payload is None or first.payload != second.payload


def test_fields_of_made_records_can_be_chosen() -> None:
    """What a test names wins over what is made up."""
    record = make_record(Level.AUDIT, record_id="r", message="m", payload=None)
    assert (record.level, record.record_id, record.message, record.payload) == (Level.AUDIT, "r", "m", None)


# InMemoryHandler


async def test_records_are_kept_in_order() -> None:
    """Every level is taken; the records stand in `records`, the batches in `batch_sizes`."""
    handler = InMemoryHandler()
    records = [make_record(level) for level in Level]
    assert await handler.emit_batch(records[:3]) == [Committed()] * 3
    assert await handler.emit_batch(records[3:]) == [Committed()] * 4
    assert handler.records == records
    assert handler.batch_sizes == [3, 4]


def test_levels_and_delivery_come_from_settings() -> None:
    """The double can stand for a committed handler of one level."""
    handler = InMemoryHandler(HandlerSettings(levels=(Level.AUDIT,), delivery=Delivery.COMMITTED))
    assert [level for level in Level if handler.can_handle(level)] == [Level.AUDIT]
    assert handler.settings.delivery is Delivery.COMMITTED
    assert handler.default_delivery is Delivery.QUEUED


async def test_wait_for_returns_when_enough_records_came() -> None:
    """Several waiters are told, each as soon as its own count is reached."""
    handler = InMemoryHandler()
    one, two = asyncio.ensure_future(handler.wait_for(1)), asyncio.ensure_future(handler.wait_for(2))
    await asyncio.sleep(0)
    await handler.emit_batch([make_record()])
    assert len(await one) == 1
    assert not two.done()
    await handler.emit_batch([make_record()])
    assert await two == handler.records
    assert await handler.wait_for(2) == handler.records


async def test_wait_for_says_how_many_came() -> None:
    """A wait in vain names the count reached and the count wanted."""
    handler = InMemoryHandler()
    await handler.emit_batch([make_record()])
    with pytest.raises(TimeoutError, match="1 of 2 records came"):
        await handler.wait_for(2, timeout_seconds=0.01)


async def test_the_next_records_can_be_made_to_fail() -> None:
    """So many records are refused, with the error given; then all is well again."""
    handler = InMemoryHandler()
    error = RecordInvalid("message", "is rude")
    handler.fail_next(2, error)
    outcomes = await handler.emit_batch([make_record() for _ in range(3)])
    assert outcomes == [Refused(error), Refused(error), Committed()]
    handler.fail_next(1)
    (outcome,) = await handler.emit_batch([make_record()])
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, HandlerUnavailable)
    assert len(handler.records) == 1


async def test_it_can_be_made_to_hang_until_released() -> None:
    """A batch hangs in the event loop, holding no thread, and goes on at `release`."""
    handler = InMemoryHandler()
    handler.hang()
    with own_threads() as threads:
        batch = asyncio.ensure_future(handler.emit_batch([make_record()]))
        await asyncio.sleep(0)
        assert not batch.done()
        assert handler.batch_sizes == [1]
        assert threads == []
    handler.release()
    assert await batch == [Committed()]
    assert await handler.emit_batch([make_record()]) == [Committed()]


async def test_after_stop_it_neither_hangs_nor_counts() -> None:
    """A batch that comes after `stop` is refused at once, whatever the handler was told before."""
    handler = InMemoryHandler()
    handler.hang()
    await handler.stop()
    with pytest.raises(HandlerUnavailable, match="stopped"):
        await asyncio.wait_for(handler.emit_batch([make_record()]), 5)
    assert handler.batch_sizes == []


async def test_it_can_be_made_to_block_its_thread_until_released() -> None:
    """A batch blocks the handler's own thread, so that `stop` waits too, and goes on at `release`."""
    handler = InMemoryHandler(name="blocked")
    handler.block()
    with own_threads() as threads:
        batch = asyncio.ensure_future(handler.emit_batch([make_record()]))
        await asyncio.sleep(0)
        assert alive(threads) == ["emitd-handler-blocked"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handler.stop(), 0.01)
    assert not batch.done()
    handler.release()
    with pytest.raises(HandlerUnavailable, match="stopped"):
        await batch
    assert handler.records == []
