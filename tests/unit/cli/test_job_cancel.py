"""`emitd job cancel`: what it asks for, and what it says."""

import json

import grpc
import pytest

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_RUNNING,
    Job,
    RequestCancelRequest,
    RequestCancelResponse,
)
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

ASKED = Job(
    job_id="j",
    status=JOB_STATE_RUNNING,
    progress=40,
    cancel_requested=True,
    cancel_reason="a\x1b[2Jb",
    message="m",
)


def answer(job: Job) -> Answer:
    return lambda *_: RequestCancelResponse(job=job)


def cancel(service: FakeLogService, *flags: str) -> Done:
    return run_main("job", "cancel", "j", "--address", service.address, *flags)


def test_a_job_is_asked_to_stop() -> None:
    """Its line says so, with the reason, in which nothing can move the cursor."""
    with fake_log_service(answer(ASKED)) as service:
        done = cancel(service, "--reason", "too slow")
        cancel(service)
    assert done == (0, "j  RUNNING     40 %  (cancel requested: a\\u001b[2Jb) m\n", "")
    assert service.requests == [
        RequestCancelRequest(job_id="j", reason="too slow"),
        RequestCancelRequest(job_id="j"),
    ]


def test_a_job_that_has_ended() -> None:
    """There is nothing to cancel: that is said, and is no error."""
    ended = Job(job_id="j", status=JOB_STATE_COMPLETED, progress=100, ended=True)
    with fake_log_service(answer(ended)) as service:
        done = cancel(service)
        as_json = cancel(service, "--json")
    said = "'j' is COMPLETED already; there is nothing to cancel"
    assert done == (0, "j  COMPLETED  100 %\n", f"emitd: {said}\n")
    assert json.loads(as_json.stdout)["ended"] is True
    assert json.loads(as_json.stderr) == {"note": said}


def test_json() -> None:
    """The job, with every field."""
    with fake_log_service(answer(ASKED)) as service:
        done = cancel(service, "--json")
    assert (json.loads(done.stdout)["cancel_requested"], done.stderr) == (True, "")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("NOT_FOUND", 4), ("UNIMPLEMENTED", 4), ("UNAVAILABLE", 4), ("INVALID_ARGUMENT", 2)],
)
def test_errors_of_the_server(code: str, exit_code: int) -> None:
    """An unknown job is exit code 4, as with `job get`; a reason that is too long is misuse."""
    with fake_log_service(
        fail(grpc.StatusCode[code], "said so", 0.1 if code == "UNAVAILABLE" else None)
    ) as service:
        assert cancel(service) == (exit_code, "", f"emitd: {code}: said so\n")
