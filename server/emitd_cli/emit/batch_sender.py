"""Many records to a server: in batches, several calls at a time, each retried until the server answers.

Since calls overlap, records of different batches may be committed in another order than that of the input.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import grpc

from emitd.transport.grpc_transport import MAX_REQUEST_BYTES
from emitd.transport.reply import bad_field
from emitd.v1 import DELIVERY_COMMITTED, EmitBatchRequest, EmitBatchResponse, LogServiceStub, RecordError
from emitd_cli.connection import (
    cannot_tell,
    describe,
    is_refusal,
    is_retryable,
    result_of,
    retry_delay_seconds,
    retry_seconds,
)
from emitd_cli.emit.record_lines import Line
from emitd_cli.errors import CannotTell
from emitd_cli.terminal.console import make_console
from emitd_cli.terminal.output import say, tell

CALLS_IN_FLIGHT = 4
CALL_SECONDS = 60.0
#: What a record takes in a request besides its own bytes, at most: its tag and its length.
RECORD_FRAME_BYTES = 6
#: The code of a line that makes no record: the server's own for a record that is wrong.
_BAD_LINE = grpc.StatusCode.INVALID_ARGUMENT.name
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
#: So many refused lines are told one by one.
SHOWN_REFUSALS = 20


class SendSummary(NamedTuple):
    """What became of the records."""

    #: Accepted, and committed by at least one handler.
    committed: int = 0
    #: Accepted by handlers that keep them in a queue first.
    queued: int = 0
    #: Accepted before, by an earlier run or by a call whose answer was lost.
    duplicates: int = 0
    refused: int = 0
    #: Of those accepted: job reports that changed nothing.
    not_applied: int = 0

    @property
    def records(self) -> int:
        """How many records there were."""
        return self.committed + self.queued + self.duplicates + self.refused

    def in_words(self) -> str:
        """Return the line to end with."""
        parts = {
            "committed": self.committed,
            "queued": self.queued,
            "accepted before": self.duplicates,
            "refused": self.refused,
            "not applied": self.not_applied,
        }
        said = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
        return f"{self.records} record{'s' * (self.records != 1)}" + (f": {said}" if said else "")


#: Moves the progress bar: so many more bytes of the input are done.
Advance: TypeAlias = Callable[[int], None]


class _Again(NamedTuple):
    """Lines worth another try, after a pause, and why: what to end with where there is no time for it."""

    lines: Sequence[Line]
    pause_seconds: float
    reason: CannotTell


class BatchSender:
    """Sends batches of lines, and counts what becomes of them in `summary`.

    Refused lines are told on standard error. Raises CannotTell when the server accepts a batch neither at once
    nor within `retry_seconds`.
    """

    def __init__(self, stub: LogServiceStub, address: str, retry_seconds: float, advance: Advance) -> None:
        self._stub = stub
        self._address = address
        self._retry_seconds = retry_seconds
        self._advance = advance
        self._under_way: deque[tuple[Sequence[Line], grpc.Future[EmitBatchResponse]]] = deque()
        #: A call has failed, and none has succeeded since.
        self._troubled = False
        #: It was told that an answer takes long.
        self._is_slow = False
        self.summary = SendSummary()

    def send(self, lines: Sequence[Line]) -> None:
        """Begin to send lines; waits for the oldest call when too many are under way."""
        good: list[Line] = []
        size = 0
        for line in lines:
            if line.record is None:
                self._refuse(line, line.problem, _BAD_LINE)
                continue
            record_size = line.record.ByteSize() + RECORD_FRAME_BYTES
            if size + record_size > MAX_REQUEST_BYTES:
                self._begin(good)
                good, size = [], 0
            good.append(line)
            size += record_size
        self._begin(good)

    def _begin(self, lines: Sequence[Line]) -> None:
        if lines:
            self._under_way.append((lines, self._call(lines)))
        if len(self._under_way) >= CALLS_IN_FLIGHT:
            self._settle_oldest()

    def finish(self) -> None:
        """Wait for all calls under way."""
        while self._under_way:
            self._settle_oldest()

    def _settle_oldest(self) -> None:
        """Wait for the oldest call, and send again what it did not take."""
        lines, call = self._under_way.popleft()
        give_up_at = time.monotonic() + self._retry_seconds
        while again := self._take_answer(lines, call):
            if time.monotonic() + again.pause_seconds > give_up_at:
                raise _gave_up(again.reason, again.lines)
            if not self._troubled:
                say(f"{again.reason}; trying again for {self._retry_seconds:g} s")
                self._troubled = True
            time.sleep(again.pause_seconds)
            lines = again.lines
            call = self._call(lines)
        self._troubled = False

    def _call(self, lines: Sequence[Line]) -> grpc.Future[EmitBatchResponse]:
        request = EmitBatchRequest(
            records=[line.record for line in lines if line.record is not None], want_receipts=True
        )
        call: grpc.Future[EmitBatchResponse] = self._stub.EmitBatch.future(request, timeout=CALL_SECONDS)
        return call

    def _take_answer(self, lines: Sequence[Line], call: grpc.Future[EmitBatchResponse]) -> _Again | None:
        try:
            return self._count(lines, result_of(call, self._address, self._say_slow))
        except grpc.RpcError as error:
            if is_retryable(error):
                return _Again(lines, retry_seconds(error), cannot_tell(error, self._address))
            if not is_refusal(error):
                raise _gave_up(cannot_tell(error, self._address), lines) from error
            for line in lines:
                self._refuse(line, describe(error, self._address), error.code().name)
            return None

    def _say_slow(self, text: str) -> None:
        if not self._is_slow:
            say(text)
            self._is_slow = True

    def _count(self, lines: Sequence[Line], response: EmitBatchResponse) -> _Again | None:
        """Add up a reply; return the lines worth another try."""
        committed = sum(
            not receipt.duplicate and any(h.delivery == DELIVERY_COMMITTED for h in receipt.handlers)
            for receipt in response.receipts
        )
        self.summary = self.summary._replace(
            committed=self.summary.committed + committed,
            queued=self.summary.queued + response.accepted_count - committed,
            duplicates=self.summary.duplicates + response.duplicate_count,
            not_applied=self.summary.not_applied + sum(bool(n.stale_reason) for n in response.job_notices),
        )
        refused = {error.index for error in response.errors}
        self._advance(sum(line.size for index, line in enumerate(lines) if index not in refused))
        retryable = [error for error in response.errors if error.retryable]
        for error in response.errors:
            if not error.retryable:
                self._refuse(lines[error.index], _problem(error), _code(error), _field(error))
        if not retryable:
            return None
        pause = max(retry_delay_seconds(error.status) for error in retryable)
        first = retryable[0]
        reason = CannotTell(_problem(first), code=_code(first), field=_field(first))
        return _Again([lines[error.index] for error in retryable], pause, reason)

    def _refuse(self, line: Line, problem: str, code: str, field: str = "") -> None:
        self.summary = self.summary._replace(refused=self.summary.refused + 1)
        if self.summary.refused <= SHOWN_REFUSALS:
            tell(problem, code=code, field=field, line=line.number)
        self._advance(line.size)


def _gave_up(reason: CannotTell, lines: Sequence[Line]) -> CannotTell:
    return CannotTell(f"{reason}; gave up at line {lines[0].number}", code=reason.code, field=reason.field)


def _problem(error: RecordError) -> str:
    return _in_record(error, str(error.status.message)) or _code(error)


def _field(error: RecordError) -> str:
    return _in_record(error, bad_field(error.status.details))


def _in_record(error: RecordError, text: str) -> str:
    # The place in the batch says nothing to whoever wrote the file.
    return text.removeprefix(f"records[{error.index}]").lstrip(".: ")


def _code(error: RecordError) -> str:
    return _CODES.get(error.status.code, grpc.StatusCode.UNKNOWN.name)


@contextmanager
def show_progress(size: int | None) -> Iterator[Advance]:
    """Show a bar on standard error, where that is a terminal, the size is known and `rich` is installed."""
    if size is None or not sys.stderr.isatty():
        yield lambda size: None
        return
    try:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    except ImportError:
        yield lambda size: None
        return
    columns = ("sending", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("send", total=size)
        yield lambda size: progress.advance(task, size)
