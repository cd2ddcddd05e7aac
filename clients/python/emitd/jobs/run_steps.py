"""How a job's run begins and ends, as steps: each yields a report to send and is sent the receipt, or thrown the error.

So the order, and what a refusal means, stands here once; `drive` and `drive_async` do the waiting.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import TypeAlias

from emitd.errors import EmitError, RecordRejected
from emitd.jobs.run_state import JobRunState
from emitd.receipt import Receipt
from emitd.v1 import record_pb2 as pb

__all__ = ["Steps", "begin", "drive", "drive_async", "end"]

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


def drive(steps: Steps, send: Callable[[pb.LogRecord], Receipt]) -> None:
    """Take the steps, waiting in this thread."""
    try:
        record = next(steps)
        while True:
            try:
                receipt = send(record)
            except EmitError as error:
                record = steps.throw(error)
            else:
                record = steps.send(receipt)
    except StopIteration:
        return


async def drive_async(steps: Steps, send: Callable[[pb.LogRecord], Awaitable[Receipt]]) -> None:
    """Take the steps, waiting in this task."""
    try:
        record = next(steps)
        while True:
            try:
                receipt = await send(record)
            except EmitError as error:
                record = steps.throw(error)
            else:
                record = steps.send(receipt)
    except StopIteration:
        return
