"""A command's connection to its server, and how the errors of calls end a command."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import grpc

from emitd.transport.channel import NoChannel, make_async_channel, make_channel
from emitd.transport.reply import bad_field, details_of, is_retryable, is_unanswered, retry_delay
from emitd.v1 import AuditServiceStub, EmitRequest, LogRecord, LogServiceStub, Receipt
from emitd.watches import Watch
from emitd_cli.errors import CannotTell, CommandError, Misuse, Refused
from emitd_cli.terminal.output import say
from emitd_cli.terminal.streams import end_with_reader

Response = TypeVar("Response")

CALL_SECONDS = 30.0
#: A server sends no more jobs, transitions or events in one answer.
MAX_PAGE_SIZE = 1000
#: The pause before the next try if the server does not say, and the shortest one if it does.
DEFAULT_RETRY_SECONDS = 0.5
MIN_RETRY_SECONDS = 0.05

#: Statuses by which the server refuses what it was sent.
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


class Server:
    """The server of a command, by its stubs."""

    def __init__(self, address: str, channel: grpc.Channel) -> None:
        self.address = address
        self.log = LogServiceStub(channel)
        self.audit = AuditServiceStub(channel)

    def ask(self, method: Any, request: Any) -> Any:
        """Ask by a stub's method, and return the response. Raises Misuse and CannotTell."""
        try:
            return method(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error, self.address) from error

    def emit(self, record: LogRecord) -> Receipt:
        """Send a record, and return its receipt. Raises Refused and CannotTell."""
        try:
            receipt: Receipt = self.log.Emit(EmitRequest(record=record), timeout=CALL_SECONDS).receipt
        except grpc.RpcError as error:
            raise error_of(error, self.address, Refused if is_refusal(error) else CannotTell) from error
        return receipt

    def pages(self, method: Any, request: Any, items: str = "", limit: int = sys.maxsize) -> Iterator[Any]:
        """Yield the responses to a request, page by page, up to `limit` of the field `items` in them.

        Then the request's `page_token` is not empty if there are more. Raises as `ask` does.
        """
        size = request.page_size or MAX_PAGE_SIZE
        while limit > 0:
            request.page_size = min(limit, size)
            response = self.ask(method, request)
            request.page_token = response.next_page_token
            yield response
            if not request.page_token:
                return
            limit -= len(getattr(response, items)) if items else 0

    def follow(
        self,
        method: Any,
        watch: Watch[Response],
        show: Callable[[Response], None],
        place: Callable[[], str] = lambda: "",
    ) -> NoReturn:
        """Show the messages of a stream that has no end, over as many connections as it takes; say so.

        `place` returns where another connection goes on, for people. The pauses are those of the outage, and not of the
        watch. Raises Misuse, and CannotTell.
        """
        end_with_reader()
        outage = Outage(self.address, retry_seconds=None, is_patient=False)
        while True:
            opened_at = time.monotonic()
            try:
                for response in method(watch.call.request):
                    if outage.answered(opened_at):
                        say(f"{self.address} answers again; going on{place()}")
                    show(response)
                    watch.take(response)  # the next connection goes on here
            except grpc.RpcError as error:
                seconds, note = outage.pause_after(error, opened_at)
            else:
                raise CannotTell("the server ended the stream without a word")
            if note:
                say(note)
            time.sleep(seconds)


class Outage:
    """Whether and how long to wait for a server that went away: once for all streams of a command.

    `retry_seconds` None: until it is back. `is_patient`: also wait for a server that has not answered at all; its
    address is probably wrong. Times are those of the monotonic clock.
    """

    def __init__(self, address: str, *, retry_seconds: float | None, is_patient: bool) -> None:
        self._address = address
        self._retry_seconds = retry_seconds
        self._is_patient = is_patient
        #: When the server stopped to answer, and when the stream was opened that found it back.
        self._lost_at: float | None = None
        self._back_at = 0.0

    def answered(self, opened_at: float) -> bool:
        """Note a message of a stream that was opened at this time; return whether it ends an outage."""
        self._is_patient = True
        if self._lost_at is None or opened_at < self._lost_at:  # sent before another stream broke
            return False
        self._lost_at, self._back_at = None, opened_at
        return True

    def pause_after(self, error: grpc.RpcError, opened_at: float) -> tuple[float, str]:
        """Return how long to wait before the next connection, and what to say, if anything.

        Raises Misuse or CannotTell if there is no point in another connection.
        """
        end = error_of(error, self._address)
        if not is_retryable(error) or not self._is_patient:
            raise end from error
        now, seconds = time.monotonic(), retry_seconds(details_of(error))
        since = now if self._lost_at is None else self._lost_at
        if self._retry_seconds is not None and now + seconds > since + self._retry_seconds:
            raise end from error
        # A stream that is older than the server's return broke in the last outage.
        if self._lost_at is not None or opened_at < self._back_at:
            return seconds, ""
        self._lost_at = now
        how_long = "until it answers (Ctrl-C ends it)" if self._retry_seconds is None else None
        return seconds, f"{end}; trying again {how_long or f'for {self._retry_seconds:g} s'}"


@contextmanager
def connect(address: str) -> Iterator[Server]:
    """Give the server at `address`; calls wait for nothing but their own deadline. Raises Misuse, CannotTell."""
    with _address_errors(address):
        channel = make_channel(address)
    with channel:
        yield Server(address, channel)


def connect_async(address: str) -> grpc.aio.Channel:
    """Return a channel of grpc.aio to the server at `address`. Raises Misuse, CannotTell."""
    with _address_errors(address):
        return make_async_channel(address)


@contextmanager
def _address_errors(address: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Misuse(f"--address: {error}", field="--address") from error
    except NoChannel as error:
        raise error_of(error, address) from error


def error_of(error: grpc.RpcError, address: str, kind: type[CommandError] | None = None) -> CommandError:
    """Return the error that ends a command whose call failed: by default what a failed question is, no verdict."""
    if kind is None:
        is_wrong = error.code() is grpc.StatusCode.INVALID_ARGUMENT and not is_retryable(error)
        kind = Misuse if is_wrong else CannotTell
    return kind(describe(error, address), code=error.code().name, field=bad_field(details_of(error)))


def describe(error: grpc.RpcError, address: str) -> str:
    """Return an error of a call in one line."""
    if is_unanswered(error):
        return f"cannot reach {address}; is the service running there? (--address, or EMITD_ADDRESS)"
    return f"{error.code().name}: {error.details()}"


def is_refusal(error: grpc.RpcError) -> bool:
    """Return whether the server has refused what was sent, for good."""
    return error.code() in _REFUSALS and not is_retryable(error)


def retry_seconds(details: Sequence[Any]) -> float:
    """Return how long to wait before another try, by the details of a failed call or of a refused record."""
    seconds = retry_delay(details)
    return DEFAULT_RETRY_SECONDS if seconds is None else max(seconds, MIN_RETRY_SECONDS)
