"""`ClockWatch`: what it says of a step of the clock, and what it writes into the trail."""

import asyncio
import json
from collections.abc import Callable

import pytest

from emitd_handlers.outcome import Outcome
from emitd_handlers.record import AuditEvent, Level
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import InMemoryHandler
from emitd_server.dispatch import clock_watch
from emitd_server.service import LoggingService

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_watch, "LOOK_SECONDS", 0.005)


def set_clock(service: LoggingService, seconds: int) -> None:
    wall = service.clock.wall
    service.clock.wall = lambda: wall() + seconds * SECOND


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_step_is_reported_and_written_into_the_trail() -> None:
    """By the service itself, with the clock's offsets before and after; again if the trail was away."""
    said: list[str] = []
    settings = HandlerSettings(levels=(Level.AUDIT,), delivery=Delivery.COMMITTED)
    trail = InMemoryHandler(settings)
    trail.fail_next(2)
    async with LoggingService([trail], report=said.append) as service:
        await asyncio.sleep(0.02)
        assert not said
        set_clock(service, -7200)
        await until(lambda: trail.records)
        (record,) = trail.records
    assert said[0] == (
        "the clock was set by -7200.0 s: times of receipt never go back, and leases are set right"
    )
    event = record.payload
    assert isinstance(event, AuditEvent)
    assert (record.level, record.source, event.event_name) == (Level.AUDIT, "emitd", "emitd.clock.step")
    details = json.loads(event.details_json)
    assert details["step_seconds"] == -7200
    assert details["new_offset_seconds"] - details["old_offset_seconds"] == pytest.approx(-7200, abs=0.1)


async def test_without_a_trail_a_step_is_only_reported() -> None:
    """Once."""
    said: list[str] = []
    async with LoggingService(report=said.append) as service:
        set_clock(service, 30)
        await until(lambda: said)
        await asyncio.sleep(0.05)
    assert len(said) == 1
    assert said[0].startswith("the clock was set by +30.0 s")


async def test_a_clock_that_is_behind_at_the_start_is_reported() -> None:
    """A handler has times of receipt from before that are later."""
    said: list[str] = []

    class FromAhead(InMemoryHandler):
        async def start(self) -> None:
            await super().start()
            self.clock.resume(self.clock.wall() + 500 * SECOND)

    async with LoggingService([FromAhead()], report=said.append):
        pass
    assert len(said) == 1
    assert "s behind the last time of receipt: until it has caught up" in said[0]


async def test_a_stop_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the trail does not answer; the service can be started again."""

    async def never(self: LoggingService, records: object) -> list[Outcome]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(LoggingService, "dispatch", never)
    service = LoggingService(report=lambda _: None)
    for _ in range(2):
        await service.start()
        set_clock(service, 100)
        await asyncio.sleep(0.02)
        await service.stop(0.1)
        assert [task for task in asyncio.all_tasks() if task.get_name() == "emitd-clock-watch"] == []
