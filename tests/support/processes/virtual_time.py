"""`VirtualTimeLoop`: an event loop in which waiting takes no time, so that hours of leases pass in moments."""

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["VirtualTimeLoop"]


#: As on any machine timers go off a little late, and so never before their time.
LATENESS_SECONDS = 1e-6


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its clock stands while anything can run, and else jumps to the next timer. For programs without threads."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]  # that of asyncio's own loop
        self._select: Callable[[float], list[Any]] = selector.select
        selector.select = self._select_or_jump

    def time(self) -> float:
        return self._now

    def _select_or_jump(self, timeout: float | None) -> list[Any]:
        events = self._select(0)
        if not events:
            assert timeout is not None, "every task waits for another"
            self._now += timeout + LATENESS_SECONDS
        return events
