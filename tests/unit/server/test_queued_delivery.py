"""The queued delivery: bounded, in order, with retries, and every drop counted by its cause."""

import asyncio
from collections.abc import Sequence

import pytest

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import HandlerSettings, OverflowPolicy, QueuedSettings
from emitd_server.dispatch import queued_delivery
from emitd_server.dispatch.queued_delivery import QueuedDelivery
from emitd_server.memory import MemoryAccount, records_bytes
from support.processes.own_calls import with_own


class Sink(BaseLogHandler):
    """Takes records while its gate is open, and refuses chosen records a chosen number of times."""

    def __init__(self, settings: HandlerSettings | None = None) -> None:
        super().__init__(settings, name="sink")
        self.gate = asyncio.Event()
        self.gate.set()
        self.taken: list[str] = []
        self.fail_next = 0
        self.calls = 0

    async def emit(self, record: LogRecord) -> None:
        raise AssertionError("emit_batch is overridden")

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        self.calls += 1
        await self.gate.wait()
        if self.fail_next:
            self.fail_next -= 1
            raise HandlerUnavailable("down")
        self.taken.extend(r.message for r in records if r.message != "bad")
        bad = Refused(RecordInvalid("message", "is bad"))
        return [bad if r.message == "bad" else Committed() for r in records]


def lines(*messages: str) -> list[LogRecord]:
    return [LogRecord(Level.INFO, message=message) for message in messages]


async def started(
    handler: BaseLogHandler, memory: MemoryAccount | None = None
) -> tuple[QueuedDelivery, list[str]]:
    told: list[str] = []
    settings = handler.delivery
    assert isinstance(settings, QueuedSettings)
    delivery = QueuedDelivery(handler, settings, 100, told.append, memory or MemoryAccount(1 << 30))
    await delivery.start()
    return delivery, told


async def closed_gate(
    settings: HandlerSettings, memory: MemoryAccount | None = None
) -> tuple[Sink, QueuedDelivery, list[str]]:
    """A delivery whose handler holds one record and takes no more."""
    sink = Sink(settings)
    sink.gate.clear()
    delivery, told = await started(sink, memory)
    await delivery.take(lines("held"))
    while not sink.calls:
        await asyncio.sleep(0)
    return sink, delivery, told


async def test_records_are_delivered_in_order_in_batches() -> None:
    """What piles up while the handler works comes as one batch, in order."""
    sink, delivery, _ = await closed_gate(HandlerSettings(delivery=QueuedSettings(batch_size=3)))
    await delivery.take(lines("1", "2", "3", "4"))
    sink.gate.set()
    await delivery.drain()
    assert sink.taken == ["held", "1", "2", "3", "4"]
    assert sink.calls == 3
    assert delivery.counts["delivered"] == 5
    await delivery.stop()


@pytest.mark.parametrize(
    ("policy", "kept"),
    [(OverflowPolicy.DROP_NEWEST, ["held", "1", "2"]), (OverflowPolicy.DROP_OLDEST, ["held", "2", "3"])],
)
async def test_a_full_queue_sheds_by_policy_and_counts(policy: OverflowPolicy, kept: list[str]) -> None:
    """The sender is not refused; the drop is counted and reported."""
    sink, delivery, told = await closed_gate(
        HandlerSettings(delivery=QueuedSettings(max_records=2, overflow=policy))
    )
    assert list(await delivery.take(lines("1", "2", "3"))) == [Committed()] * 3
    assert delivery.counts["dropped_queue_full"] == 1
    assert told == ["handler 'sink' dropped 1 records: queue_full"]
    sink.gate.set()
    await delivery.drain()
    assert sink.taken == kept
    await delivery.stop()


async def test_block_waits_for_room() -> None:
    """With `overflow: block` the sender waits, and nothing is lost when room comes in time."""
    settings = HandlerSettings(
        delivery=QueuedSettings(max_records=1, overflow=OverflowPolicy.BLOCK, block_seconds=30)
    )
    sink, delivery, _ = await closed_gate(settings)
    waiting = asyncio.create_task(delivery.take(lines("1", "2", "3")))
    await asyncio.sleep(0)
    assert not waiting.done()
    sink.gate.set()
    await waiting
    await delivery.drain()
    assert sink.taken == ["held", "1", "2", "3"]
    assert delivery.counts["dropped_queue_full"] == 0
    await delivery.stop()


async def test_block_gives_up_after_its_time() -> None:
    """What found no room within `block_seconds` is dropped and counted."""
    queue = QueuedSettings(max_records=1, overflow=OverflowPolicy.BLOCK, block_seconds=0.02)
    settings = HandlerSettings(delivery=queue)
    sink, delivery, _ = await closed_gate(settings)
    await delivery.take(lines("1", "2", "3"))
    assert delivery.counts["dropped_queue_full"] == 2
    sink.gate.set()
    await delivery.drain()
    assert sink.taken == ["held", "1"]
    await delivery.stop()


async def test_a_failing_handler_is_offered_the_batch_again() -> None:
    """Retries with back-off deliver everything once the handler recovers."""
    sink = Sink(HandlerSettings(delivery=QueuedSettings(retry_initial_seconds=0.001)))
    sink.fail_next = 2
    delivery, _ = await started(sink)
    await delivery.take(lines("1", "2"))
    await delivery.drain()
    assert sink.taken == ["1", "2"]
    assert delivery.counts["retried"] == 4
    await delivery.stop()


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (HandlerUnavailable("down"), 0.001),
        (HandlerUnavailable("busy", retry_after_seconds=7), 7),
        (HandlerUnavailable("busy", retry_after_seconds=60), 9),
    ],
)
async def test_a_handler_is_left_alone_as_long_as_it_asks(
    error: HandlerUnavailable, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that the handler asks for replaces a shorter back-off, up to `retry_max_seconds`."""

    class Busy(Sink):
        async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
            if not pauses:
                raise error
            return await super().emit_batch(records)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    pauses: list[float] = []
    monkeypatch.setattr(queued_delivery, "asyncio", with_own(asyncio, sleep=sleep))
    sink = Busy(HandlerSettings(delivery=QueuedSettings(retry_initial_seconds=0.001, retry_max_seconds=9)))
    delivery, _ = await started(sink)
    await delivery.take(lines("1"))
    await delivery.drain()
    assert pauses == [pause]
    assert sink.taken == ["1"]
    await delivery.stop()


async def test_the_operator_is_told_why_a_handler_refused() -> None:
    """The report of a drop ends with the last refusal, each cause with its own."""
    sink = Sink(HandlerSettings(delivery=QueuedSettings(retry_initial_seconds=0.001, max_retries=0)))
    sink.fail_next = 1
    delivery, told = await started(sink)
    await delivery.take(lines("1"))
    await delivery.drain()
    await delivery.take(lines("bad"))
    await delivery.drain()
    assert delivery.abandon() == 0
    assert told == [
        "handler 'sink' dropped 1 records: retries_exhausted (last: down)",
        "handler 'sink' dropped 1 records: refused (last: message: is bad)",
    ]
    await delivery.stop()


async def test_retries_end() -> None:
    """After `max_retries` the batch is dropped and counted, and the next is served."""
    sink = Sink(HandlerSettings(delivery=QueuedSettings(retry_initial_seconds=0.001, max_retries=1)))
    sink.fail_next = 2
    delivery, _ = await started(sink)
    await delivery.take(lines("1"))
    await delivery.drain()
    await delivery.take(lines("2"))
    await delivery.drain()
    assert sink.taken == ["2"]
    assert delivery.counts["dropped_retries_exhausted"] == 1
    await delivery.stop()


async def test_a_record_refused_for_good_is_dropped_alone() -> None:
    """Its neighbours are delivered, and it is not offered again."""
    sink = Sink()
    delivery, _ = await started(sink)
    await delivery.take(lines("1", "bad", "2"))
    await delivery.drain()
    assert sink.taken == ["1", "2"]
    assert delivery.counts["dropped_refused"] == 1
    assert sink.calls == 1
    await delivery.stop()


async def test_an_exception_of_any_kind_is_retried() -> None:
    """A handler that raises something of its own does not end the delivery."""

    class Flaky(Sink):
        async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
            self.calls += 1
            if self.calls == 1:
                raise KeyError("x")
            return await super().emit_batch(records)

    sink = Flaky(HandlerSettings(delivery=QueuedSettings(retry_initial_seconds=0.001)))
    delivery, _ = await started(sink)
    await delivery.take(lines("1"))
    await delivery.drain()
    assert sink.taken == ["1"]
    await delivery.stop()


async def test_a_duplicate_is_queued_once() -> None:
    """A record_id that the queue has had is a duplicate."""
    sink = Sink()
    delivery, _ = await started(sink)
    record = LogRecord(Level.INFO, message="1", record_id="a")
    assert await delivery.take([record, record]) == [Committed(), Committed(None, duplicate=True)]
    await delivery.drain()
    assert sink.taken == ["1"]
    assert delivery.counts["duplicate"] == 1
    await delivery.stop()


async def test_abandoning_counts_what_is_left() -> None:
    """A handler that hangs at the end loses its queue, counted as dropped at stop."""
    _, delivery, told = await closed_gate(HandlerSettings())
    await delivery.take(lines("1", "2"))
    assert delivery.abandon() == 3
    await delivery.stop()
    assert delivery.counts["dropped_at_stop"] == 3
    assert delivery.abandon() == 0
    assert told == []  # the dispatcher reports what is left, once


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (OverflowPolicy.DROP_NEWEST, ["held", "aa", "b"]),
        (OverflowPolicy.DROP_OLDEST, ["held", "b", "c" * 2000]),
    ],
)
async def test_a_queue_is_bounded_in_bytes_too(policy: OverflowPolicy, kept: list[str]) -> None:
    """A few large records fill it as many small ones do, and the bytes are in the account until they are delivered."""
    room = sum(records_bytes(lines("held", "b", "c" * 2000)))
    queue = QueuedSettings(max_bytes=room, overflow=policy)
    memory = MemoryAccount(1 << 30)
    sink, delivery, _ = await closed_gate(HandlerSettings(delivery=queue), memory)
    await delivery.take(lines("aa", "b", "c" * 2000))
    assert delivery.counts["dropped_queue_full"] == 1
    assert 0 < memory.held <= room
    sink.gate.set()
    await delivery.drain()
    assert sink.taken == kept
    await asyncio.sleep(0)
    assert memory.held == 0
    await delivery.stop()


async def test_a_handler_gets_no_more_bytes_at_once_than_it_can_work_on() -> None:
    """What a blocked handler holds is bounded, however large the records are."""
    sink, delivery, _ = await closed_gate(HandlerSettings())
    await delivery.take(lines(*["x" * 1_000_000] * 10))
    sink.gate.set()
    await delivery.drain()
    assert sink.calls == 1 + 3
    await delivery.stop()
