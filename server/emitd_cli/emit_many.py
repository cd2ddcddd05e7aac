"""Many records to a server: in batches, several calls at a time, each retried until the server answers."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import grpc

from emitd.v1 import EmitBatchRequest, EmitBatchResponse, LogServiceStub
from emitd_cli.connection import CannotReach, is_retryable, retry_seconds, say
from emitd_cli.record_lines import Line

__all__ = ["Tally", "send_all"]

CALLS_IN_FLIGHT = 4
CALL_SECONDS = 60.0
#: The wait before records that a reply calls retryable are sent again.
REFUSED_RETRY_SECONDS = 0.5
#: So many refused lines are told one by one.
SHOWN_REFUSALS = 20


class Tally(NamedTuple):
    """What became of the records."""

    accepted: int = 0
    duplicates: int = 0
    #: Of those accepted: job reports that changed nothing.
    not_applied: int = 0
    refused: int = 0


class _Bar(Protocol):
    def __call__(self, size: int) -> None:
        """Note that so many bytes of the input are done."""


class _Sender:
    def __init__(self, stub: LogServiceStub, options: argparse.Namespace, advance: _Bar) -> None:
        self._stub = stub
        self._options = options
        self._advance = advance
        self._under_way: deque[tuple[Sequence[Line], grpc.Future[EmitBatchResponse]]] = deque()
        self.tally = Tally()

    def send(self, lines: Sequence[Line]) -> None:
        """Begin to send lines; waits for the oldest call when too many are under way."""
        good = [line for line in lines if line.record is not None]
        for line in lines:
            if line.record is None:
                self._refuse(line, line.problem)
        if good:
            self._under_way.append((good, self._call(good)))
        if len(self._under_way) >= CALLS_IN_FLIGHT:
            self.settle_oldest()

    def settle(self) -> None:
        """Wait for all calls under way."""
        while self._under_way:
            self.settle_oldest()

    def settle_oldest(self) -> None:
        """Wait for the oldest call, retrying it and what it did not take."""
        lines, call = self._under_way.popleft()
        give_up_at = time.monotonic() + self._options.retry_seconds
        while lines:
            try:
                again, pause = self._count(lines, call.result()), REFUSED_RETRY_SECONDS
            except grpc.RpcError as error:
                again, pause = self._after_error(lines, error)
            if again and time.monotonic() + pause > give_up_at:
                raise CannotReach(self._options.address)
            if again:
                time.sleep(pause)
                call = self._call(again)
            lines = again

    def _call(self, lines: Sequence[Line]) -> grpc.Future[EmitBatchResponse]:
        request = EmitBatchRequest(records=[line.record for line in lines if line.record is not None])
        call: grpc.Future[EmitBatchResponse] = self._stub.EmitBatch.future(request, timeout=CALL_SECONDS)
        return call

    def _after_error(self, lines: Sequence[Line], error: grpc.RpcError) -> tuple[Sequence[Line], float]:
        if is_retryable(error):
            return lines, retry_seconds(error)
        for line in lines:
            self._refuse(line, f"{error.code().name}: {error.details()}")
        return (), 0.0

    def _count(self, lines: Sequence[Line], response: EmitBatchResponse) -> Sequence[Line]:
        """Add up a reply; return the lines worth another try."""
        again = []
        for error in response.errors:
            if error.retryable:
                again.append(lines[error.index])
            else:
                # The place in the batch says nothing to whoever wrote the file.
                self._refuse(
                    lines[error.index], error.status.message.removeprefix(f"records[{error.index}].")
                )
        stale = sum(bool(notice.stale_reason) for notice in response.job_notices)
        self.tally = self.tally._replace(
            accepted=self.tally.accepted + response.accepted_count,
            duplicates=self.tally.duplicates + response.duplicate_count,
            not_applied=self.tally.not_applied + stale,
        )
        self._advance(sum(line.size for line in lines) - sum(line.size for line in again))
        return again

    def _refuse(self, line: Line, problem: str) -> None:
        self.tally = self.tally._replace(refused=self.tally.refused + 1)
        if self.tally.refused <= SHOWN_REFUSALS:
            say(f"line {line.number}: {problem}")
        self._advance(line.size)


def send_all(
    stub: LogServiceStub, batches: Iterable[Sequence[Line]], size: int | None, options: argparse.Namespace
) -> Tally:
    """Send the records of every batch; tell what is refused on standard error, and show a bar for a known size.

    Raises CannotReach when the server does not answer for longer than `options.retry_seconds`.
    """
    with _progress(size) as advance:
        sender = _Sender(stub, options, advance)
        for batch in batches:
            sender.send(batch)
        sender.settle()
    return sender.tally


@contextmanager
def _progress(size: int | None) -> Iterator[_Bar]:
    """A bar on standard error, where that is a terminal, the size is known and `rich` is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    except ImportError:
        size = None
    if size is None:
        yield lambda size: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda size: None
        return
    columns = ("sending", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("send", total=size)
        yield lambda size: progress.advance(task, size)
