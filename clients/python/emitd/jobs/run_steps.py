"""How a job's run begins and ends, as steps: each yields a report to send and is sent the receipt, or thrown the error.

So the order, and what a refusal means, stands here once; `drive` and `drive_async` do the waiting.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import TypeAlias, TypeVar

from emitd.errors import EmitError, RecordRejected
from emitd.jobs.run_state import JobRunState
from emitd.receipt import Receipt
from emitd.v1 import record_pb2 as pb

__all__ = ["Steps", "begin", "drive", "drive_async", "end"]

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

Steps: TypeAlias = Generator[pb.LogRecord, Receipt, None]


def begin(run_state: JobRunState, status: pb.JobState) -> Steps:
    """Open the attempt with QUEUED or RUNNING. Raises JobNotApplied if that changed nothing."""
    receipt = yield run_state.report(status)
    run_state.take_receipt(receipt.job)


def end(run_state: JobRunState, exception: BaseException | None) -> Steps:
    """Report COMPLETED or FAILED. Raises JobNotApplied if that changed nothing.

    Where the last news is refused for good, the job ends as FAILED without it, and the refusal is raised.
    """
    run_state.refuse_if_lost()
    try:
        receipt = (
            yield run_state.report(pb.JOB_STATE_COMPLETED)
            if exception is None
            else run_state.failure_report(exception)
        )
    except RecordRejected as error:
        run_state.forget_refused()
        receipt = yield run_state.failure_report(exception or error)
        run_state.take_receipt(receipt.job)
        raise
    run_state.take_receipt(receipt.job)


def drive(steps: Generator[Question, Answer, Result], send: Callable[[Question], Answer]) -> Result:
    """Take the steps, waiting in this thread; return what they do."""
    try:
        question = next(steps)
        while True:
            try:
                answer = send(question)
            except EmitError as error:
                question = steps.throw(error)
            else:
                question = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def drive_async(
    steps: Generator[Question, Answer, Result], send: Callable[[Question], Awaitable[Answer]]
) -> Result:
    """Take the steps, waiting in this task; return what they do."""
    try:
        question = next(steps)
        while True:
            try:
                answer = await send(question)
            except EmitError as error:
                question = steps.throw(error)
            else:
                question = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
