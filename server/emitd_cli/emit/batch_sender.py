"""Many records to a server: in batches, several calls at a time, each retried until the server answers.

Calls overlap, so records of different batches may be committed in another order than that of the input.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import grpc

from emitd.credentials import Metadata
from emitd.transport.grpc_transport import MAX_REQUEST_BYTES
from emitd.transport.reply import bad_field, details_of, is_retryable
from emitd.v1 import DELIVERY_COMMITTED, EmitBatchRequest, EmitBatchResponse, RecordError
from emitd_cli.connection import Server, calling, error_of, is_refusal, retry_seconds
from emitd_cli.emit.record_lines import Line
from emitd_cli.errors import CannotTell, CommandError
from emitd_cli.terminal.output import say, tell

CALLS_IN_FLIGHT = 4
CALL_SECONDS = 60.0
#: What a record takes in a request besides its own bytes, at most: its tag and its length.
RECORD_FRAME_BYTES = 6
#: The code of a line that makes no record: the server's own for a record that is wrong.
_BAD_LINE = grpc.StatusCode.INVALID_ARGUMENT.name
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
#: At most this many refused lines are shown, and as many mended ones.
SHOWN_REFUSALS = 20


#: A call, and its metadata.
_Call: TypeAlias = "tuple[grpc.Future[EmitBatchResponse], Metadata | None]"


class SendSummary(NamedTuple):
    """What became of the records."""

    #: Accepted, and committed by at least one handler.
    committed: int = 0
    #: Accepted by handlers that queue them.
    queued: int = 0
    #: Accepted before, in an earlier run or by a call whose answer was lost.
    duplicates: int = 0
    refused: int = 0
    #: Of those accepted: job reports that changed nothing.
    not_applied: int = 0
    #: Of all records: lines that were not good UTF-8, and were mended.
    mended: int = 0

    @property
    def records(self) -> int:
        """How many records there were."""
        return self.committed + self.queued + self.duplicates + self.refused

    def in_words(self) -> str:
        """Return the last line of the command."""
        names = {"duplicates": "accepted before", "not_applied": "not applied"}
        parts = [f"{count} {names.get(name, name)}" for name, count in self._asdict().items() if count]
        return f"{self.records} record{'s' * (self.records != 1)}" + (
            f": {', '.join(parts)}" if parts else ""
        )


#: Moves the progress bar by a number of bytes of the input.
Advance: TypeAlias = Callable[[int], None]


class _Again(NamedTuple):
    """Lines worth another try after a pause, and the error that ends the command if there is no time for it."""

    lines: Sequence[Line]
    pause_seconds: float
    reason: CommandError


class BatchSender:
    """Sends batches of lines, counts their outcomes in `summary`, and says on standard error which were refused.

    Raises CannotTell if the server accepts a batch neither at once nor within `retry_seconds`.
    """

    def __init__(self, server: Server, retry_seconds: float, advance: Advance) -> None:
        self._server = server
        self._retry_seconds = retry_seconds
        self._advance = advance
        self._in_flight: deque[tuple[Sequence[Line], _Call]] = deque()
        #: A call has failed, and none has succeeded since.
        self._is_troubled = False
        self.summary = SendSummary()

    def send(self, lines: Sequence[Line]) -> None:
        """Begin to send lines; wait for the oldest call if there are too many."""
        good: list[Line] = []
        size = 0
        for line in lines:
            if line.record is None:
                self._refuse(line, line.problem, _BAD_LINE)
                continue
            if line.problem:
                self._note_mended(line)
            record_size = line.record.ByteSize() + RECORD_FRAME_BYTES
            if size + record_size > MAX_REQUEST_BYTES:
                self._begin(good)
                good, size = [], 0
            good.append(line)
            size += record_size
        self._begin(good)

    def _begin(self, lines: Sequence[Line]) -> None:
        if lines:
            self._in_flight.append((lines, self._call(lines)))
        if len(self._in_flight) >= CALLS_IN_FLIGHT:
            self._resolve_oldest()

    def finish(self) -> None:
        """Wait for all calls."""
        while self._in_flight:
            self._resolve_oldest()

    def _resolve_oldest(self) -> None:
        """Wait for the oldest call, and send again what it did not take."""
        lines, call = self._in_flight.popleft()
        give_up_at = time.monotonic() + self._retry_seconds
        while again := self._take_answer(lines, call):
            if time.monotonic() + again.pause_seconds > give_up_at:
                raise _gave_up(again.reason, again.lines)
            if not self._is_troubled:
                say(f"{again.reason}; trying again for {self._retry_seconds:g} s")
                self._is_troubled = True
            time.sleep(again.pause_seconds)
            lines, call = again.lines, self._call(again.lines)
        self._is_troubled = False

    def _call(self, lines: Sequence[Line]) -> _Call:
        request = EmitBatchRequest(records=[line.record for line in lines if line.record], want_receipts=True)
        metadata = self._server.credentials.metadata()
        call = self._server.log.EmitBatch.future(request, timeout=CALL_SECONDS, metadata=metadata)
        return call, metadata

    def _take_answer(self, lines: Sequence[Line], begun: _Call) -> _Again | None:
        call, metadata = begun
        try:
            with calling(self._server.credentials, metadata):
                response = call.result()
        except grpc.RpcError as error:
            reason = error_of(error, self._server.address)
            if is_retryable(error):
                return _Again(lines, retry_seconds(details_of(error)), reason)
            if not is_refusal(error):
                raise _gave_up(reason, lines) from error
            for line in lines:
                self._refuse(line, str(reason), reason.code)
            return None
        self._count(lines, response)
        retryable = [error for error in response.errors if error.retryable]
        if not retryable:
            return None
        pause = max(retry_seconds(error.status.details) for error in retryable)
        reason = CannotTell(_problem(retryable[0]), code=_code(retryable[0]), field=_field(retryable[0]))
        return _Again([lines[error.index] for error in retryable], pause, reason)

    def _count(self, lines: Sequence[Line], response: EmitBatchResponse) -> None:
        committed = sum(
            not receipt.duplicate and any(h.delivery == DELIVERY_COMMITTED for h in receipt.handlers)
            for receipt in response.receipts
        )
        summary = self.summary
        self.summary = summary._replace(
            committed=summary.committed + committed,
            queued=summary.queued + response.accepted_count - committed,
            duplicates=summary.duplicates + response.duplicate_count,
            not_applied=summary.not_applied + sum(bool(n.stale_reason) for n in response.job_notices),
        )
        not_accepted = {error.index for error in response.errors}
        self._advance(sum(line.size for index, line in enumerate(lines) if index not in not_accepted))
        for error in response.errors:
            if not error.retryable:
                self._refuse(lines[error.index], _problem(error), _code(error), _field(error))

    def _note_mended(self, line: Line) -> None:
        self.summary = self.summary._replace(mended=self.summary.mended + 1)
        if self.summary.mended <= SHOWN_REFUSALS:
            say(f"line {line.number}: {line.problem}")

    def _refuse(self, line: Line, problem: str, code: str, field: str = "") -> None:
        self.summary = self.summary._replace(refused=self.summary.refused + 1)
        if self.summary.refused <= SHOWN_REFUSALS:
            tell(problem, code=code, field=field, line=line.number)
        self._advance(line.size)


def _gave_up(reason: CommandError, lines: Sequence[Line]) -> CannotTell:
    return CannotTell(f"{reason}; gave up at line {lines[0].number}", code=reason.code, field=reason.field)


def _problem(error: RecordError) -> str:
    return _in_record(error, str(error.status.message)) or _code(error)


def _field(error: RecordError) -> str:
    return _in_record(error, bad_field(error.status.details))


def _in_record(error: RecordError, text: str) -> str:
    # The place in the batch means nothing to the author of the file.
    return text.removeprefix(f"records[{error.index}]").lstrip(".: ")


def _code(error: RecordError) -> str:
    return _CODES.get(error.status.code, grpc.StatusCode.UNKNOWN.name)
