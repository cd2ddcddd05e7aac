"""The durations of a job."""

import time

import pytest

from emitd.v1 import JOB_STATE_COMPLETED, JOB_STATE_QUEUED, JOB_STATE_RUNNING, Job
from emitd_cli.jobs.text import NANOS, duration_text, elapsed_nanos, remaining_nanos

NOW = 1_800_000_000 * NANOS


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands at NOW."""
    monkeypatch.setattr(time, "time_ns", lambda: NOW)


def running(progress: int, status: int = JOB_STATE_RUNNING, end: int = 0, start: int = -60) -> Job:
    return Job(
        status=status,  # type: ignore[arg-type]
        progress=progress,
        start_time_unix_nano=NOW + start * NANOS,
        end_time_unix_nano=end,
    )


def test_elapsed() -> None:
    """From the start of the attempt to its end, or to now; a job that never ran has none, and none is negative."""
    assert elapsed_nanos(running(0)) == 60 * NANOS
    assert elapsed_nanos(running(0, JOB_STATE_COMPLETED, NOW - 20 * NANOS)) == 40 * NANOS
    assert elapsed_nanos(Job(status=JOB_STATE_QUEUED)) is None
    assert elapsed_nanos(running(0, start=30)) == 0


@pytest.mark.parametrize(
    ("progress", "start_progress", "seconds"), [(25, 0, 180), (75, 0, 20), (60, 40, 120), (100, 0, 0)]
)
def test_remaining(progress: int, start_progress: int, seconds: int) -> None:
    """As it went since the attempt's start, so it goes on; what was done before that start does not count."""
    assert remaining_nanos(running(progress), start_progress) == seconds * NANOS


def test_nothing_sensible_remains_to_be_told() -> None:
    """Before there is progress, in the first moments, and of a job that is not running."""
    assert remaining_nanos(running(0), 0) is None
    assert remaining_nanos(running(40), 40) is None
    assert remaining_nanos(running(40, start=-1), 0) is None
    assert remaining_nanos(running(40, JOB_STATE_COMPLETED, NOW), 0) is None
    assert remaining_nanos(Job(status=JOB_STATE_RUNNING, progress=40), 0) is None


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
