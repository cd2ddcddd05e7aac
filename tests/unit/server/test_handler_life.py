"""A handler's life: the tries to start it, and what decides whether it works."""

import asyncio
import errno
import os
from collections.abc import Sequence
from itertools import pairwise

import pytest

from emitd_handlers.errors import (
    HandlerBusy,
    HandlerError,
    HandlerUnavailable,
    RecordConflict,
    RecordInvalid,
)
from emitd_handlers.outcome import Outcome, RecentCommit, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import CommittedSettings, Delivery, HandlerSettings, QueuedSettings
from emitd_handlers.testing import InMemoryHandler, make_record
from emitd_server.dispatch import handler_life
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.dispatch.handler_life import HandlerLife
from emitd_server.dispatch.queued_delivery import QueuedDelivery
from emitd_server.errors import StartError
from emitd_server.memory import MemoryAccount
from support.processes.virtual_time import VirtualTimeLoop

MEMORY = MemoryAccount(1 << 30)

SETTINGS = HandlerSettings(delivery=Delivery.COMMITTED)


class Moody(InMemoryHandler):
    """Its `start` raises while `problem` is set."""

    problem: BaseException | None = None
    starts = 0
    stops = 0

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings, name=name)
        #: By the clock of the event loop.
        self.started_at: list[float] = []

    async def start(self) -> None:
        self.starts += 1
        self.started_at.append(asyncio.get_running_loop().time())
        if self.problem is not None:
            raise self.problem
        await super().start()

    async def stop(self) -> None:
        self.stops += 1
        await super().stop()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_life, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(handler_life, "LONGEST_PAUSE_SECONDS", 0.04)


async def until(condition: object) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def life_of(handler: InMemoryHandler) -> tuple[HandlerLife, list[str]]:
    lines: list[str] = []
    return HandlerLife(handler, lines.append), lines


@pytest.mark.parametrize(
    "problem", [KeyError("x\ny"), SystemExit(3), asyncio.CancelledError(), OSError(28, "No space left")]
)
async def test_it_is_started_until_it_is_up(problem: BaseException) -> None:
    """Whatever `start` raises; it is stopped after each try, and said once when it goes down and comes up."""
    handler = Moody(SETTINGS, name="moody")
    handler.problem = problem
    life, lines = life_of(handler)
    await life.start(keep_trying=True)
    await until(lambda: handler.starts > 3)
    assert handler.stops >= handler.starts - 1
    (outcome,) = await life.emit_batch([make_record()])
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, HandlerUnavailable)
    assert outcome.error.retry_after_seconds == 1.0
    assert "handler 'moody' is down: " in str(outcome.error)
    assert life.health_problem
    assert not life.is_ready
    handler.problem = None
    await life.is_up.wait()
    await life.emit_batch([make_record()])
    assert len(handler.records) == 1
    assert not life.health_problem
    assert [line.partition(",")[0] for line in lines] == ["handler 'moody' is down", "handler 'moody' is up"]
    await life.stop()


@pytest.mark.parametrize(
    ("number", "filename", "is_advised"),
    [
        (errno.EROFS, "/etc/emitd/logs", True),
        (errno.EACCES, "/etc/emitd/logs", True),
        (errno.EPERM, "/etc/emitd/logs", True),
        (errno.ENOSPC, "/etc/emitd/logs", False),
        (errno.EACCES, None, False),
    ],
)
async def test_a_read_only_folder_gets_the_way_out(
    number: int, filename: str | None, is_advised: bool
) -> None:
    """The configuration's own folder often is; a socket that is not permitted is something else."""
    handler = Moody(SETTINGS, name="moody")
    handler.problem = HandlerUnavailable("the log cannot be opened")
    handler.problem.__cause__ = OSError(number, os.strerror(number), filename)
    life, lines = life_of(handler)
    await life.start(keep_trying=True)
    await until(lambda: lines)
    advice = "; give a path that this user may write to, such as ${STATE_DIRECTORY:-.}/logs/FILE"
    assert lines[0].endswith(f"the log cannot be opened{advice if is_advised else ''}")
    await life.stop()


def pauses(handler: Moody, *, keep_trying: bool) -> list[float]:
    """Let a handler live for 0.3 s, and 0.1 s after that; return the time between one `start` and the next."""

    async def live() -> None:
        life, _ = life_of(handler)
        await life.start(keep_trying=keep_trying)
        await asyncio.sleep(0.3)
        await life.stop()
        starts = handler.starts
        await asyncio.sleep(0.1)
        assert handler.starts == starts

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(live())
    return [later - earlier for earlier, later in pairwise(handler.started_at)]


GROWING = pytest.approx([0.01, 0.02, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04], abs=0.001)


def test_the_pauses_grow() -> None:
    """Up to the longest."""
    handler = Moody(SETTINGS)
    handler.problem = OSError()
    assert pauses(handler, keep_trying=True) == GROWING


def test_a_handler_that_goes_down_at_once_is_not_restarted_at_full_speed() -> None:
    """The pauses grow also if each `start` succeeds."""

    class Brief(Moody):
        async def start(self) -> None:
            await super().start()
            asyncio.get_running_loop().call_soon(self.request_restart, "again")

    assert pauses(Brief(SETTINGS), keep_trying=False) == GROWING


async def test_a_restart_that_is_asked_for_during_start_counts_as_a_failure() -> None:
    """The handler is not up in between."""

    class Early(Moody):
        async def start(self) -> None:
            await super().start()
            if self.starts == 1:
                self.request_restart("not yet")

    handler = Early(SETTINGS)
    life, lines = life_of(handler)
    await life.start(keep_trying=True)
    await life.is_up.wait()
    assert handler.starts == 2
    assert "not yet" in lines[0]
    await life.stop()


async def test_what_it_committed_is_read_after_each_start() -> None:
    """A failure there is one of the start."""

    class Forgetful(Moody):
        async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
            if self.starts == 1:
                raise HandlerUnavailable("its memory is away")
            return [RecentCommit("r1", "", record.fingerprint, None)]

    record = make_record(record_id="r1")
    lines: list[str] = []
    handler = Forgetful(SETTINGS)
    delivery = CommittedDelivery(handler, CommittedSettings(), 10, lines.append, MEMORY)
    await delivery.start(keep_trying=True)
    await delivery.life.is_up.wait()
    (outcome,) = await delivery.take([record])
    assert outcome.duplicate  # type: ignore[union-attr]
    assert "its memory is away" in lines[0]
    await delivery.stop()


async def test_a_queue_waits_for_its_handler() -> None:
    """No retry is spent on a handler that is down."""
    handler = Moody(HandlerSettings())
    handler.problem = OSError("not there")
    delivery = QueuedDelivery(handler, QueuedSettings(max_retries=0), 10, lambda _: None, MEMORY)
    await delivery.start(keep_trying=True)
    await delivery.take([make_record(message="first")])
    await until(lambda: handler.starts > 2)
    handler.problem = None
    await handler.wait_for(1)
    assert "dropped_retries_exhausted" not in delivery.counts
    await delivery.stop()


async def test_a_full_queue_shows_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if all that is delivered is taken."""
    monkeypatch.setattr(handler_life, "FAULT_SECONDS", 0.05)
    delivery = QueuedDelivery(InMemoryHandler(), QueuedSettings(max_records=1), 10, lambda _: None, MEMORY)
    await delivery.start()
    await delivery.take([make_record(), make_record()])
    assert "queue is full" in delivery.life.health_problem
    await delivery.drain()
    assert "queue is full" in delivery.life.health_problem
    await until(lambda: not delivery.life.health_problem)
    assert delivery.life.is_ready
    await delivery.stop()


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (HandlerUnavailable("away"), True),
        (HandlerError("401"), True),
        (ValueError("a bug"), True),
        (HandlerBusy("much to do"), False),
        (RecordInvalid("message", "is blank"), False),
        (RecordConflict("record_id", "r1"), False),
    ],
)
async def test_outcomes_decide(error: Exception, is_fault: bool) -> None:
    """A failure shows until a record is taken; what is the record's own fault does not."""
    handler = InMemoryHandler(SETTINGS)
    life, _ = life_of(handler)
    await life.start()
    handler.fail_next(2, error)
    await life.emit_batch([make_record(), make_record()])
    assert bool(life.health_problem) is is_fault
    assert life.is_ready is not is_fault
    handler.fail_next(1, error)
    await life.emit_batch([make_record(), make_record()])  # one of them is taken
    assert not life.health_problem
    assert life.is_ready
    await life.stop()


async def test_a_failure_counts_for_a_while_against_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a replica that gets no records because it failed would never get one again."""
    monkeypatch.setattr(handler_life, "FAULT_SECONDS", 0.03)
    handler = InMemoryHandler(SETTINGS)
    life, _ = life_of(handler)
    await life.start()
    handler.fail_next(1)
    await life.emit_batch([make_record()])
    assert not life.is_ready
    await until(lambda: life.is_ready)
    assert life.health_problem
    await life.stop()


async def test_a_handler_may_find_out_by_itself_that_it_works_again() -> None:
    """Its own word ends a failure too, without another record."""
    handler = InMemoryHandler(SETTINGS)
    life, _ = life_of(handler)
    await life.start()
    handler.fail_next(1)
    await life.emit_batch([make_record()])
    assert life.health_problem
    handler.report_health("")
    assert not life.health_problem
    assert life.is_ready
    await life.stop()


async def test_a_timeout_is_a_failure() -> None:
    """It passes when the handler answers, however late."""
    handler = InMemoryHandler(SETTINGS)
    delivery = CommittedDelivery(handler, CommittedSettings(timeout_seconds=0.02), 10, lambda _: None, MEMORY)
    await delivery.start()
    handler.hang()
    await delivery.take([make_record()])
    assert "did not answer within 0.02 s" in delivery.life.health_problem
    handler.release()
    await until(lambda: not delivery.life.health_problem)
    await delivery.stop()


async def test_without_keep_trying_the_service_does_not_start() -> None:
    """Whatever is raised, StartError names the handler, and those before it are stopped."""
    first, second = Moody(SETTINGS, name="first"), Moody(SETTINGS, name="second")
    second.problem = KeyError("nothing")
    service = Dispatcher([first, second], report=lambda _: None)
    with pytest.raises(StartError, match="handler 'second' could not start: KeyError: 'nothing'"):
        await service.start()
    assert first.stops == 1
    second.problem = None
    async with service:
        assert all(isinstance(outcome, Outcome) for outcome in await service.dispatch([make_record()]))


async def test_a_handler_that_is_slow_to_start_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others take records, and it does when it is up."""
    monkeypatch.setattr("emitd_server.dispatch.dispatcher.START_SECONDS", 0.05)
    gate = asyncio.Event()

    class Slow(Moody):
        async def start(self) -> None:
            await gate.wait()
            await super().start()

    slow = Slow(HandlerSettings(levels=(Level.ERROR,), delivery=Delivery.COMMITTED), name="slow")
    quick = Moody(HandlerSettings(levels=(Level.INFO,), delivery=Delivery.COMMITTED), name="quick")
    lines: list[str] = []
    service = Dispatcher([slow, quick], report=lines.append)
    await service.start(keep_trying=True)
    assert lines == ["handler 'slow' has not started in 0.05 s; it may yet"]
    records: list[LogRecord] = [make_record(Level.ERROR), make_record(Level.INFO)]
    late, taken = await service.dispatch(records)
    assert isinstance(late, Refused)
    assert "it is still starting" in str(late.error)
    assert not isinstance(taken, Refused)
    gate.set()
    await service.lives[0].is_up.wait()
    assert not isinstance((await service.dispatch(records))[0], Refused)
    await service.stop()
