"""`Waiter`: how a watch waits, for news or until it has been idle for too long; `Turns`: who may tell its news."""

import asyncio
import math
from collections import deque

__all__ = ["Turns", "Waiter", "wake_all"]

#: Watches that may be sending at once: enough to keep the connections busy, and about 5 ms of work.
MAX_TURNS = 128
#: When so few are left, turns are given again, many at once: what is sent together costs less.
FEW_TURNS = 64
#: A turn that so many others have overtaken lasts because of a slow reader, and not because there is much to do.
MAX_OVERTAKEN = 2 * MAX_TURNS
#: When no turn ends for so long, all have slow readers.
MAX_STANDSTILL_SECONDS = 0.1


class Turns:
    """Lets watches tell their news in turn, only so many at a time.

    Else the messages to thousands of watchers of a job would all wait to be sent, and whatever comes meanwhile behind
    them: also the reports of what is to be told next. Who waits for its turn is told what is the newest when that
    comes. A slow reader holds up others once: when its turn lasts too long it does not count, nor does its next.
    """

    def __init__(self) -> None:
        self._queue: deque[Waiter] = deque()
        #: Whose turns count, the longest first.
        self._taken: dict[Waiter, None] = {}
        #: How many turns have ended.
        self._ended = 0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, waiter: "Waiter") -> None:
        """Wake a waiter when its turn comes."""
        if not waiter.is_queued and not waiter.has_turn:
            waiter.is_queued = True
            self._queue.append(waiter)
            self._give()

    def give_back(self, waiter: "Waiter") -> None:
        """End a turn."""
        self._ended += 1
        waiter.has_turn = False
        waiter.is_slow = self._is_overtaken(waiter)
        self._taken.pop(waiter, None)
        if self._queue:
            if self._taken and self._is_overtaken(longest := next(iter(self._taken))):
                del self._taken[longest]
            self._give()

    def _is_overtaken(self, waiter: "Waiter") -> bool:
        return self._ended - waiter.turn_began_after > MAX_OVERTAKEN

    def _give(self) -> None:
        if len(self._taken) <= FEW_TURNS:
            while self._queue and len(self._taken) < MAX_TURNS:
                waiter = self._queue.popleft()
                if not waiter.is_queued:
                    continue  # it has gone
                waiter.is_queued = False
                waiter.has_turn = True
                waiter.turn_began_after = self._ended
                if not waiter.is_slow:
                    self._taken[waiter] = None
                waiter.wake()
        if self._queue and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                MAX_STANDSTILL_SECONDS, self._on_timer, self._ended
            )

    def _on_timer(self, ended: int) -> None:
        self._timer = None
        if ended == self._ended:
            self._taken.clear()
        self._give()


class Waiter:
    """The waits of one watch, one after the other, and a clock that runs while it hears nothing."""

    __slots__ = (
        "_alarm",
        "_future",
        "_idle_at",
        "_idle_seconds",
        "_loop",
        "_turns",
        "has_turn",
        "is_queued",
        "is_slow",
        "now",
        "turn_began_after",
    )

    def __init__(self, turns: Turns, idle_seconds: float | None) -> None:
        """`idle_seconds`: for how long it may hear nothing; None: for ever."""
        self._loop = loop = asyncio.get_running_loop()
        self.now = loop.time
        #: It may tell its news. This and the next three are for `Turns` to set.
        self.has_turn = False
        self.turn_began_after = 0
        #: It waits for a turn.
        self.is_queued = False
        #: Its last turn lasted too long.
        self.is_slow = False
        self._turns = turns
        self._idle_seconds = math.inf if idle_seconds is None else idle_seconds
        self._idle_at = loop.time() + self._idle_seconds
        self._future: asyncio.Future[bool] | None = None
        #: Goes off when it may have been idle for too long. Mostly it has not: that is cheaper than a timer a wait.
        self._alarm: asyncio.TimerHandle | None = None
        if idle_seconds is not None:
            self._alarm = loop.call_later(idle_seconds, self._on_alarm)

    def expect_news(self) -> None:
        """End the turn, and let the clock start again: its news were told."""
        if self.has_turn:
            self._turns.give_back(self)
        self._idle_at = self.now() + self._idle_seconds

    async def wait_in(self, waiting: "set[Waiter]", until: float = math.inf) -> bool:
        """Wait as one of those in `waiting` until woken, or until a time; return False if idle for too long.

        It wakes with a turn to tell its news. Of what it was woken for may be nothing left to tell.
        """
        if self.has_turn:
            self._turns.give_back(self)
        timer = None if until == math.inf else self._loop.call_at(until, self.wake_in_turn)
        waiting.add(self)
        # A future of its own, because cancelling a task cancels the future that it waits for.
        self._future = self._loop.create_future()
        try:
            return await self._future
        finally:
            waiting.discard(self)
            if timer is not None:
                timer.cancel()

    async def take_turn(self) -> bool:
        """Wait for a turn to tell its news, unless it has one; return False if idle for too long."""
        self._turns.ask(self)
        if self.has_turn:
            return True
        self._future = self._loop.create_future()
        return await self._future

    def wake_in_turn(self) -> None:
        """End the wait when it may tell its news."""
        self._turns.ask(self)

    def wake(self, is_news: bool = True) -> None:
        """End the wait, if it waits."""
        if self._future is not None and not self._future.done():
            self._future.set_result(is_news)

    def close(self) -> None:
        """Stop the clock, and leave the queue."""
        if self._alarm is not None:
            self._alarm.cancel()
        self.is_queued = False
        if self.has_turn:
            self._turns.give_back(self)

    def _on_alarm(self) -> None:
        now = self.now()
        if now >= self._idle_at:
            self.wake(is_news=False)
            self._idle_at = now + self._idle_seconds
        self._alarm = self._loop.call_at(self._idle_at, self._on_alarm)


def wake_all(waiting: set[Waiter]) -> None:
    """Wake those who wait, each when it may tell its news, and forget them."""
    for waiter in waiting:
        waiter.wake_in_turn()
    waiting.clear()
