"""A command's connection to its server, and how the errors of calls end a command."""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import grpc

from emitd.credentials import Credentials, Metadata
from emitd.settings import ClientSettings
from emitd.transport.channel import CallFailed, NoChannel, make_async_channel, make_channel
from emitd.transport.reply import bad_field, details_of, goes_on, is_retryable, is_unanswered, retry_delay
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

#: The settings of a client that a command has, and those of them that are flags: a token would be seen by `ps`.
_SETTINGS = ("address", "tls", "ca_file", "cert_file", "key_file", "token", "token_file")
_FLAGS = [name for name in _SETTINGS if name != "token"]
VARIABLES = [f"EMITD_{name.upper()}" for name in _SETTINGS]

#: Statuses by which the server refuses what it was sent. UNAUTHENTICATED says nothing of it.
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
)


class Server:
    """The server of a command, by its stubs."""

    def __init__(self, credentials: Credentials, channel: grpc.Channel) -> None:
        self.address = credentials.address
        self.credentials = credentials
        self.log = LogServiceStub(channel)
        self.audit = AuditServiceStub(channel)

    def ask(self, method: Any, request: Any) -> Any:
        """Ask by a stub's method, and return the response. Raises Misuse and CannotTell."""
        try:
            with calling(self.credentials) as metadata:
                return method(request, timeout=CALL_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            raise error_of(error, self.address) from error

    def emit(self, record: LogRecord) -> Receipt:
        """Send a record, and return its receipt. Raises Refused and CannotTell."""
        try:
            with calling(self.credentials) as metadata:
                response = self.log.Emit(EmitRequest(record=record), timeout=CALL_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            raise error_of(error, self.address, Refused if is_refusal(error) else CannotTell) from error
        receipt: Receipt = response.receipt
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
                with calling(self.credentials) as metadata:
                    for response in method(watch.call.request, metadata=metadata):
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
        if goes_on(error):
            return 0.0, ""
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
def connect(options: Namespace) -> Iterator[Server]:
    """Give the server of a command; calls wait for nothing but their own deadline. Raises Misuse, CannotTell."""
    credentials = credentials_of(options)
    with _no_channel_ends(credentials):
        channel = make_channel(credentials)
    with channel:
        yield Server(credentials, channel)


def connect_async(credentials: Credentials) -> grpc.aio.Channel:
    """Return a channel of grpc.aio to a server. Raises CannotTell."""
    with _no_channel_ends(credentials):
        return make_async_channel(credentials)


def credentials_of(options: Namespace) -> Credentials:
    """Return where a command finds its server, and how, by its flags and the environment. Raises Misuse."""
    environ = {name: value for name in VARIABLES if (value := os.environ.get(name))}
    try:
        given = {name: getattr(options, name, None) for name in _FLAGS} | {
            "tls": vars(options).get("tls") or None
        }
        return ClientSettings.read(given, environ).credentials()
    except ValueError as error:
        name, _, why = str(error).partition(": ")
        flag = f"--{name.replace('_', '-')}" if name in _SETTINGS else name
        raise Misuse(f"{flag}: {why}", field=flag) from error


@contextmanager
def calling(credentials: Credentials, metadata: Metadata | None = None) -> Iterator[Metadata | None]:
    """Give the metadata for a call, by default that of now, and have its failure say what is known: CallFailed."""
    metadata = metadata or credentials.metadata()
    try:
        yield metadata
    except grpc.RpcError as error:
        raise CallFailed.copy_of(error, credentials, metadata) from error


@contextmanager
def _no_channel_ends(credentials: Credentials) -> Iterator[None]:
    try:
        yield
    except NoChannel as error:
        raise error_of(error, credentials.address) from error


def error_of(error: grpc.RpcError, address: str, kind: type[CommandError] | None = None) -> CommandError:
    """Return the error that ends a command whose call failed: by default what a failed question is, no verdict."""
    if kind is None:
        is_wrong = error.code() is grpc.StatusCode.INVALID_ARGUMENT and not is_retryable(error)
        kind = Misuse if is_wrong else CannotTell
    return kind(describe(error, address), code=error.code().name, field=bad_field(details_of(error)))


def describe(error: grpc.RpcError, address: str) -> str:
    """Return an error of a call in one line."""
    if cause := getattr(error, "cause", ""):
        return str(cause)
    if is_unanswered(error):
        return f"cannot reach {address}; is the service running there? (--address, or EMITD_ADDRESS)"
    return f"{error.code().name}: {error.details()}"


def is_refusal(error: grpc.RpcError) -> bool:
    """Return whether the server has refused what was sent, for good or until a grant allows it."""
    is_denied = error.code() is grpc.StatusCode.PERMISSION_DENIED
    return is_denied or (error.code() in _REFUSALS and not is_retryable(error))


def retry_seconds(details: Sequence[Any]) -> float:
    """Return how long to wait before another try, by the details of a failed call or of a refused record."""
    seconds = retry_delay(details)
    return DEFAULT_RETRY_SECONDS if seconds is None else max(seconds, MIN_RETRY_SECONDS)
