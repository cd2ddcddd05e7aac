"""LoggingService: every record to every handler that takes its level, and bad handlers harm nobody else."""

import asyncio
import threading
from collections.abc import Sequence
from statistics import median

import pytest

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerTimeout, HandlerUnavailable
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, Refused
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.settings import CommittedSettings, Delivery, HandlerSettings, QueuedSettings
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.errors import NoHandler, NoSource, ServiceStopping, StartError
from emitd_server.service import LoggingService

COMMITTED = Delivery.COMMITTED


class Recorder(BaseLogHandler):
    """Keeps messages; fails as long as it is told to."""

    def __init__(
        self, name: str, *levels: Level, delivery: Delivery = COMMITTED, timeout: float = 10.0
    ) -> None:
        settings = (
            CommittedSettings(timeout_seconds=timeout)
            if delivery is COMMITTED
            else QueuedSettings(retry_initial_seconds=0.001)
        )
        super().__init__(HandlerSettings(levels=levels, delivery=settings), name=name)
        self.messages: list[str] = []
        self.failing = False
        self.life: list[str] = []

    async def emit(self, record: LogRecord) -> AuditReceipt:
        if self.failing:
            raise OSError("disk full")
        self.messages.append(record.message)
        return AuditReceipt("log", "", len(self.messages) - 1, b"")

    async def start(self) -> None:
        self.life.append("start")

    async def stop(self) -> None:
        self.life.append("stop")
        await super().stop()


def line(message: str, level: Level = Level.INFO, record_id: str = "") -> LogRecord:
    payload = AuditEvent("e" + message, "n", "u", "unknown", "{}") if level is Level.AUDIT else None
    return LogRecord(level, message, record_id=record_id, payload=payload, assigned=("event_id",))


async def test_each_handler_gets_the_levels_it_takes_in_order() -> None:
    """A mixed batch is shared out by level; each handler sees its part in batch order."""
    low = Recorder("low", Level.DEBUG, Level.INFO)
    high = Recorder("high", Level.INFO, Level.ERROR)
    async with LoggingService([low, high]) as service:
        outcomes = await service.dispatch(
            [line("1", Level.ERROR), line("2"), line("3", Level.DEBUG), line("4"), line("5", Level.CRITICAL)]
        )
    assert low.messages == ["2", "3", "4"]
    assert high.messages == ["1", "2", "4"]
    assert [type(outcome) for outcome in outcomes] == [Committed] * 4 + [Refused]
    assert isinstance(outcomes[4], Refused)
    assert isinstance(outcomes[4].error, NoHandler)


async def test_a_queued_handler_gets_a_record_after_its_committed_ones_succeeded() -> None:
    """What a committed handler refused reaches no queued one."""
    committed = Recorder("committed", Level.INFO)
    queued = Recorder("queued", Level.INFO, delivery=Delivery.QUEUED)
    async with LoggingService([queued, committed]) as service:
        committed.failing = True
        (refused,) = await service.dispatch([line("1")])
        assert isinstance(refused, Refused)
        committed.failing = False
        await service.dispatch([line("2")])
    assert committed.messages == ["2"]
    assert queued.messages == ["2"]


async def test_a_retry_reaches_only_the_handler_that_failed() -> None:
    """Of two committed handlers one fails: the record is refused, and its retry goes to that one only."""
    good = Recorder("good", Level.INFO)
    bad = Recorder("bad", Level.INFO)
    bad.failing = True
    async with LoggingService([good, bad]) as service:
        (refused,) = await service.dispatch([line("1", record_id="r1")])
        assert isinstance(refused, Refused)
        assert isinstance(refused.error, HandlerUnavailable)
        bad.failing = False
        (committed,) = await service.dispatch([line("1", record_id="r1")])
        assert isinstance(committed, Committed)
        assert not committed.duplicate
        (again,) = await service.dispatch([line("1", record_id="r1")])
        assert again == Committed(AuditReceipt("log", "", 0, b""), duplicate=True)
    assert good.messages == ["1"]
    assert bad.messages == ["1"]


class Hanging(Recorder):
    """An `async def` that never returns."""

    async def emit(self, record: LogRecord) -> AuditReceipt:
        await asyncio.Event().wait()
        raise AssertionError("never")


class Blocking(BaseLogHandler):
    """A plain `def` that blocks its thread until told otherwise."""

    def __init__(self, name: str, *levels: Level) -> None:
        super().__init__(
            HandlerSettings(levels=levels, delivery=CommittedSettings(timeout_seconds=0.05)), name=name
        )
        self.release = threading.Event()

    def emit(self, record: LogRecord) -> None:
        self.release.wait(60)


async def test_bad_handlers_harm_only_their_own_records() -> None:
    """One raises, one hangs, one blocks its thread for ever: their neighbours commit at full speed."""
    raising = Recorder("raising", Level.DEBUG)
    raising.failing = True
    hanging = Hanging("hanging", Level.WARNING, timeout=0.05)
    blocking = Blocking("blocking", Level.ERROR)
    neighbour = Recorder("neighbour", Level.INFO)
    lines: list[str] = []
    service = LoggingService([raising, hanging, blocking, neighbour], report=lines.append)
    await service.start()
    loop = asyncio.get_running_loop()
    bad = [
        asyncio.create_task(service.dispatch([line("x", level)]))
        for level in (Level.DEBUG, Level.WARNING, Level.ERROR)
    ]
    seconds = []
    for number in range(200):
        begin = loop.time()
        (outcome,) = await service.dispatch([line(str(number))])
        seconds.append(loop.time() - begin)
        assert isinstance(outcome, Committed)
    # A pause of the machine is in few of them.
    assert median(seconds) < 0.02
    assert max(seconds) < 5
    errors = [outcome.error for task in bad for outcome in await task if isinstance(outcome, Refused)]
    assert [type(error) for error in errors] == [HandlerUnavailable, HandlerTimeout, HandlerTimeout]
    begin = loop.time()
    await service.stop(drain_seconds=0.1)
    assert loop.time() - begin < 5
    blocking.release.set()
    assert any("'blocking'" in text and "abandoned" in text for text in lines)
    assert any("'hanging' did not finish in time: 1 records were left" in text for text in lines)
    assert len(neighbour.messages) == 200


async def test_a_drain_that_fails_harms_no_other_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported with what it left; every handler is closed."""
    broken, neighbour = Hanging("broken", Level.INFO, timeout=0.05), Recorder("neighbour", Level.WARNING)
    lines: list[str] = []
    service = LoggingService([broken, neighbour], report=lines.append)
    await service.start()
    await service.dispatch([line("x")])

    async def fail(delivery: object) -> None:
        raise ValueError("no drain")

    monkeypatch.setattr(CommittedDelivery, "drain", fail)
    await service.stop()
    assert lines == [
        "handler 'broken' failed while draining: ValueError('no drain')",
        "handler 'broken' did not finish in time: 1 records were left",
        "handler 'neighbour' failed while draining: ValueError('no drain')",
    ]
    assert neighbour.life == ["start", "stop"]


async def test_start_and_stop_are_idempotent_and_in_order() -> None:
    """Handlers are started once and stopped once; a stopped service refuses records."""
    handler = Recorder("a", Level.INFO)
    service = LoggingService([handler])
    await service.stop()
    await service.start()
    await service.start()
    await service.stop()
    await service.stop()
    assert handler.life == ["start", "stop"]
    with pytest.raises(ServiceStopping):
        await service.dispatch([line("1")])


async def test_a_handler_that_cannot_start_is_named() -> None:
    """StartError says which; those started before it are stopped."""

    class Broken(Recorder):
        async def start(self) -> None:
            raise PermissionError(13, "Permission denied", "/nowhere/audit.json.log")

    first = Recorder("first", Level.INFO)
    service = LoggingService([first, Broken("broken", Level.INFO)])
    with pytest.raises(StartError, match=r"'broken' could not start: .*Permission denied.*nowhere"):
        await service.start()
    assert first.life == ["start", "stop"]


async def test_stop_drains_queues() -> None:
    """What was queued before the stop is delivered."""
    queued = Recorder("queued", Level.INFO, delivery=Delivery.QUEUED)
    service = LoggingService([queued])
    await service.start()
    await service.dispatch([line(str(number)) for number in range(1000)])
    await service.stop()
    assert len(queued.messages) == 1000
    assert service.stats()["queued"]["delivered"] == 1000


def test_names_are_unique() -> None:
    """Two handlers of one name could not be told apart."""
    service = LoggingService([Recorder("a", Level.INFO)])
    with pytest.raises(ValueError, match="two handlers named 'a'"):
        service.register(Recorder("a", Level.ERROR))


async def test_handlers_are_registered_before_the_start() -> None:
    """A handler registered later would not be started."""
    async with LoggingService() as service:
        with pytest.raises(RuntimeError, match="before the service is started"):
            service.register(Recorder("a", Level.INFO))
        with pytest.raises(NoSource):
            _ = service.jobs


async def test_in_process_registration_is_enough() -> None:
    """`register` does what an entry of the configuration does."""
    handler = Recorder("mine", Level.INFO)
    service = LoggingService()
    service.register(handler)
    async with service:
        outcomes: Sequence[Outcome] = await service.dispatch([line("1")])
    assert isinstance(outcomes[0], Committed)
    assert handler.messages == ["1"]
