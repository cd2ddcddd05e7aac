"""`emitd.jobs.watch`: one watch over as many connections as it takes."""

from typing import Any

import grpc
import pytest

from emitd import JobNotFound, RequestRejected, v1
from emitd.jobs.watch import JobWatch
from emitd.runtime.backoff import Backoff


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "why"

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


DOWN = Failure(grpc.StatusCode.UNAVAILABLE)


@pytest.fixture
def watch() -> JobWatch:
    return JobWatch(v1.WatchJobRequest(job_id="j"), Backoff(0.1, 2.0))


def at(revision: int, **fields: Any) -> v1.WatchJobResponse:
    return v1.WatchJobResponse(job=v1.Job(job_id="j", revision=revision), **fields)


def test_the_next_connection_goes_on_after_the_last_revision(watch: JobWatch) -> None:
    """So that no change of status is missed, nor told twice."""
    assert not watch.request.HasField("after_revision")
    watch.take(at(3))
    watch.take(at(5))
    assert watch.request.after_revision == 5


def test_a_new_connection_that_brings_nothing_new_is_no_news(watch: JobWatch) -> None:
    """Its first message is the state as it was told before."""
    assert watch.take(at(3))
    assert not watch.take(at(3))
    assert watch.take(at(4))


@pytest.mark.parametrize(
    "fields", [{"transitions": [v1.JobTransition(revision=3)]}, {"history_truncated": True}]
)
def test_history_is_news_beside_the_same_state(watch: JobWatch, fields: dict[str, Any]) -> None:
    """A change that came and went, or one that nobody can tell of any more, must be known."""
    watch.take(at(3))
    assert watch.take(at(3, **fields))


def test_a_heartbeat_is_told_and_changes_nothing(watch: JobWatch) -> None:
    """It has no job: the next connection must not ask for the whole history for it."""
    watch.take(at(3))
    assert watch.take(v1.WatchJobResponse(heartbeat=True))
    assert watch.request.after_revision == 3
    assert not watch.take(at(3))


def test_pauses_grow_and_begin_anew_with_an_answer(watch: JobWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the back-off, whose first pause is the shortest."""
    monkeypatch.setattr(Backoff, "pause", lambda self, attempts: float(attempts))
    assert [watch.pause_after(DOWN) for _ in range(3)] == [1, 2, 3]
    watch.take(at(3))
    assert watch.pause_after(DOWN) == 1
    watch.take(v1.WatchJobResponse(heartbeat=True))
    assert watch.pause_after(DOWN) == 1


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED]
)
def test_a_connection_that_breaks_is_made_again_for_as_long_as_it_takes(
    watch: JobWatch, code: grpc.StatusCode
) -> None:
    """A job of days outlives many an outage; CANCELLED is what a fork leaves behind."""
    for _ in range(2000):
        assert 0.05 <= watch.pause_after(Failure(code)) <= 2.0


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, JobNotFound),
        (grpc.StatusCode.INVALID_ARGUMENT, RequestRejected),
        (grpc.StatusCode.UNIMPLEMENTED, RequestRejected),
    ],
)
def test_what_no_other_try_can_help_ends_it_at_once(
    watch: JobWatch, code: grpc.StatusCode, error: type[Exception]
) -> None:
    """Also where there were answers before."""
    watch.take(at(3))
    failure = Failure(code)
    with pytest.raises(error, match="why") as caught:
        watch.pause_after(failure)
    assert caught.value.__cause__ is failure
