"""`emitd.jobs.run_state`: how a run begins and ends."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest

from emitd import JobNotApplied, Receipt, ReceiptState, RecordRejected, Unavailable, v1
from emitd.errors import LeaseLost
from emitd.jobs.run_state import JobRunState, Steps, begin, drive, drive_async, end

QUEUED, RUNNING = v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING
COMPLETED, FAILED = v1.JOB_STATE_COMPLETED, v1.JOB_STATE_FAILED
APPLIED = v1.JobReceipt(attempt=1, applied=True)

Sent: TypeAlias = list[v1.LogRecord]


def make_notes(**fields: Any) -> JobRunState:
    nothing: dict[str, Any] = {"total": None, "labels": None, "details": None, "lease": None}
    return JobRunState("j", "sync", envelope=v1.LogRecord(), on_news=lambda: None, **(nothing | fields))


def running(**fields: Any) -> JobRunState:
    """Notes of a job that was begun."""
    run_state = make_notes(**fields)
    taken(begin(run_state, RUNNING), APPLIED)
    return run_state


def sender(sent: Sent, answers: Sequence[v1.JobReceipt | Exception]) -> Callable[[v1.LogRecord], Receipt]:
    """Note what is sent, and answer with one answer after the other."""
    left = list(answers)

    def send(record: v1.LogRecord) -> Receipt:
        sent.append(record)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Receipt(ReceiptState.COMMITTED, v1.Receipt(job=answer))

    return send


def taken(steps: Steps, *answers: v1.JobReceipt | Exception) -> Sent:
    """Take the steps, and return what was sent."""
    sent: Sent = []
    drive(steps, sender(sent, answers))
    return sent


def test_a_run_begins_with_one_report() -> None:
    """Which opens the attempt; the receipt says which one."""
    run_state = make_notes()
    (record,) = taken(begin(run_state, QUEUED), v1.JobReceipt(attempt=3, applied=True))
    assert (record.job.status, record.job.new_attempt, run_state.attempt) == (QUEUED, True, 3)


def test_a_beginning_that_changes_nothing_raises() -> None:
    """Another run is under way, and this one must not work."""
    with pytest.raises(JobNotApplied) as caught:
        taken(begin(make_notes(), RUNNING), v1.JobReceipt(stale_reason="SUPERSEDED"))
    assert caught.value.stale_reason == "SUPERSEDED"


@pytest.mark.parametrize("error", [Unavailable("down"), RecordRejected("bad", field="job.job_id")])
def test_a_beginning_that_fails_raises_why(error: Exception) -> None:
    """The error itself, with its field, and only one report was tried."""
    sent: Sent = []
    with pytest.raises(type(error)) as caught:
        drive(begin(make_notes(), RUNNING), sender(sent, [error]))
    assert caught.value is error
    assert len(sent) == 1


def test_a_run_without_an_exception_ends_as_completed() -> None:
    """By one report."""
    (record,) = taken(end(running(), None), APPLIED)
    assert record.job.status == COMPLETED


def test_an_exception_ends_it_as_failed() -> None:
    """With its type and its text."""
    (record,) = taken(end(running(), LookupError("no such order")), APPLIED)
    job = record.job
    assert (job.status, job.failure_reason, job.failure_message) == (FAILED, "LookupError", "no such order")


@pytest.mark.parametrize(
    ("exception", "reason"),
    [
        (SystemExit(), ""),
        (SystemExit(0), ""),
        (SystemExit(3), "SystemExit"),
        (SystemExit("no space"), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CANCELLED"),
        (GeneratorExit(), "GeneratorExit"),
        (BaseExceptionGroup("g", [SystemExit(0)]), "BaseExceptionGroup"),
        (ExceptionGroup("g", [ValueError("x")]), "ExceptionGroup"),
    ],
)
def test_exit_code_0_ends_it_as_completed(exception: BaseException, reason: str) -> None:
    """Every other exception as FAILED, with a reason."""
    (record,) = taken(end(running(), exception), APPLIED)
    assert (record.job.status, record.job.failure_reason) == (FAILED if reason else COMPLETED, reason)


def test_a_lost_job_is_not_reported_as_ended() -> None:
    """It would change nothing: LeaseLost says so, and nothing is sent."""
    run_state = running()
    run_state.take_notice("ATTEMPT_ENDED", False)
    sent: Sent = []
    with pytest.raises(LeaseLost):
        drive(end(run_state, None), sender(sent, []))
    assert sent == []


@pytest.mark.parametrize("exception", [None, LookupError("x")])
def test_an_end_that_changes_nothing_raises(exception: Exception | None) -> None:
    """The job went on without its reporter at the last moment."""
    with pytest.raises(LeaseLost, match="SUPERSEDED"):
        taken(end(running(), exception), v1.JobReceipt(stale_reason="SUPERSEDED"))


def test_a_refused_end_is_failed_without_what_was_refused() -> None:
    """The job must not stay RUNNING for ever for the size of its details; the refusal is raised."""
    refusal = RecordRejected("too large", field="job.details_json")
    run_state = running(details={"rows": 1})
    run_state.message("much")
    sent: Sent = []
    with pytest.raises(RecordRejected) as caught:
        drive(end(run_state, None), sender(sent, [refusal, APPLIED]))
    assert caught.value is refusal
    assert [(r.job.status, r.job.details_json, r.message) for r in sent] == [
        (COMPLETED, '{"rows":1}', "much"),
        (FAILED, "", ""),
    ]
    assert sent[1].job.failure_reason == "RecordRejected"


def test_a_refused_failure_keeps_its_own_reason() -> None:
    """What the job died of matters more than what its last report was refused for."""
    sent: Sent = []
    with pytest.raises(RecordRejected):
        drive(end(running(), LookupError("gone")), sender(sent, [RecordRejected("too large"), APPLIED]))
    assert [(r.job.failure_reason, r.job.failure_message) for r in sent] == [("LookupError", "gone")] * 2


def test_an_end_that_is_refused_twice_raises_the_second_refusal() -> None:
    """There is nothing left to leave out, and no third try."""
    sent: Sent = []
    second = RecordRejected("no handler")
    with pytest.raises(RecordRejected) as caught:
        drive(end(running(), None), sender(sent, [RecordRejected("too large"), second]))
    assert caught.value is second
    assert len(sent) == 2


def test_a_refused_end_of_a_job_that_went_on_is_lost() -> None:
    """That weighs more than what was refused: it changes nothing any more."""
    stale = v1.JobReceipt(stale_reason="SUPERSEDED")
    with pytest.raises(LeaseLost, match="SUPERSEDED"):
        taken(end(running(), None), RecordRejected("too large"), stale)


def test_an_end_that_cannot_be_sent_is_not_tried_as_another() -> None:
    """Unavailable says nothing about the report: it is raised as it is."""
    sent: Sent = []
    with pytest.raises(Unavailable):
        drive(end(running(), None), sender(sent, [Unavailable("down")]))
    assert len(sent) == 1


def test_what_is_no_error_of_the_client_ends_the_steps_at_once() -> None:
    """Such as KeyboardInterrupt while it waits: nothing more is sent."""
    sent: Sent = []

    def interrupted(record: v1.LogRecord) -> Receipt:
        sent.append(record)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(end(running(), None), interrupted)
    assert len(sent) == 1


async def test_a_task_takes_the_same_steps() -> None:
    """Receipts are sent in, and errors thrown in, as by a thread."""
    sent: Sent = []
    send = sender(sent, [APPLIED, RecordRejected("too large"), APPLIED])

    async def send_later(record: v1.LogRecord) -> Receipt:
        return send(record)

    run_state = make_notes()
    await drive_async(begin(run_state, RUNNING), send_later)
    assert run_state.attempt == 1
    with pytest.raises(RecordRejected, match="too large"):
        await drive_async(end(run_state, None), send_later)
    assert [record.job.status for record in sent] == [RUNNING, COMPLETED, FAILED]
