"""The two clocks: the wall clock, which can be set, and a steady one, which only runs.

    Clock.now()        times of receipt: the wall clock's, or after it was set back the steady clock's at half speed
    StepWatch.look()   by how much a wall clock was set, found by comparing it with the steady one

All that is stored is a time of the wall clock. Whatever must not jump with it uses one of the two.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

NANOS_A_SECOND = 1_000_000_000
#: A change of the wall clock against the steady one that counts as a step.
STEP_NANOS = NANOS_A_SECOND
#: How long after a step nothing is removed for its age: the step may soon be taken back.
STEP_PAUSE_SECONDS = 60.0

#: On Linux the clock that also runs while the machine is suspended: the end of a suspension is no step.
_STEADY_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_ns() -> int:
    """Return the nanoseconds since some moment in the past; nobody can set this clock."""
    return time.clock_gettime_ns(_STEADY_CLOCK)


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait at most this long for an event; return whether it has happened."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    return event.is_set()


class Clock:
    """Gives times of receipt: they never decrease, and never stand still. May be used from any thread.

    If the wall clock is behind the last time, times go on from there at half the steady clock's speed, until the wall
    clock has caught up. A service and its handlers share one. Times are nanoseconds since 1970-01-01T00:00:00Z.
    """

    def __init__(
        self, wall: Callable[[], int] = lambda: time.time_ns(), steady: Callable[[], int] = steady_ns
    ) -> None:
        self.wall = wall
        self.steady = steady
        self._lock = threading.Lock()
        #: The last time that the wall clock gave, and when that was by the steady one.
        self._last, self._last_at = 0, steady()

    def now(self, wall: int | None = None) -> int:
        """Return the time of receipt. `wall`: what the wall clock shows, if that is another machine's."""
        with self._lock:
            wall = self.wall() if wall is None else wall
            steady = self.steady()
            slow = self._last + (steady - self._last_at) // 2
            if wall < slow:
                return slow
            self._last, self._last_at = wall, steady
            return wall

    def resume(self, last: int) -> None:
        """Go on after `last`, a time that was given before this process began."""
        with self._lock:
            steady = self.steady()
            if last > self._last + (steady - self._last_at) // 2:
                self._last, self._last_at = last, steady


class StepWatch:
    """Compares a wall clock with the steady one, from look to look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: The least and the most that the wall clock was ahead of the steady one at the last look.
        self._offsets: tuple[int, int] | None = None
        self._stepped_at: int | None = None
        #: By how much the wall clock was set before `settle`; None: it was not. At first it may have been.
        self.set_by: int | None = 0

    @property
    def offset(self) -> int:
        """By how many nanoseconds the wall clock was ahead of the steady one at the last look."""
        return 0 if self._offsets is None else self._offsets[0]

    def look(self, wall: int | None = None, asked_at: int | None = None) -> int:
        """Return by how many nanoseconds the wall clock was set since the last look; 0: by less than a second.

        `wall`: what it shows, if that is another machine's, which was asked at `asked_at` of the steady clock: the
        answer may be from any moment since then.
        """
        before = self._clock.steady() if asked_at is None else asked_at
        wall = self._clock.wall() if wall is None else wall
        after = self._clock.steady()
        least, most = wall - after, wall - before
        last_least, last_most = self._offsets or (least, most)
        self._offsets = least, most
        step = max(0, least - last_most) or min(0, most - last_least)
        if abs(step) < STEP_NANOS:
            return 0
        self._stepped_at = after
        self.set_by = (self.set_by or 0) + step
        return step

    def settle(self) -> None:
        """Take note that what depends on the steps so far was set right."""
        self.set_by = None

    def has_stepped_within(self, seconds: float) -> bool:
        """Whether the last step that was seen is less than that long ago."""
        since = self._stepped_at
        return since is not None and self._clock.steady() - since < seconds * NANOS_A_SECOND
