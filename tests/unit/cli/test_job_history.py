"""`emitd job history`: paging, how long each status lasted, and what is printed where."""

import json
import re
import time

import grpc
import pytest

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JobState,
    JobTransition,
    ListJobTransitionsRequest,
    ListJobTransitionsResponse,
)
from emitd_cli.jobs.text import NANOS, history_lines, lasted_text, status_periods
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

#: 2001-09-09T01:46:40Z
BEGIN = 1_000_000_000 * NANOS
COLOUR = re.compile(r"\x1b\[[\d;]*m")
EVIL = "a\x1b[2J\nb\u202ec"
ESCAPED = "a\\u001b[2J\\nb\\u202ec"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe that nobody asked colours for."""
    for name in ("FORCE_COLOR", "NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def transition(
    revision: int, status: JobState, seconds: float, attempt: int = 1, **fields: object
) -> JobTransition:
    time_unix_nano = BEGIN + int(seconds * NANOS)
    made = JobTransition(revision=revision, attempt=attempt, status=status, time_unix_nano=time_unix_nano)
    made.MergeFrom(JobTransition(**fields))  # type: ignore[arg-type]
    return made


TWO_ATTEMPTS = [
    transition(1, JOB_STATE_QUEUED, 0),
    transition(2, JOB_STATE_RUNNING, 0.25),
    transition(3, JOB_STATE_RUNNING, 30, progress=40, progress_only=True),
    transition(4, JOB_STATE_FAILED, 90.25, progress=40, failure_reason="OOM", failure_message="no memory"),
    transition(5, JOB_STATE_RUNNING, 4000, attempt=2),
    transition(9, JOB_STATE_COMPLETED, 4012, attempt=2, progress=100),
]


def page(*transitions: JobTransition, token: str = "", truncated: bool = False) -> Answer:
    return lambda *_: ListJobTransitionsResponse(
        transitions=transitions, next_page_token=token, history_truncated=truncated
    )


def history(service: FakeLogService, *flags: str) -> Done:
    return run_main("job", "history", "j", "--address", service.address, *flags)


def test_all_attempts() -> None:
    """A line for each change, the oldest first: when, how long the status lasted, and why an attempt failed."""
    with fake_log_service(page(*TWO_ATTEMPTS)) as service:
        done = history(service)
    assert service.requests == [ListJobTransitionsRequest(job_id="j", page_size=1000)]
    assert (done.returncode, done.stderr) == (0, "")
    assert [re.split(" {2,}", line) for line in done.stdout.splitlines()] == [
        ["TIME", "REVISION", "ATTEMPT", "STATUS", "PROGRESS", "LASTED", "FAILURE"],
        ["2001-09-09T01:46:40Z", "1", "1", "QUEUED", "0%", "0.2 s"],
        ["2001-09-09T01:46:40Z", "2", "1", "RUNNING", "0%", "1:30"],
        ["2001-09-09T01:47:10Z", "3", "1", "-", "40%", "-"],
        ["2001-09-09T01:48:10Z", "4", "1", "FAILED", "40%", "1:05:09", "OOM no memory"],
        ["2001-09-09T02:53:20Z", "5", "2", "RUNNING", "0%", "12.0 s"],
        ["2001-09-09T02:53:32Z", "9", "2", "COMPLETED", "100%", "-"],
    ]


def test_pages() -> None:
    """All of them, as far as the server has tokens; durations go on from one to the other."""
    with fake_log_service(
        page(*TWO_ATTEMPTS[:2], token="1"), page(token="2"), page(*TWO_ATTEMPTS[2:])
    ) as service:
        done = history(service, "--after-revision", "7")
    assert [(request.after_revision, request.page_token) for request in service.requests] == [
        (7, ""),
        (7, "1"),
        (7, "2"),
    ]
    assert len(done.stdout.splitlines()) == 7
    assert "  RUNNING    0%        1:30" in done.stdout


def test_json_is_one_object_a_line() -> None:
    """Each page as it comes, every field."""
    with fake_log_service(page(*TWO_ATTEMPTS[:3], token="1"), page(*TWO_ATTEMPTS[3:])) as service:
        done = history(service, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["revision"] for line in lines] == ["1", "2", "3", "4", "5", "9"]
    assert [line["progress_only"] for line in lines] == [False, False, True, False, False, False]
    assert lines[3]["failure_reason"] == "OOM"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_history_that_exists_no_more(flags: list[str]) -> None:
    """It is told, whichever page says so, and what is left is shown."""
    with fake_log_service(
        page(*TWO_ATTEMPTS[:4], token="1", truncated=True), page(*TWO_ATTEMPTS[4:])
    ) as service:
        done = history(service, *flags)
    assert "some of this history is gone: the server keeps it for a limited time" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "COMPLETED" in done.stdout


def test_nothing_to_show() -> None:
    """It says so on standard error."""
    with fake_log_service(page()) as service:
        assert history(service, "--after-revision", "9") == (
            0,
            "",
            "emitd: nothing is known of 'j' after revision 9\n",
        )
        assert history(service, "--json") == (0, "", "")


def test_errors_of_the_server() -> None:
    """An unknown job is exit code 4, as with `job get`."""
    with fake_log_service(fail(grpc.StatusCode.NOT_FOUND, "there is no job 'j'")) as service:
        assert history(service) == (4, "", "emitd: NOT_FOUND: there is no job 'j'\n")
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "bad")) as service:
        assert history(service) == (2, "", "emitd: INVALID_ARGUMENT: bad\n")


def lasted(*transitions: JobTransition, now: float = 500) -> list[str]:
    return [lasted_text(stay) for stay in status_periods(transitions, BEGIN + int(now * NANOS))]


def test_the_newest_status_lasts_still() -> None:
    """Unless it is an end; mere progress after it changes nothing."""
    running = transition(1, JOB_STATE_RUNNING, 0)
    tick = transition(2, JOB_STATE_RUNNING, 9, progress_only=True)
    assert lasted(running, tick) == ["8:20 so far", ""]
    assert lasted(running, now=59.99) == ["59.9 s so far"]
    assert lasted(running, transition(3, JOB_STATE_FAILED, 60)) == ["1:00", ""]
    assert lasted() == []


def test_clocks_of_reporters_may_differ() -> None:
    """A time that would be less than nothing is not told."""
    assert lasted(transition(1, JOB_STATE_QUEUED, 9), transition(2, JOB_STATE_RUNNING, 7), now=6) == ["", ""]


def test_texts_of_senders_cannot_move_the_cursor() -> None:
    """Whatever is in them is escaped."""
    stays = status_periods(
        [transition(1, JOB_STATE_FAILED, 0, failure_reason=EVIL, failure_message=EVIL)], BEGIN
    )
    text = "\n".join(history_lines(stays))
    assert text.count(ESCAPED) == 2
    assert all(line.isprintable() for line in text.splitlines())


def test_so_far_is_told_by_our_own_clock() -> None:
    """There is no other: the times are those of the reports."""
    now = transition(1, JOB_STATE_RUNNING, 0)
    now.time_unix_nano = time.time_ns() - 3600 * NANOS
    with fake_log_service(page(now)) as service:
        assert re.search(r"  1:00:\d\d so far$", history(service).stdout)
