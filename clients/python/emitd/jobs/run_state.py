"""`JobRunState`: what is known of one run of a job, and the reports that say so. Shared by all reporters.

It sends nothing: its owner asks for a report when it is time for one, and hands back what the service answered.

    advance, progress, message, details ─> JobRunState ─> report, failure_report ─> (owner sends) ─┐
                      LeaseLost <──────────────┴── take_receipt, take_notice <──────────────────┘

Every report carries the whole current state, so that a report that is left out takes nothing away, and its own time,
later than that of the report before, so that a copy that arrives late never replaces newer state. If the sender's clock
is ahead of the service's, reports count from their arrival. So an owner has one RUNNING report under way at a time, and
makes a new one rather than send one again that it has given up.

`begin` and `end` are how a run begins and ends, as steps: each yields a report to send and gets the receipt, or the
error. `drive` and `drive_async` do the waiting.
"""

import math
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational, Real
from typing import SupportsFloat, TypeAlias, TypeVar

from emitd.errors import EmitError, JobNotApplied, LeaseLost, RecordRejected
from emitd.receipt import Receipt
from emitd.records.audit import next_record_id
from emitd.records.encoding import as_field, as_text, encode_details
from emitd.records.exceptions import failure_message, failure_of, failure_reason
from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb

#: A message is cut to this number of characters: a report must not fail for its own length.
MAX_MESSAGE_CHARACTERS = 4_000
#: What the wire has room for.
MAX_LEASE_SECONDS = 2**32 - 1
_LEASE = f"a number of seconds from 1 to {MAX_LEASE_SECONDS}; None: the job has no lease"

#: The stale reasons that say that the attempt went on, or ended, without its reporter.
_LOST = {"SUPERSEDED", "ATTEMPT_ENDED"}
_ENDED = {pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED}


class JobRunState:
    """One run of a job, from any thread. `on_news` is called, outside of any lock, whenever there is news to send."""

    def __init__(
        self,
        job_id: str,
        job_type: str,
        *,
        total: SupportsFloat | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
        lease: int | None = None,
        envelope: pb.LogRecord,
        on_news: Callable[[], None],
    ) -> None:
        """Begin with nothing done; `envelope` has what every report carries besides, such as the source.

        `lease` is how many seconds a RUNNING report keeps the job alive. Raises ValueError and TypeError.
        """
        self._job = pb.JobStatus(
            job_id=as_field(job_id),
            job_type=as_field(job_type),
            labels={as_text(key): as_text(value) for key, value in (labels or {}).items()},
        )
        self.job_id = self._job.job_id
        #: How long a RUNNING report keeps the job alive; None: there is no lease.
        self.lease_seconds = (
            None if lease is None else int(_read_number("lease", lease, _LEASE, 1, MAX_LEASE_SECONDS))
        )
        self._envelope = envelope
        self._on_news = on_news
        self._total = 0 if total is None else _read_number("total", total, "a finite number of steps")
        # Reentrant: a finalizer that notes something may run in a thread that is in here already.
        self._lock = threading.RLock()
        self._steps: int | Fraction = 0
        self._progress: int | None = None
        self._message = ""
        self._details_json = encode_details(details) if details is not None else ""
        #: Whether something was noted since the last report.
        self.has_news = False
        #: Whether message and details as they stand were refused.
        self._refused = False
        self._time_unix_nano = 0
        self._status: pb.JobState = pb.JOB_STATE_UNSPECIFIED
        #: Which run of the job this is; 0 before a receipt says so.
        self.attempt = 0
        self._entered = False
        #: Why the run is lost; empty: it is not.
        self.stale_reason = ""
        #: Whether the job was asked to stop, as far as the service has answered.
        self.cancel_requested = False

    @property
    def is_lost(self) -> bool:
        """Whether the attempt went on, or ended, without its reporter."""
        return bool(self.stale_reason)

    def advance(self, steps: SupportsFloat = 1, /) -> None:
        """Note further steps. Raises LeaseLost."""
        number = _read_number("steps", steps, "a finite number of steps")
        with self._lock:
            self.refuse_if_lost()
            self._steps += number
            done = self._steps if isinstance(self._steps, int) else round(self._steps, 6)  # 3 thirds make 1
            is_news = self._total > 0 and self._note_progress(100 * done // self._total)
        if is_news:
            self._on_news()

    def progress(self, percent: SupportsFloat, /) -> None:
        """Note the progress, rounded down. Raises LeaseLost, and ValueError outside of 0 to 100."""
        number = _read_number("percent", percent, "from 0 to 100", 0, 100)
        with self._lock:
            self.refuse_if_lost()
            is_news = self._note_progress(number)
        if is_news:
            self._on_news()

    def message(self, text: str, /) -> None:
        """Note what the job is doing. Raises LeaseLost."""
        self._note_texts(as_text(text)[:MAX_MESSAGE_CHARACTERS], None)

    def details(self, details: Mapping[str, object], /) -> None:
        """Note the job's own data. Raises LeaseLost, and TypeError naming the key that is no JSON."""
        self._note_texts(None, encode_details(details))

    def report(
        self, status: pb.JobState, failure_reason: str = "", failure_message: str = ""
    ) -> pb.LogRecord:
        """Return a new record of the current state, under an id of its own; then there is no more news.

        It opens a new attempt as long as no receipt has said which one is open. Only RUNNING has the lease: nobody
        renews it for a job that waits in a queue, and the end needs none.
        """
        record = pb.LogRecord(record_id=next_record_id())
        record.MergeFrom(self._envelope)
        record.job.CopyFrom(self._job)
        record.job.status = status
        record.job.failure_reason = failure_reason
        record.job.failure_message = failure_message
        with self._lock:
            self._fill(record, status)
        return record

    def failure_report(self, exception: BaseException) -> pb.LogRecord:
        """Return the report that the job FAILED with this exception."""
        return self.report(pb.JOB_STATE_FAILED, failure_reason(exception), failure_message(exception))

    def take_receipt(self, receipt: log_service_pb2.JobReceipt) -> None:
        """Note what came of the last report, where its maker waited for it: of the beginning, and of the end.

        Raises JobNotApplied if the report changed nothing; LeaseLost where the job had been running before.
        """
        with self._lock:
            reason = receipt.stale_reason
            if reason and self._entered and reason in _LOST:
                self.stale_reason = reason
            self.refuse_if_lost()
            if reason:
                raise JobNotApplied(self.job_id, reason)
            self.attempt = self.attempt or receipt.attempt
            self._entered = self._entered or self._status == pb.JOB_STATE_RUNNING
            self.cancel_requested |= receipt.cancel_requested

    def take_notice(self, stale_reason: str, cancel_requested: bool) -> None:
        """Note the answer to a RUNNING report of the background. Never raises.

        A report that was overtaken means nothing, and so does an answer after the job's own end.
        """
        with self._lock:
            self.cancel_requested |= cancel_requested
            if stale_reason in _LOST and self._entered and self._status not in _ENDED:
                self.stale_reason = self.stale_reason or stale_reason

    def refuse_if_lost(self) -> None:
        """Raise LeaseLost if the job is lost."""
        if self.stale_reason:
            raise LeaseLost(self.job_id, self.stale_reason)

    def withhold_refused(self) -> bool:
        """Keep message and details out of RUNNING reports, because the service refused one that had them.

        The end brings them again, and new ones are tried. Return False where there were none to blame, or they were
        withheld already.
        """
        with self._lock:
            is_to_blame = not self._refused and bool(self._message or self._details_json)
            self._refused = True
            return is_to_blame

    def forget_refused(self) -> None:
        """Drop message and details, because the service refused the end with them; the job keeps what it has."""
        with self._lock:
            self._message = self._details_json = ""

    def _fill(self, record: pb.LogRecord, status: pb.JobState) -> None:
        """Put into a record what changes from one report to the next."""
        self._status = status
        self.has_news = False
        self._time_unix_nano = max(time.time_ns(), self._time_unix_nano + 1)
        record.time_unix_nano = self._time_unix_nano
        record.job.attempt = self.attempt
        record.job.new_attempt = not self.attempt
        if status != pb.JOB_STATE_RUNNING or not self._refused:
            record.message = self._message
            record.job.details_json = self._details_json
        if self._progress is not None and status != pb.JOB_STATE_COMPLETED:
            record.job.progress = self._progress
        if self.lease_seconds is not None and status == pb.JOB_STATE_RUNNING:
            record.job.lease_seconds = self.lease_seconds

    def _note_progress(self, number: int | Fraction) -> bool:
        percent = int(min(max(number, 0), 100))  # more steps than there are, or less than none, are no fault
        if percent == self._progress:
            return False
        self._progress = percent
        self.has_news = True
        return True

    def _note_texts(self, message: str | None, details_json: str | None) -> None:
        """Note a new message or new details; None: as they are."""
        with self._lock:
            self.refuse_if_lost()
            message = self._message if message is None else message
            details_json = self._details_json if details_json is None else details_json
            if (message, details_json) == (self._message, self._details_json):
                return
            self._message, self._details_json = message, details_json
            self._refused = False
            self.has_news = True
        self._on_news()


def _read_number(
    name: str, value: object, expected: str, at_least: float = -math.inf, at_most: float = math.inf
) -> int | Fraction:
    """Return a number that a program gives of its progress: any finite real one, such as a Decimal or one of numpy's.

    To nine digits after the point. Raises ValueError naming the argument.
    """
    with suppress(ValueError, OverflowError):  # NaN, or an infinity
        number: int | Fraction | None = None
        if isinstance(value, Integral) and not isinstance(value, bool):
            number = int(value)
        elif isinstance(value, Real | Decimal) and not isinstance(value, bool):
            number = round(Fraction(value if isinstance(value, Rational | Decimal) else float(value)), 9)
        if number is not None and at_least <= number <= at_most:
            return number
    raise ValueError(f"{name}: {as_text(value)[:80]} is not {expected}")


Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

Steps: TypeAlias = Generator[pb.LogRecord, Receipt, None]


def begin(run_state: JobRunState, status: pb.JobState) -> Steps:
    """Open the attempt with QUEUED or RUNNING. Raises JobNotApplied if that changed nothing."""
    receipt = yield run_state.report(status)
    run_state.take_receipt(receipt.job)


def end(run_state: JobRunState, exception: BaseException | None) -> Steps:
    """Report COMPLETED, or FAILED by `failure_of` the exception. Raises JobNotApplied if that changed nothing.

    If the last news is refused for good, the job ends as FAILED without it, and the refusal is raised.
    """
    exception = failure_of(exception)
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

    async def answer(question: Question) -> Answer:
        return send(question)

    try:
        drive_async(steps, answer).send(None)  # which never suspends
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError


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
