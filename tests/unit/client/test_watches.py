"""`emitd.watches`: streams over as many connections as it takes."""

from typing import Any

import grpc
import pytest

from emitd import EmitError, JobNotFound, RequestRejected, Unavailable, v1
from emitd.runtime.backoff import Backoff
from emitd.watches import AuditTail, JobsWatch, JobWatch, LogTail


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
    assert not watch.call.request.HasField("after_revision")
    watch.take(at(3))
    watch.take(at(5))
    assert watch.call.request.after_revision == 5


def test_a_new_connection_that_brings_nothing_new_is_no_news(watch: JobWatch) -> None:
    """Its first message is the state as it was sent before."""
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
    assert watch.call.request.after_revision == 3
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


def changed(**revisions: int) -> v1.WatchJobsResponse:
    jobs = [v1.Job(job_id=job_id, revision=revision) for job_id, revision in revisions.items()]
    return v1.WatchJobsResponse(changes=[v1.JobChange(job=job) for job in jobs])


def told(message: v1.WatchJobsResponse | None) -> list[tuple[str, int, bool]] | None:
    if message is None:
        return None
    return [(change.job.job_id, change.job.revision, change.left_filter) for change in message.changes]


class TestJobsWatch:
    def test_a_later_snapshot_brings_what_changed_alone(self) -> None:
        """What is known is left out, what is missing has left; then changes come as they are."""
        watch = JobsWatch(v1.WatchJobsRequest(), Backoff(0.1, 2.0))
        assert told(watch.take(changed(same=1, grown=1, gone=4))) is not None
        end = watch.take(v1.WatchJobsResponse(snapshot_end=True))
        assert end is not None
        assert end.snapshot_end
        watch.pause_after(DOWN)
        assert told(watch.take(changed(same=1, grown=2))) == [("grown", 2, False)]
        last = watch.take(v1.WatchJobsResponse(snapshot_end=True))
        assert told(last) == [("gone", 4, True)]
        assert last is not None
        assert not last.snapshot_end
        assert told(watch.take(changed(same=2))) == [("same", 2, False)]
        watch.pause_after(DOWN)
        assert told(watch.take(changed(same=2, grown=2))) is None
        assert watch.take(v1.WatchJobsResponse(snapshot_end=True)) is None

    def test_a_first_snapshot_that_broke_is_completed_by_the_next(self) -> None:
        """Its end comes once, whichever connection brings it."""
        watch = JobsWatch(v1.WatchJobsRequest(), Backoff(0.1, 2.0))
        watch.take(changed(a=1))
        watch.pause_after(DOWN)
        assert told(watch.take(changed(a=1, b=1))) == [("b", 1, False)]
        end = watch.take(v1.WatchJobsResponse(snapshot_end=True))
        assert end is not None
        assert end.snapshot_end

    def test_a_job_that_left_and_came_back_is_told(self) -> None:
        """Also at the revision that was sent before."""
        watch = JobsWatch(v1.WatchJobsRequest(), Backoff(0.1, 2.0))
        watch.take(v1.WatchJobsResponse(changes=changed(a=1).changes, snapshot_end=True))
        left = v1.JobChange(job=v1.Job(job_id="a", revision=2), left_filter=True)
        watch.take(v1.WatchJobsResponse(changes=[left]))
        watch.pause_after(DOWN)
        assert told(watch.take(changed(a=1))) == [("a", 1, False)]

    def test_a_server_that_ends_it_without_an_error_is_an_error(self) -> None:
        """It has no end."""
        with pytest.raises(Unavailable):
            JobsWatch(v1.WatchJobsRequest(), Backoff(0.1, 2.0)).end()


def test_a_tail_goes_on_with_the_next_line_of_the_same_log() -> None:
    """Also if nothing came but the beginning."""
    tail = AuditTail(v1.TailAuditEventsRequest(user_id="u1"), Backoff(0.1, 2.0))
    tail.take(v1.TailAuditEventsResponse(log_id="l", next_index=7, heartbeat=True))
    assert tail.call.request == v1.TailAuditEventsRequest(log_id="l", user_id="u1", from_index=7)


def test_a_tail_of_lines_goes_on_after_its_last_token() -> None:
    """With the same filter; until there is a token, as it began. What was missed is passed on."""
    request = v1.TailLogsRequest(filter=v1.LogFilter(text="x"), last=5)
    tail = LogTail(request, Backoff(0.1, 2.0))
    assert tail.take(v1.TailLogsResponse(heartbeat=True))
    assert tail.call.request.last == 5
    gap = v1.TailLogsResponse(resume_token="t", missed_count=3, history_truncated=True)
    assert tail.take(gap) == gap
    assert tail.take(v1.TailLogsResponse(resume_token="u", heartbeat=True))
    assert tail.call.request == v1.TailLogsRequest(filter=v1.LogFilter(text="x"), resume_token="u")
    with pytest.raises(Unavailable):
        tail.end()


def test_an_outage_is_told_when_it_begins_with_each_try_and_at_its_end() -> None:
    """By the function that is given; what it raises ends the watch."""
    outages: list[EmitError | None] = []
    watch = JobWatch(v1.WatchJobRequest(job_id="j"), Backoff(0.1, 2.0), outages.append)
    watch.take(at(1))
    watch.pause_after(DOWN)
    watch.pause_after(DOWN)
    watch.take(at(1))
    watch.take(at(2))
    assert [type(error) for error in outages] == [Unavailable, Unavailable, type(None)]
    assert isinstance(outages[0], Unavailable)
    assert outages[0].__cause__ is DOWN
