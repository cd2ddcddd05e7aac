"""`emitd job list`: what it asks the server for, paging, and what it prints."""

import json
from collections.abc import Iterator

import grpc
import pytest

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobChange,
    ListJobsRequest,
    ListJobsResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

JOB = Job(job_id="j", job_type="t", status=JOB_STATE_FAILED, progress=7, attempt=1, failure_reason="OOM")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe that nobody asked colours for."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def list_jobs(service: FakeLogService, *flags: str) -> Done:
    return run_main("job", "list", "--address", service.address, *flags)


def page(*jobs: Job, token: str = "") -> Answer:
    return lambda *_: ListJobsResponse(jobs=jobs, next_page_token=token)


def numbered(count: int) -> Answer:
    """A server with so many jobs, whose tokens are the number of the next."""

    def answer(request: ListJobsRequest, _: grpc.ServicerContext) -> ListJobsResponse:
        first = int(request.page_token or 0)
        end = min(first + request.page_size, count)
        jobs = [
            Job(job_id=f"j{n}", job_type="t", status=JOB_STATE_QUEUED, attempt=1) for n in range(first, end)
        ]
        return ListJobsResponse(jobs=jobs, next_page_token=str(end) if end < count else "")

    return answer


def test_without_filters() -> None:
    """It asks for the newest fifty, of any type and status."""
    with fake_log_service(page(JOB)) as service:
        done = list_jobs(service)
    assert service.requests == [ListJobsRequest(page_size=50)]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split() == ["j", "t", "FAILED", "7%", "1", "-", "OOM"]


def test_filters() -> None:
    """Each flag is a field of the request; a status may be written in small letters and be repeated."""
    flags = ["--type", "backup", "--status", "running", "--status", "COMPLETED", "--limit", "7"]
    flags += ["--label", "team=a", "--label", "x=", "--id", "a", "--id", "b"]
    with fake_log_service(page()) as service:
        list_jobs(service, *flags, "--updated-after", "2001-09-09T01:46:40Z")
    assert service.requests == [
        ListJobsRequest(
            job_type="backup",
            statuses=[JOB_STATE_RUNNING, JOB_STATE_COMPLETED],
            updated_after_unix_nano=1_000_000_000_000_000_000,
            page_size=7,
            labels={"team": "a", "x": ""},
            job_ids=["a", "b"],
        )
    ]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_it_pages_as_far_as_the_limit(flags: list[str]) -> None:
    """A page has at most a thousand; that the limit cut the list is told, and what to do."""
    with fake_log_service(numbered(2600)) as service:
        done = list_jobs(service, "--limit", "2500", *flags)
    assert [(request.page_size, request.page_token) for request in service.requests] == [
        (1000, ""),
        (1000, "1000"),
        (500, "2000"),
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == 2500 + (not flags)
    assert "j2499" in lines[-1]
    assert "there are more than 2500 such jobs; --limit N shows more" in done.stderr


def test_the_limit_is_not_told_where_it_cut_nothing() -> None:
    """Exactly as many jobs as the limit are all jobs."""
    with fake_log_service(numbered(3)) as service:
        assert list_jobs(service, "--limit", "3").stderr == ""


def test_a_page_that_ends_early_is_not_the_last() -> None:
    """A server may send fewer than it was asked for, even none, as long as it gives a token."""
    with fake_log_service(page(JOB, token="1"), page(token="2"), page(JOB)) as service:
        done = list_jobs(service, "--json")
    assert done.stdout.count("\n") == 2
    assert [(r.page_size, r.page_token) for r in service.requests] == [(50, ""), (49, "1"), (49, "2")]


def test_json_is_one_object_a_line() -> None:
    """With every field, also those that are zero."""
    with fake_log_service(page(JOB, JOB)) as service:
        lines = list_jobs(service, "--json").stdout.splitlines()
    assert [json.loads(line)["failure_reason"] for line in lines] == ["OOM", "OOM"]
    assert json.loads(lines[0])["revision"] == "0"


def test_nothing_found() -> None:
    """It says so on standard error, and is exit code 0: in a pipe, no job is no line."""
    with fake_log_service(page()) as service:
        assert list_jobs(service) == (0, "", "emitd: no job is like that\n")
        for flags in (["--type", "x"], ["--label", "a=b"], ["--id", "x"], ["--updated-after", "1h"]):
            assert list_jobs(service, *flags) == (0, "", "emitd: no job is like that\n")
        assert list_jobs(service, "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--status", "DONE"],
            "--status: 'DONE' is not one of QUEUED, RUNNING, COMPLETED, FAILED",
        ),
        (["--updated-after", "soon"], "--updated-after: 'soon' is neither a time"),
        (["--label", "=x"], "--label: '=x' is not KEY=VALUE"),
        (["--watch", "--updated-after", "1h"], "--updated-after: not with --watch"),
        (["--limit", "0"], "--limit: '0' is not a whole number from 1"),
    ],
)
def test_misuse(flags: list[str], told: str) -> None:
    """Exit code 2, one line, and the server is not asked."""
    with fake_log_service(page(JOB)) as service:
        done = list_jobs(service, *flags)
        assert service.requests == []
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"emitd: {told}")
    assert done.stderr.count("\n") == 1


def test_errors_of_the_server() -> None:
    """A question that makes no sense is misuse; a server that does not say is 4."""
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "bad")) as service:
        assert list_jobs(service) == (2, "", "emitd: INVALID_ARGUMENT: bad\n")
    with fake_log_service(fail(grpc.StatusCode.UNIMPLEMENTED, "no jobs here")) as service:
        assert list_jobs(service) == (4, "", "emitd: UNIMPLEMENTED: no jobs here\n")


def watched(service: FakeLogService, *flags: str) -> Done:
    return list_jobs(service, "--watch", "--label", "a=b", "--id", "j", *flags)


def test_a_list_that_is_watched_in_a_pipe() -> None:
    """The same filters, by WatchJobs; a line for each change, or with --json each message, until it is ended."""
    gone = fail(grpc.StatusCode.NOT_FOUND, "gone")

    def answer(request: WatchJobsRequest, context: grpc.ServicerContext) -> Iterator[WatchJobsResponse]:
        yield WatchJobsResponse(changes=[JobChange(job=JOB)], snapshot_end=True)
        gone(request, context)

    with fake_log_service(answer) as service:
        done = watched(service)
        as_json = watched(service, "--json")
    assert service.requests == [WatchJobsRequest(labels={"a": "b"}, job_ids=["j"])] * 2
    assert done == (4, "j  FAILED       7 %  OOM\n", "emitd: NOT_FOUND: gone\n")
    assert json.loads(as_json.stdout)["snapshot_end"] is True
