"""The committed delivery: it waits for its handler, but not for ever, and never cancels it."""

import asyncio
from collections.abc import Sequence

import pytest

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerTimeout, HandlerUnavailable, RecordInvalid
from emitd_handlers.outcome import Committed, Outcome, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import CommittedSettings, HandlerSettings
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.memory import MemoryAccount


class Gated(BaseLogHandler):
    """Commits when its gate is open."""

    def __init__(self, settings: HandlerSettings | None = None) -> None:
        super().__init__(settings, name="gated")
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[Sequence[LogRecord]] = []

    async def emit(self, record: LogRecord) -> None:
        raise AssertionError("emit_batch is overridden")

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        self.calls.append(list(records))
        await self.gate.wait()
        return [Committed()] * len(records)

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        return [RecentCommit("before", "", 0, None)]


def lane_of(
    handler: BaseLogHandler, memory: MemoryAccount | None = None
) -> tuple[CommittedDelivery, list[str]]:
    lines: list[str] = []
    settings = handler.settings.delivery
    assert settings is None or isinstance(settings, CommittedSettings)
    memory = memory or MemoryAccount(1 << 30)
    return CommittedDelivery(handler, settings or CommittedSettings(), 100, lines.append, memory), lines


def line(record_id: str = "") -> LogRecord:
    return LogRecord(Level.INFO, record_id=record_id)


async def test_a_hanging_handler_costs_its_timeout_and_its_outcome_still_counts() -> None:
    """The waiting ends with HandlerTimeout; the commit goes on, and a retry finds it."""
    handler = Gated(HandlerSettings(delivery=CommittedSettings(timeout_seconds=0.05)))
    handler.gate.clear()
    delivery, _ = lane_of(handler)
    (late,) = await delivery.take([line("a")])
    assert isinstance(late, Refused)
    assert isinstance(late.error, HandlerTimeout)
    handler.gate.set()
    await delivery.drain()
    assert await delivery.take([line("a")]) == [Committed(None, duplicate=True)]
    assert len(handler.calls) == 1
    assert delivery.counts == {"timeout": 1, "committed": 1, "duplicate": 1, "refused": 0}


async def test_a_caller_that_goes_away_cancels_nothing() -> None:
    """A commit once begun is finished, and its outcome enters the window."""
    handler = Gated()
    handler.gate.clear()
    delivery, _ = lane_of(handler)
    caller = asyncio.create_task(delivery.take([line("a")]))
    while not handler.calls:
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    handler.gate.set()
    await delivery.drain()
    assert await delivery.take([line("a")]) == [Committed(None, duplicate=True)]


async def test_what_is_committed_after_the_reply_is_in_the_account() -> None:
    """From the timeout on, or when the caller goes away, until the commit has ended."""
    handler = Gated(HandlerSettings(delivery=CommittedSettings(timeout_seconds=0.02)))
    handler.gate.clear()
    memory = MemoryAccount(1 << 30)
    delivery, _ = lane_of(handler, memory)
    await delivery.take([line("a")])
    one = memory.held
    assert one > 0
    caller = asyncio.create_task(delivery.take([line("b")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert memory.held == 2 * one
    handler.gate.set()
    await delivery.drain()
    await asyncio.sleep(0)
    assert memory.held == 0


async def test_a_handler_that_raises_refuses_its_batch() -> None:
    """An unknown exception becomes HandlerUnavailable, is reported, and leaves the delivery working."""

    class Broken(Gated):
        async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
            raise ValueError("boom")

    delivery, lines = lane_of(Broken())
    (outcome,) = await delivery.take([line("a")])
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, HandlerUnavailable)
    assert "ValueError: boom" in str(outcome.error)
    assert any("boom" in text for text in lines)


async def test_a_handler_error_keeps_its_kind() -> None:
    """A RecordInvalid raised for a batch reaches the sender as such."""

    class Strict(Gated):
        async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
            raise RecordInvalid("message", "is mandatory")

    delivery, _ = lane_of(Strict())
    (outcome,) = await delivery.take([line()])
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, RecordInvalid)


async def test_a_wrong_number_of_outcomes_refuses_the_batch() -> None:
    """Nobody can tell which record they belong to."""

    class Short(Gated):
        async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
            return [Committed()]

    delivery, lines = lane_of(Short())
    outcomes = await delivery.take([line(), line()])
    assert all(isinstance(o, Refused) and isinstance(o.error, HandlerUnavailable) for o in outcomes)
    assert lines == ["handler 'gated' gave 1 outcomes for 2 records"]


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
async def test_a_handler_cannot_end_more_than_its_own_call(error: BaseException) -> None:
    """`sys.exit`, or a cancellation of the handler's own making, is a refusal like any other."""

    class Ending(Gated):
        async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
            raise error

    delivery, _ = lane_of(Ending())
    (outcome,) = await delivery.take([line()])
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, HandlerUnavailable)


async def test_start_learns_what_was_committed_before() -> None:
    """A retry of a record that the handler remembers from before the restart is a duplicate."""
    handler = Gated()
    delivery, _ = lane_of(handler)
    await delivery.start()
    assert await delivery.take([line("before")]) == [Committed(None, duplicate=True)]
    assert handler.calls == []
