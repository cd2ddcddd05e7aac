"""The watchdog names what holds up the event loop."""

import asyncio
import time

from emitd_server.process import Watchdog


async def test_a_blocked_loop_is_named_once() -> None:
    """A function that blocks the loop for longer than the limit is reported, with its name, once."""
    lines: list[str] = []
    watchdog = Watchdog(0.05, lines.append)
    watchdog.start()

    def hog() -> None:
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            time.sleep(0.01)

    hog()
    await asyncio.sleep(0.1)
    watchdog.stop()
    assert len(lines) == 1
    assert "event loop blocked" in lines[0]
    assert "hog" in lines[0]


async def test_a_busy_loop_that_turns_is_left_alone() -> None:
    """Waiting is not blocking."""
    lines: list[str] = []
    watchdog = Watchdog(0.2, lines.append)
    watchdog.start()
    await asyncio.sleep(0.5)
    watchdog.stop()
    watchdog.stop()
    assert lines == []
