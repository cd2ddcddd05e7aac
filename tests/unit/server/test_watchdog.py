"""The watchdog names what holds up the event loop."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from emitd_server import process
from emitd_server.process import Watchdog


async def test_a_blocked_loop_is_named_once() -> None:
    """A function that blocks the loop for longer than the limit is reported, with its name, once."""
    lines: list[str] = []
    watchdog = Watchdog(0.05, lines.append)
    watchdog.start()

    def hog() -> None:
        give_up_at = time.monotonic() + 10
        while not lines and time.monotonic() < give_up_at:
            time.sleep(0.01)
        time.sleep(0.3)  # for a second report

    hog()
    watchdog.stop()
    assert len(lines) == 1
    assert "event loop blocked" in lines[0]
    assert "hog" in lines[0]


async def test_a_busy_loop_that_turns_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is not blocking."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(process, "time", clock)
    lines: list[str] = []
    watchdog = Watchdog(0.02, lines.append)
    watchdog.start()
    async with asyncio.timeout(20):
        for _ in range(30):
            clock.now += 0.02
            while watchdog._stamp < clock.now:
                await asyncio.sleep(0.001)
    watchdog.stop()
    watchdog.stop()
    assert lines == []
