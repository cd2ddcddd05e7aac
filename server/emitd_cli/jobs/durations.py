"""How long a job has run, and how long it may yet take, by the server's clock."""

import time
from collections.abc import Callable

from emitd.v1 import JOB_STATE_RUNNING, Job

NANOS = 1_000_000_000
#: Stands where there is nothing sensible to tell.
NOTHING = "–"
#: A rate that was measured over less than this says nothing.
MIN_MEASURED_NANOS = 2 * NANOS


class ServerClock:
    """Tells what the server's clock shows, from the times in its messages.

    A message never comes before the moment it tells of, so that each says how far the server's clock is ahead of
    ours at least. One that was sent because a job changed right then says it within the delay of a message. Until
    there is one, our own clock is taken, as far as it does not contradict.
    """

    def __init__(self, local_unix_nano: Callable[[], int] = time.time_ns) -> None:
        self._local_unix_nano = local_unix_nano
        self._ahead_nanos: int | None = None
        self._is_measured = False

    def saw(self, unix_nano: int, *, is_live: bool) -> None:
        """Take a time from a message that has just come, 0 for none; `is_live`: what happened then made it come."""
        if not unix_nano:
            return
        ahead = unix_nano - self._local_unix_nano()
        self._ahead_nanos = ahead if self._ahead_nanos is None else max(ahead, self._ahead_nanos)
        self._is_measured = self._is_measured or is_live

    def now_unix_nano(self) -> int:
        """Return the server's time, in nanoseconds since 1970."""
        ahead = self._ahead_nanos or 0
        return self._local_unix_nano() + (ahead if self._is_measured else max(ahead, 0))


def elapsed_nanos(job: Job, now_unix_nano: int) -> int | None:
    """Return how long the newest attempt has run, or ran until it ended; None: it never was RUNNING."""
    if not job.start_time_unix_nano:
        return None
    return max((job.end_time_unix_nano or now_unix_nano) - job.start_time_unix_nano, 0)


def remaining_nanos(job: Job, start_progress: int, now_unix_nano: int) -> int | None:
    """Return how long it will take if it goes on as it went since its start; None: that cannot be said.

    `start_progress`: where the attempt stood when it began to run.
    """
    elapsed = elapsed_nanos(job, now_unix_nano)
    done = job.progress - start_progress
    if job.status != JOB_STATE_RUNNING or elapsed is None or elapsed < MIN_MEASURED_NANOS or done <= 0:
        return None
    return elapsed * (100 - job.progress) // done


def duration_text(nanos: int | None) -> str:
    """Return a duration as `0:07`, `1:02:03` or, from 100 hours on, `5 d 2 h`."""
    if nanos is None or nanos < 0:
        return NOTHING
    minutes, seconds = divmod(nanos // NANOS, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
