"""`Waiter`: how a watch waits, for news or until it has been idle for too long."""

import asyncio
import math

__all__ = ["Waiter", "wake_all"]


class Waiter:
    """The waits of one watch, one after the other, and a clock that runs while it hears nothing."""

    __slots__ = ("_alarm", "_future", "_idle_at", "_idle_seconds", "_loop", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_seconds: float | None) -> None:
        """`idle_seconds`: for how long it may hear nothing; None: for ever."""
        self.now = loop.time
        self._loop = loop
        self._idle_seconds = math.inf if idle_seconds is None else idle_seconds
        self._idle_at = loop.time() + self._idle_seconds
        self._future: asyncio.Future[bool] | None = None
        #: Goes off when it may have been idle for too long. Mostly it has not: that is cheaper than a timer a wait.
        self._alarm: asyncio.TimerHandle | None = None
        if idle_seconds is not None:
            self._alarm = loop.call_later(idle_seconds, self._on_alarm)

    def expect_news(self) -> None:
        """Let the clock start again."""
        self._idle_at = self.now() + self._idle_seconds

    async def wait_in(self, waiting: "set[Waiter]", until: float = math.inf) -> bool:
        """Wait as one of those in `waiting` until woken, or until a time; return False if idle for too long."""
        # A future of its own, because cancelling a task cancels the future that it waits for.
        self._future = self._loop.create_future()
        timer = None if until == math.inf else self._loop.call_at(until, self.wake)
        waiting.add(self)
        try:
            return await self._future
        finally:
            waiting.discard(self)
            if timer is not None:
                timer.cancel()

    def wake(self, is_news: bool = True) -> None:
        """End the wait, if it waits."""
        if self._future is not None and not self._future.done():
            self._future.set_result(is_news)

    def close(self) -> None:
        """Stop the clock."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _on_alarm(self) -> None:
        now = self.now()
        if now >= self._idle_at:
            self.wake(is_news=False)
            self._idle_at = now + self._idle_seconds
        self._alarm = self._loop.call_at(self._idle_at, self._on_alarm)


def wake_all(watchers: set[Waiter]) -> None:
    """Wake those who wait, and forget them."""
    for watcher in watchers:
        watcher.wake()
    watchers.clear()
