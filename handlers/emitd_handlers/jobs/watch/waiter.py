"""`Waiter`: how a watch waits for a change, or until it has been idle for too long; `Turns`: which may send now."""

import asyncio
import math
from collections import deque

#: Watches that may be sending at once: enough to keep the connections busy, and about 5 ms of work.
MAX_TURNS = 128
#: When only this many are left, turns are given again, many at once: sending together costs less.
FEW_TURNS = 64
#: A turn that this many others have overtaken has a slow reader; it is not just one of many.
MAX_OVERTAKEN = 2 * MAX_TURNS
#: If no turn ends for this long, all have slow readers.
MAX_STANDSTILL_SECONDS = 0.1


class Turns:
    """Lets watches send in turn, at most MAX_TURNS at a time.

    Otherwise the messages to thousands of watchers of a job would queue up, with the next reports behind them. A watch
    that waits for its turn then sends the newest state. A slow reader holds up others once: a turn that lasts too long
    does not count, nor does the reader's next.
    """

    def __init__(self) -> None:
        self._queue: deque[Waiter] = deque()
        #: The turns that count, the longest first.
        self._taken: dict[Waiter, None] = {}
        #: How many turns have ended.
        self._ended = 0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, waiter: "Waiter") -> None:
        """Wake a waiter as soon as it may have a turn."""
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
    """The waits of one watch, one after the other, and its idle clock."""

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
        """`idle_seconds`: how long it may wait for a change; None: for ever."""
        self._loop = loop = asyncio.get_running_loop()
        self.now = loop.time
        #: It may send. This and the next three are set by `Turns`.
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
        #: Fires when it may have been idle for too long. Mostly it has not: this is cheaper than a timer for each wait.
        self._alarm: asyncio.TimerHandle | None = None
        if idle_seconds is not None:
            self._alarm = loop.call_later(idle_seconds, self._on_alarm)

    def restart(self) -> None:
        """End the turn, and start the idle clock again, after sending."""
        if self.has_turn:
            self._turns.give_back(self)
        self._idle_at = self.now() + self._idle_seconds

    async def wait_in(self, waiting: "set[Waiter]", until: float = math.inf) -> bool:
        """Wait as one of `waiting` until woken, or until a time; return False if idle for too long.

        It wakes with a turn. By then there may be nothing left to send.
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
        """Wait for a turn, unless it has one; return False if idle for too long."""
        self._turns.ask(self)
        if self.has_turn:
            return True
        self._future = self._loop.create_future()
        return await self._future

    def wake_in_turn(self) -> None:
        """End the wait as soon as it may have a turn."""
        self._turns.ask(self)

    def wake(self, in_time: bool = True) -> None:
        """End the wait, if it waits."""
        if self._future is not None and not self._future.done():
            self._future.set_result(in_time)

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
            self.wake(in_time=False)
            self._idle_at = now + self._idle_seconds
        self._alarm = self._loop.call_at(self._idle_at, self._on_alarm)


def wake_all(waiting: set[Waiter]) -> None:
    """Wake the waiters, each in its turn, and empty the set."""
    for waiter in waiting:
        waiter.wake_in_turn()
    waiting.clear()
