"""`emitd job watch` of several jobs, or of a filter, in a pipe: what is asked for, what is shown, how it ends."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobChange,
    JobState,
    JobTransition,
    WatchJobRequest,
    WatchJobResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from emitd_cli.jobs import watch as job_watch
from emitd_cli.jobs.display import LineDisplay
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
INTERRUPTED = 130
STOPPING = fail(UNAVAILABLE, "the service is going down", 0.25)
#: Ends a watch in a test: what a retry cannot mend.
GONE = fail(grpc.StatusCode.NOT_FOUND, "nothing is here")


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(job_watch, "pause", pause)
    return pauses


def job(job_id: str, status: JobState, progress: int = 0, revision: int = 1, **fields: Any) -> Job:
    return Job(job_id=job_id, status=status, progress=progress, revision=revision, attempt=1, **fields)


def stream(*responses: Any, then: Answer | None = None) -> Answer:
    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from responses
        if then is not None:
            then(request, context)

    return answer


def by_id(answers: dict[str, list[Answer]]) -> Answer:
    """Answers each WatchJob by its id, one answer after the other."""
    lock = threading.Lock()

    def answer(request: WatchJobRequest, context: grpc.ServicerContext) -> Any:
        with lock:
            own = answers[request.job_id]
            one = own.pop(0) if len(own) > 1 else own[0]
        return one(request, context)

    return answer


def ended(job_id: str, status: JobState) -> Answer:
    return stream(WatchJobResponse(job=job(job_id, status)))


def waiting(*responses: Any, then: Callable[[], object] = lambda: None) -> Answer:
    """A watch that brings these messages and then nothing, until the client leaves."""

    def answer(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        left = threading.Event()
        yield from responses
        if context.add_callback(left.set):
            then()
            left.wait(20)

    return answer


def watch(service: FakeLogService, *flags: str) -> Done:
    return run_main("job", "watch", *flags, "--address", service.address)


def test_several_jobs_are_watched_to_their_ends() -> None:
    """Each by its own WatchJob; no change of status is left out, and the lines stand in columns."""
    transitions = [
        JobTransition(revision=1, attempt=1, status=JOB_STATE_QUEUED),
        JobTransition(revision=2, attempt=1, status=JOB_STATE_FAILED, failure_reason="OOM", progress=7),
    ]
    second = Job(job_id="two", status=JOB_STATE_COMPLETED, progress=100, revision=3, attempt=2)
    answers = {
        "nightly-1": [stream(WatchJobResponse(job=job("nightly-1", JOB_STATE_COMPLETED, 100)))],
        "two": [stream(WatchJobResponse(job=second, transitions=transitions))],
    }
    with fake_log_service(by_id(answers)) as service:
        done = watch(service, "nightly-1", "two", "nightly-1", "--after-revision", "0", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [
        "nightly-1  COMPLETED  100 %",
        "two        COMPLETED  100 %  attempt 2",
        "two        FAILED       7 %  OOM",
        "two        QUEUED       0 %",
    ]
    requests = sorted(service.requests, key=lambda request: request.job_id)
    assert requests == [
        WatchJobRequest(job_id=job_id, after_revision=0, wait_for_creation=True)
        for job_id in ("nightly-1", "two")
    ]


def test_one_failure_is_exit_code_1() -> None:
    """However the others fare."""
    answers = {"a": [ended("a", JOB_STATE_COMPLETED)], "b": [ended("b", JOB_STATE_FAILED)], "c": [GONE]}
    with fake_log_service(by_id(answers)) as service:
        assert watch(service, "a", "b").returncode == 1
        assert watch(service, "a").returncode == 0
        assert watch(service, "a", "b", "c").returncode == 1


def test_one_that_cannot_be_told_is_exit_code_4() -> None:
    """It is said at once, and the others are watched on."""
    said = threading.Event()
    answers = {
        "a": [stream(WatchJobResponse(job=job("a", JOB_STATE_COMPLETED)), then=lambda *_: said.wait(20))],
        "b": [GONE],
        "c": [GONE],
    }
    with fake_log_service(by_id(answers)) as service, pytest.MonkeyPatch.context() as patch:
        tell = job_watch.tell
        patch.setattr(job_watch, "tell", lambda *args, **kwargs: (tell(*args, **kwargs), said.set()))
        done = watch(service, "a", "b", "c")
    assert said.is_set()
    assert (done.returncode, done.stdout) == (4, "a  COMPLETED    0 %\n")
    assert done.stderr == "emitd: NOT_FOUND: nothing is here\n"


def test_a_lost_connection_is_told_once(naps: list[float]) -> None:
    """All streams break together, and each resumes from where it was."""
    together = threading.Barrier(3)

    def broken(job_id: str) -> Answer:
        def then(request: WatchJobRequest, context: grpc.ServicerContext) -> None:
            together.wait(20)
            STOPPING(request, context)

        return stream(WatchJobResponse(job=job(job_id, JOB_STATE_RUNNING, 10, revision=5)), then=then)

    def again(job_id: str) -> Answer:
        last = job(job_id, JOB_STATE_COMPLETED, 100, revision=6)

        def answer(_: WatchJobRequest, __: grpc.ServicerContext) -> Iterator[WatchJobResponse]:
            together.wait(20)  # until all have noticed
            yield WatchJobResponse(job=last)

        return answer

    ids = ["a", "b", "c"]
    with fake_log_service(by_id({job_id: [broken(job_id), again(job_id)] for job_id in ids})) as service:
        done = watch(service, *ids)
    assert done.returncode == 0
    assert done.stderr == "emitd: UNAVAILABLE: the service is going down; trying again for 60 s\n"
    assert sorted(request.after_revision for request in service.requests) == [0, 0, 0, 5, 5, 5]
    assert naps == [0.25] * 3


def test_a_server_that_stays_away_is_told_once() -> None:
    """Of all its jobs alike: exit code 4."""
    with fake_log_service(STOPPING) as service:
        done = watch(service, "a", "b", "c")
    assert done == (4, "", "emitd: UNAVAILABLE: the service is going down\n")


def test_jobs_that_take_too_long() -> None:
    """`--timeout` names the first and counts the rest: exit code 4."""
    answers = {
        "a": [ended("a", JOB_STATE_COMPLETED)],
        "b": [waiting(WatchJobResponse(job=job("b", JOB_STATE_RUNNING)))],
        "c": [waiting()],
    }
    with fake_log_service(by_id(answers)) as service:
        done = watch(service, "a", "b", "c", "--timeout", "0.7")
    assert done.returncode == 4
    assert done.stderr == "emitd: 'b' and 1 more have not ended within 0.7 s (--timeout)\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            "",
            "say which jobs: each JOB_ID, or --type, --status or --label; 'emitd job list --watch' shows all",
        ),
        ("a --type t", "the ids of jobs, and --type, --status or --label, exclude each other"),
        ("--type t --after-revision 0", "--after-revision goes with the ids of jobs"),
        ("--status DONE", "--status: 'DONE' is not one of"),
        ("--label team", "--label: 'team' is not KEY=VALUE"),
        ("--label a=1 --label a=2", "--label: 'a' is given twice"),
        (" ".join(f"j{n}" for n in range(101)), "101 jobs are more than 100; watch them by --type"),
    ],
)
def test_misuse(flags: str, told: str) -> None:
    """Exit code 2, one line, and the server is not asked."""
    with fake_log_service(GONE) as service:
        done = watch(service, *flags.split())
        assert service.requests == []
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"emitd: {told}")
    assert done.stderr.count("\n") == 1


def changes(*jobs: Job, left: bool = False, end: bool = False) -> WatchJobsResponse:
    return WatchJobsResponse(changes=[JobChange(job=one, left_filter=left) for one in jobs], snapshot_end=end)


def test_a_filter() -> None:
    """Each flag is a field of the request; each job has a line when it is told of, and one when it leaves."""
    flags = [
        "--type",
        "backup",
        "--status",
        "running",
        "--status",
        "QUEUED",
        "--label",
        "team=a",
        "--label",
        "x=",
    ]
    responses = [
        changes(job("a", JOB_STATE_RUNNING, 1, message="copying"), job("b", JOB_STATE_QUEUED)),
        changes(end=True),
        WatchJobsResponse(heartbeat=True),
        changes(job("a", JOB_STATE_RUNNING, 2, 2)),
        changes(job("a", JOB_STATE_FAILED, 2, 3, failure_reason="OOM\x1b[2J"), left=True),
        changes(Job(job_id="b", revision=1), left=True),
    ]
    with fake_log_service(stream(*responses, then=GONE)) as service:
        done = watch(service, *flags)
    assert service.requests == [
        WatchJobsRequest(
            job_type="backup",
            statuses=[JOB_STATE_RUNNING, JOB_STATE_QUEUED],
            labels={"team": "a", "x": ""},
        )
    ]
    assert done.stdout.splitlines() == [
        "a  RUNNING      1 %  copying",
        "b  QUEUED       0 %",
        "a  RUNNING      2 %",
        "a  FAILED       2 %  OOM\\u001b[2J  (matches no longer)",
        "b  QUEUED       0 %  (removed)",
    ]
    assert (done.returncode, done.stderr) == (4, "emitd: NOT_FOUND: nothing is here\n")


def test_a_filter_goes_on_after_an_outage(naps: list[float]) -> None:
    """For as long as it takes; only what changed meanwhile is shown, and the outage and its end are told once."""
    with fake_log_service(
        stream(
            changes(job("a", JOB_STATE_RUNNING, 1, 5), job("b", JOB_STATE_RUNNING, 1, 5), end=True),
            then=STOPPING,
        ),
        STOPPING,
        STOPPING,
        stream(changes(job("a", JOB_STATE_RUNNING, 1, 5), job("c", JOB_STATE_QUEUED), end=True), then=GONE),
    ) as service:
        done = watch(service, "--type", "t")
    assert done.stdout.splitlines() == [
        "a  RUNNING      1 %",
        "b  RUNNING      1 %",
        "c  QUEUED       0 %",
        "b  RUNNING      1 %  (matches no longer)",
    ]
    assert done.stderr.splitlines() == [
        "emitd: UNAVAILABLE: the service is going down; trying again until it answers (Ctrl-C ends it)",
        f"emitd: {service.address} answers again",
        "emitd: NOT_FOUND: nothing is here",
    ]
    assert naps == [0.25] * 3


def test_how_long_an_outage_may_last() -> None:
    """With --retry-seconds, so long: exit code 4."""
    with fake_log_service(stream(changes(end=True), then=STOPPING), STOPPING) as service:
        done = watch(service, "--type", "t", "--retry-seconds", "0.6")
    assert done.returncode == 4
    assert done.stderr.splitlines() == [
        "emitd: UNAVAILABLE: the service is going down; trying again for 0.6 s",
        "emitd: UNAVAILABLE: the service is going down",
    ]


def test_a_server_that_never_answered(naps: list[float]) -> None:
    """Nobody waits for what is probably a wrong address, unless `--wait` asks for it."""
    with fake_log_service(STOPPING, GONE) as service:
        assert watch(service, "--type", "t") == (4, "", "emitd: UNAVAILABLE: the service is going down\n")
    assert naps == []
    with fake_log_service(STOPPING, GONE) as service:
        done = watch(service, "--type", "t", "--wait")
    assert naps == [0.25]
    assert done.stderr.endswith("emitd: NOT_FOUND: nothing is here\n")


def test_a_filter_that_is_refused() -> None:
    """Such as one that too many jobs match: misuse."""
    refusal = fail(grpc.StatusCode.INVALID_ARGUMENT, "more than 1000 jobs match: ask for fewer")
    with fake_log_service(refusal) as service:
        done = watch(service, "--type", "t")
    assert done == (2, "", "emitd: INVALID_ARGUMENT: more than 1000 jobs match: ask for fewer\n")


def test_a_stream_that_ends_without_a_word() -> None:
    """It is told, and not tried for ever."""
    with fake_log_service(stream(changes(end=True))) as service:
        done = watch(service, "--type", "t")
    assert done == (4, "", "emitd: the server ended the stream without a word\n")


def test_a_filter_ends_after_its_time() -> None:
    """Exit code 0: it was to be watched for so long."""
    with fake_log_service(waiting(changes(job("a", JOB_STATE_RUNNING), end=True))) as service:
        assert watch(service, "--type", "t", "--timeout", "0.5") == (0, "a  RUNNING      0 %\n", "")


def test_ctrl_c() -> None:
    """Ends every kind of watch with 130 and no word."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with fake_log_service(waiting(then=lambda: os.kill(os.getpid(), signal.SIGINT))) as service:
            assert watch(service, "--type", "t") == (INTERRUPTED, "", "")
        with fake_log_service(waiting(then=lambda: os.kill(os.getpid(), signal.SIGINT))) as service:
            assert watch(service, "a") == (INTERRUPTED, "", "")
    finally:
        signal.signal(signal.SIGINT, previous)


def test_json() -> None:
    """Every message but heartbeats as it came, one object a line, also of a new snapshot."""
    first = changes(job("a", JOB_STATE_RUNNING), end=True)
    with fake_log_service(stream(first, WatchJobsResponse(heartbeat=True), first, then=GONE)) as service:
        done = watch(service, "--type", "t", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["snapshot_end"] for line in lines] == [True, True]
    assert lines[0]["changes"][0]["job"]["job_id"] == "a"
    assert lines[0]["changes"][0]["left_filter"] is False
    assert json.loads(done.stderr)["error"]["code"] == "NOT_FOUND"


def test_json_of_several_jobs() -> None:
    """Every message of each; what cannot be told is an error object."""
    with fake_log_service(by_id({"a": [ended("a", JOB_STATE_COMPLETED)], "b": [GONE]})) as service:
        done = watch(service, "a", "b", "--json")
    assert json.loads(done.stdout)["job"]["job_id"] == "a"
    assert json.loads(done.stderr) == {
        "error": {"code": "NOT_FOUND", "message": "NOT_FOUND: nothing is here"}
    }
    assert done.returncode == 4


def test_a_slow_reader_holds_the_stream_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing piles up on our side: the server notices, and coalesces."""
    sent: list[int] = []

    def answer(_: WatchJobsRequest, context: grpc.ServicerContext) -> Iterator[WatchJobsResponse]:
        for n in range(2000):
            if not context.is_active():
                return
            sent.append(n)
            yield changes(job("a", JOB_STATE_RUNNING, 1, n + 1, message="m" * 100_000))

    shown: list[object] = []

    def show_slowly(*arguments: object) -> None:
        shown.append(arguments)
        time.sleep(1)

    monkeypatch.setattr(LineDisplay, "show", show_slowly)
    with fake_log_service(answer) as service:
        assert watch(service, "--type", "t", "--timeout", "0.5") == (0, "", "")
    assert shown
    assert len(sent) < 500
