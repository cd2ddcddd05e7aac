"""`emitd job watch` of one job, and `emitd job get`: what is shown, reconnecting, and how they end."""

import json
import threading
from collections.abc import Iterator

import grpc
import pytest

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    GetJobResponse,
    Job,
    JobState,
    JobTransition,
    WatchJobRequest,
    WatchJobResponse,
)
from emitd_cli.jobs import watch as job_watch
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(job_watch, "pause", pause)
    return pauses


def job(revision: int, status: JobState, progress: int) -> Job:
    return Job(job_id="j", job_type="t", status=status, progress=progress, revision=revision, attempt=1)


QUEUED = WatchJobResponse(job=job(1, JOB_STATE_QUEUED, 0))
HALF = WatchJobResponse(job=job(2, JOB_STATE_RUNNING, 50))
DONE = WatchJobResponse(job=job(3, JOB_STATE_COMPLETED, 100))
FAILED = WatchJobResponse(
    job=Job(
        job_id="j",
        status=JOB_STATE_FAILED,
        revision=3,
        failure_reason="OOM",
        failure_message="no\x1b[2Jmemory",
    )
)


def stream(*responses: WatchJobResponse, then: Answer | None = None) -> Answer:
    """A watch that brings these messages, and ends with OK or with an error."""

    def answer(request: WatchJobRequest, context: grpc.ServicerContext) -> Iterator[WatchJobResponse]:
        yield from responses
        if then is not None:
            then(request, context)

    return answer


def watch(service: FakeLogService, *flags: str) -> Done:
    return run_main("job", "watch", "j", "--address", service.address, *flags)


def test_a_job_that_completes() -> None:
    """A line for each message, exit code 0; heartbeats are not shown."""
    heartbeat = WatchJobResponse(job=HALF.job, heartbeat=True)
    with fake_log_service(stream(QUEUED, HALF, heartbeat, DONE)) as service:
        done = watch(service)
    assert done == (0, "j  QUEUED       0 %\nj  RUNNING     50 %\nj  COMPLETED  100 %\n", "")
    assert service.requests == [WatchJobRequest(job_id="j")]
    assert not service.requests[0].HasField("after_revision")


def test_a_job_that_fails() -> None:
    """Exit code 1, and why; control characters are escaped."""
    with fake_log_service(stream(FAILED)) as service:
        assert watch(service) == (1, "j  FAILED       0 %  OOM no\\u001b[2Jmemory\n", "")


def test_no_change_of_status_is_left_out() -> None:
    """Transitions that a message brings stand before the job, which is not shown twice."""
    transitions = [
        JobTransition(revision=1, attempt=1, status=JOB_STATE_QUEUED),
        JobTransition(revision=2, attempt=1, status=JOB_STATE_FAILED, progress=7),
        JobTransition(revision=3, attempt=2, status=JOB_STATE_COMPLETED, progress=100),
    ]
    response = WatchJobResponse(job=DONE.job, transitions=transitions)
    response.job.attempt = 2
    with fake_log_service(stream(response)) as service:
        done = watch(service, "--after-revision", "0")
    assert done.stdout == "j  QUEUED       0 %\nj  FAILED       7 %\nj  COMPLETED  100 %  attempt 2\n"
    assert service.requests[0].HasField("after_revision")


def test_history_that_exists_no_more() -> None:
    """That changes are missing is said before those that are left."""
    response = WatchJobResponse(job=DONE.job, history_truncated=True)
    with fake_log_service(stream(response)) as service:
        done = watch(service, "--after-revision", "0")
    assert done == (0, "j  COMPLETED  100 %\n", "emitd: some changes of 'j' are no longer known\n")


def test_a_lost_connection_is_resumed(naps: list[float]) -> None:
    """The next one goes on after the last revision, and nothing is shown twice."""
    stopping = fail(UNAVAILABLE, "the server is stopping", 0.25)
    with fake_log_service(
        stream(QUEUED, HALF, then=stopping), fail(UNAVAILABLE, "still stopping", 1.0), stream(HALF, DONE)
    ) as service:
        done = watch(service)
    assert done.returncode == 0
    assert done.stdout == "j  QUEUED       0 %\nj  RUNNING     50 %\nj  COMPLETED  100 %\n"
    assert done.stderr == "emitd: UNAVAILABLE: the server is stopping; trying again for 60 s\n"
    assert [request.after_revision for request in service.requests] == [0, 2, 2]
    assert naps == [0.25, 1.0]


def test_each_loss_of_the_connection_has_its_own_time(naps: list[float]) -> None:
    """A server that has come back and goes again is told, and tried, anew."""
    lost = fail(UNAVAILABLE, "stopping", 1.0)
    with fake_log_service(stream(QUEUED, then=lost), stream(HALF, then=lost), stream(DONE)) as service:
        done = watch(service)
    assert done.returncode == 0
    assert done.stderr == "emitd: UNAVAILABLE: stopping; trying again for 60 s\n" * 2


def test_a_job_that_is_not_there_yet() -> None:
    """While it is waited for, heartbeats without a job show nothing."""
    with fake_log_service(stream(WatchJobResponse(heartbeat=True), DONE)) as service:
        done = watch(service, "--wait")
    assert done == (0, "j  COMPLETED  100 %\n", "")


def test_a_server_that_stays_away() -> None:
    """After the time for retries it cannot be told: exit code 4."""
    stopping = fail(UNAVAILABLE, "the server is stopping", 0.1)
    with fake_log_service(stream(HALF, then=stopping), stopping) as service:
        done = watch(service, "--retry-seconds", "0.3")
    assert (done.returncode, done.stdout) == (4, "j  RUNNING     50 %\n")
    assert done.stderr.splitlines() == [
        "emitd: UNAVAILABLE: the server is stopping; trying again for 0.3 s",
        "emitd: UNAVAILABLE: the server is stopping",
    ]


def test_a_server_that_never_answered(naps: list[float]) -> None:
    """Nobody waits for what is probably a wrong address, unless `--wait` asks for it."""
    stopping = fail(UNAVAILABLE, "stopping", 0.5)
    with fake_log_service(stopping, stream(DONE)) as service:
        assert watch(service) == (4, "", "emitd: UNAVAILABLE: stopping\n")
    assert naps == []
    with fake_log_service(stopping, stream(DONE)) as service:
        assert watch(service, "--wait").returncode == 0
    assert naps == [0.5]
    assert service.requests[1].wait_for_creation


def test_what_a_retry_cannot_mend_ends_at_once() -> None:
    """NOT_FOUND, also after the connection was lost."""
    missing = fail(grpc.StatusCode.NOT_FOUND, "there is no job 'j'")
    with fake_log_service(stream(HALF, then=missing)) as service:
        done = watch(service)
    assert (done.returncode, done.stderr) == (4, "emitd: NOT_FOUND: there is no job 'j'\n")
    assert len(service.requests) == 1


def test_a_job_that_takes_too_long() -> None:
    """`--timeout` bounds the whole, and says so: exit code 4."""
    released = threading.Event()

    def answer(_: WatchJobRequest, context: grpc.ServicerContext) -> Iterator[WatchJobResponse]:
        yield HALF
        context.add_callback(released.set)
        released.wait(20)

    with fake_log_service(answer) as service:
        done = watch(service, "--timeout", "0.5")
    assert done == (4, "j  RUNNING     50 %\n", "emitd: 'j' has not ended within 0.5 s (--timeout)\n")


def test_a_stream_that_ends_without_a_word() -> None:
    """It does not count as the end of a job."""
    with fake_log_service(stream()) as service:
        assert watch(service).returncode == 4


def test_json_lines() -> None:
    """Each message is an object of its own, with every field, also those that are zero."""
    with fake_log_service(stream(QUEUED, DONE)) as service:
        lines = [json.loads(line) for line in watch(service, "--json").stdout.splitlines()]
    assert [line["job"]["status"] for line in lines] == ["JOB_STATE_QUEUED", "JOB_STATE_COMPLETED"]
    assert lines[0]["job"]["progress"] == 0
    assert lines[0]["transitions"] == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(JOB_STATE_QUEUED, 0), (JOB_STATE_RUNNING, 0), (JOB_STATE_COMPLETED, 0), (JOB_STATE_FAILED, 1)],
)
def test_get(status: JobState, code: int) -> None:
    """The exit code is 1 for FAILED only."""
    with fake_log_service(lambda *_: GetJobResponse(job=job(1, status, 0))) as service:
        done = run_main("job", "get", "j", "--address", service.address)
        as_json = run_main("job", "get", "j", "--address", service.address, "--json")
    assert done.returncode == as_json.returncode == code
    assert f"status      {JobState.Name(status).removeprefix('JOB_STATE_')}\n" in done.stdout
    assert json.loads(as_json.stdout)["progress"] == 0
    assert json.loads(as_json.stdout)["ended"] is False


def test_get_describes_all_that_is_known() -> None:
    """When it began to run and when it ended, and that it was asked to stop, and why."""
    full = Job(
        job_id="j",
        job_type="t",
        status=JOB_STATE_FAILED,
        attempt=1,
        start_time_unix_nano=1_000_000_000_000_000_000,
        end_time_unix_nano=1_000_000_083_000_000_000,
        cancel_requested=True,
        cancel_reason="too\nslow",
    )
    with fake_log_service(lambda *_: GetJobResponse(job=full)) as service:
        text = run_main("job", "get", "j", "--address", service.address).stdout
    assert "cancel      requested: too\\nslow\n" in text
    assert "started     2001-09-09 01:46:40 UTC\n" in text
    assert "ended       2001-09-09 01:48:03 UTC\n" in text


def test_a_job_that_is_not_there() -> None:
    """Exit code 4 and one line."""
    with fake_log_service(fail(grpc.StatusCode.NOT_FOUND, "there is no job 'j'")) as service:
        done = run_main("job", "get", "j", "--address", service.address)
    assert done == (4, "", "emitd: NOT_FOUND: there is no job 'j'\n")
