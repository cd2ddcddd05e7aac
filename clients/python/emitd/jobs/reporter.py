"""`JobReporter`: reports one run of a job to a server, from `with` to its end.

    with client.job("sync-42", "sync", total=1000, lease=60) as job:
        for row in rows:
            store(row)
            job.advance()

Made by `LogClient.job`.
"""

import os
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from emitd.errors import EmitError, LeaseLost
from emitd.jobs.run_state import JobRunState
from emitd.jobs.run_steps import begin, drive, end
from emitd.receipt import Receipt
from emitd.sending.engine import Engine
from emitd.v1 import record_pb2 as pb

__all__ = ["JobReporter", "JobVerbs"]


class JobVerbs:
    """The plain calls of both reporters, for any thread. They only note what is new, for the background to send.

    In a forked child they do nothing: the run is its parent's.
    """

    def __init__(self, engine: Engine, run_state: JobRunState) -> None:
        self._engine = engine
        self._run_state = run_state
        self._process_id = os.getpid()
        self._is_entered = False

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._run_state.job_id

    @property
    def attempt(self) -> int:
        """Which run of the job this is, from 1; 0 before it was opened."""
        return self._run_state.attempt

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody wishes that the job stop. Learnt from the answers to reports, so with a `lease` soon."""
        return self._run_state.cancel_requested

    def refuse_if_lost(self) -> None:
        """Raise LeaseLost if the job is lost. For work that has nothing to note."""
        self._run_state.refuse_if_lost()

    def advance(self, steps: int = 1, /) -> None:
        """Note that so many more of `total` steps are done. Raises LeaseLost, and ValueError without a `total`."""
        if self._is_ours():
            self._run_state.advance(steps)

    def progress(self, percent: float, /) -> None:
        """Note the progress. Raises LeaseLost, and ValueError outside of 0 to 100."""
        if self._is_ours():
            self._run_state.progress(percent)

    def message(self, text: str, /) -> None:
        """Note what the job is doing, for people. Cut to 4,000 characters. Raises LeaseLost."""
        if self._is_ours():
            self._run_state.message(text)

    def details(self, details: Mapping[str, object], /) -> None:
        """Note the job's own data; it replaces what was there. Raises LeaseLost, and TypeError for what is no JSON.

        Data that the service refuses, such as for its size, makes the end of the job FAILED.
        """
        if self._is_ours():
            self._run_state.details(details)

    def _is_ours(self) -> bool:
        return os.getpid() == self._process_id

    def _enter(self) -> None:
        # The run is of the process that begins it: a reporter may be handed to a forked child.
        self._is_entered, self._process_id = True, os.getpid()

    def _refuse_second_run(self) -> None:
        self._engine.refuse_if_closed()
        if self._is_entered:
            raise RuntimeError(f"job '{self.job_id}': a reporter is for one run; make another")

    def _refuse_second_opening(self) -> None:
        self._engine.refuse_if_closed()
        if self.attempt:
            raise RuntimeError(f"job '{self.job_id}': its attempt {self.attempt} is open already")

    def _say_unreported(self, error: EmitError) -> None:
        self._engine.report_line(f"the end of job '{self.job_id}' could not be reported: {error}")


class JobReporter(JobVerbs):
    """One run of a job.

    Entering opens a new attempt, reports RUNNING and waits for the receipt. Leaving reports COMPLETED; or, with an
    exception, FAILED with its type and message, and the exception goes on. In between, news is sent in the background,
    a few times a second at most, and the lease is renewed also while nothing is noted.
    """

    def __init__(
        self, engine: Engine, run_state: JobRunState, send: Callable[[pb.LogRecord, bool], Receipt]
    ) -> None:
        """Send by `send`: a record, and whether it may be spooled."""
        super().__init__(engine, run_state)
        self._send = send
        self._lock = threading.Lock()

    def queued(self) -> None:
        """Open the attempt with QUEUED, for a job that is entered later. Optional. Raises what entering raises."""
        self._refuse_second_opening()
        drive(begin(self._run_state, pb.JOB_STATE_QUEUED), lambda record: self._send(record, False))

    def __enter__(self) -> Self:
        """Report RUNNING. Raises JobNotApplied, RecordRejected, Unavailable or ClientNotOpen."""
        with self._lock:
            self._refuse_second_run()
            self._enter()
        drive(begin(self._run_state, pb.JOB_STATE_RUNNING), lambda record: self._send(record, False))
        self._engine.events.watch(self._run_state)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Report the end. If that fails, raise why, unless an exception is on its way already; so for a lost job too.

        Where the last data or message was refused, the job is FAILED, without them.
        """
        if not self._is_ours():
            return
        self._engine.events.forget(self._run_state)
        try:
            drive(end(self._run_state, exception), lambda record: self._send(record, True))
        except EmitError as error:
            if exception is None:
                raise
            if not isinstance(exception, LeaseLost):  # else it is known
                self._say_unreported(error)
