"""The server's clock as it is seen from here, and the durations of a job."""

import pytest

from emitd.v1 import JOB_STATE_COMPLETED, JOB_STATE_QUEUED, JOB_STATE_RUNNING, Job
from emitd_cli.jobs.board import ServerClock
from emitd_cli.jobs.text import NANOS, duration_text, elapsed_nanos, remaining_nanos

NOW = 1_800_000_000 * NANOS


class LocalClock:
    """Our own clock, moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def test_without_a_message_it_is_our_own_clock() -> None:
    """There is nothing better."""
    assert ServerClock(LocalClock()).now_unix_nano() == NOW


def test_a_server_ahead_is_known_from_any_message() -> None:
    """Nothing comes from the future."""
    clock = ServerClock(LocalClock())
    clock.saw(NOW + 90 * NANOS, is_live=False)
    assert clock.now_unix_nano() == NOW + 90 * NANOS


def test_an_old_state_says_nothing_of_a_server_behind() -> None:
    """A job may have been left alone for an hour; a message without a time says nothing at all."""
    clock = ServerClock(LocalClock())
    clock.saw(NOW - 3600 * NANOS, is_live=False)
    clock.saw(0, is_live=True)
    assert clock.now_unix_nano() == NOW


def test_a_server_behind_is_known_from_a_live_change() -> None:
    """What happens there now comes at once; one that came late does not spoil it, and time goes on."""
    local = LocalClock()
    clock = ServerClock(local)
    clock.saw(NOW - 60 * NANOS, is_live=True)
    clock.saw(NOW - 75 * NANOS, is_live=True)
    local.now += 7 * NANOS
    assert clock.now_unix_nano() == NOW - 53 * NANOS


def running(progress: int, status: int = JOB_STATE_RUNNING, end: int = 0) -> Job:
    return Job(
        status=status,  # type: ignore[arg-type]
        progress=progress,
        start_time_unix_nano=NOW - 60 * NANOS,
        end_time_unix_nano=end,
    )


def test_elapsed() -> None:
    """From the start of the attempt to its end, or to now; a job that never ran has none, and none is negative."""
    assert elapsed_nanos(running(0), NOW) == 60 * NANOS
    assert elapsed_nanos(running(0, JOB_STATE_COMPLETED, NOW - 20 * NANOS), NOW) == 40 * NANOS
    assert elapsed_nanos(Job(status=JOB_STATE_QUEUED), NOW) is None
    assert elapsed_nanos(running(0), NOW - 90 * NANOS) == 0


@pytest.mark.parametrize(
    ("progress", "start_progress", "seconds"), [(25, 0, 180), (75, 0, 20), (60, 40, 120), (100, 0, 0)]
)
def test_remaining(progress: int, start_progress: int, seconds: int) -> None:
    """As it went since the attempt's start, so it goes on; what was done before that start does not count."""
    assert remaining_nanos(running(progress), start_progress, NOW) == seconds * NANOS


def test_nothing_sensible_remains_to_be_told() -> None:
    """Before there is progress, in the first moments, and of a job that is not running."""
    assert remaining_nanos(running(0), 0, NOW) is None
    assert remaining_nanos(running(40), 40, NOW) is None
    assert remaining_nanos(running(40), 0, NOW - 59 * NANOS) is None
    assert remaining_nanos(running(40, JOB_STATE_COMPLETED, NOW), 0, NOW) is None
    assert remaining_nanos(Job(status=JOB_STATE_RUNNING, progress=40), 0, NOW) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (7.9, "0:07"),
        (60, "1:00"),
        (3599, "59:59"),
        (3723, "1:02:03"),
        (99 * 3600, "99:00:00"),
        (122 * 3600, "5 d 2 h"),
        (-1, "–"),
        (None, "–"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    """Short, and with days only where hours can no longer be read."""
    assert duration_text(None if seconds is None else int(seconds * NANOS)) == text
