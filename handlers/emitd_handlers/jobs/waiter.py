"""`Waiter`: how a watch waits, for news or until it has been idle for too long; `WakeQueue`: how many are woken."""

import asyncio
import math
from collections import deque

__all__ = ["Waiter", "WakeQueue", "wake_all"]

#: Watches that are woken in one turn of the loop. Each has then a message to send, of some 30 µs.
MAX_WOKEN_A_TURN = 32


class WakeQueue:
    """Gives watches their turns to send something, few at a time, so that the loop comes to everything else in between.

    Without it thousands of watchers of one job would hold up the reports that come meanwhile, and all that has to be
    told of them. Who waits for its turn is told what is the newest when that comes.
    """

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()
        self._is_running = False

    def add(self, waiter: "Waiter") -> None:
        """Wake a waiter when its turn comes."""
        if waiter.is_queued:
            return
        waiter.is_queued = True
        self._waiters.append(waiter)
        if not self._is_running:
            self._is_running = True
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        waiters = self._waiters
        for _ in range(min(MAX_WOKEN_A_TURN, len(waiters))):
            waiter = waiters.popleft()
            waiter.is_queued = False
            waiter.has_turn = True
            waiter.wake()
        self._is_running = bool(waiters)
        if waiters:
            asyncio.get_running_loop().call_soon(self._wake_some)


class Waiter:
    """The waits of one watch, one after the other, and a clock that runs while it hears nothing."""

    __slots__ = ("_alarm", "_future", "_idle_at", "_idle_seconds", "_loop", "_queue", "has_turn", "is_queued", "now")

    def __init__(self, queue: WakeQueue, idle_seconds: float | None) -> None:
        """`idle_seconds`: for how long it may hear nothing; None: for ever."""
        self._loop = loop = asyncio.get_running_loop()
        self.now = loop.time
        #: It was woken by the queue and has not told anything since.
        self.has_turn = False
        #: For the queue alone.
        self.is_queued = False
        self._queue = queue
        self._idle_seconds = math.inf if idle_seconds is None else idle_seconds
        self._idle_at = loop.time() + self._idle_seconds
        self._future: asyncio.Future[bool] | None = None
        #: Goes off when it may have been idle for too long. Mostly it has not: that is cheaper than a timer a wait.
        self._alarm: asyncio.TimerHandle | None = None
        if idle_seconds is not None:
            self._alarm = loop.call_later(idle_seconds, self._on_alarm)

    def expect_news(self) -> None:
        """Let the clock start again: something was told."""
        self.has_turn = False
        self._idle_at = self.now() + self._idle_seconds

    async def wait_in(self, waiting: "set[Waiter]", until: float = math.inf) -> bool:
        """Wait as one of those in `waiting` until woken, or until a time; return False if idle for too long.

        It can also be woken for something that is known by now: whoever waits looks again.
        """
        # A future of its own, because cancelling a task cancels the future that it waits for.
        self._future = self._loop.create_future()
        timer = None if until == math.inf else self._loop.call_at(until, self.wake_in_turn)
        waiting.add(self)
        try:
            return await self._future
        finally:
            waiting.discard(self)
            if timer is not None:
                timer.cancel()

    async def take_turn(self) -> bool:
        """Wait for a turn, unless it has one; return False if idle for too long."""
        if self.has_turn:
            return True
        self._future = self._loop.create_future()
        self._queue.add(self)
        return await self._future

    def wake_in_turn(self) -> None:
        """End the wait when the queue comes to it."""
        self._queue.add(self)

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


def wake_all(waiting: set[Waiter]) -> None:
    """Wake those who wait, in turn, and forget them."""
    for waiter in waiting:
        waiter.wake_in_turn()
    waiting.clear()
