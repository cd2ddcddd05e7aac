"""`InProcessClient`: an `AsyncLogClient` of a `LoggingService` in the same process.

    async with LoggingService.from_config("logging_config.yml") as service:
        logger = service.client(source="shop")
        logger.info("order taken", order=17)
        receipt = await logger.audit("order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17})

Its calls and messages are those of a remote client. Records go to the service through its `Ingress`, questions through
an `InProcessReader`; there is no channel, no spool and no thread.
"""

import asyncio
import re
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from emitd.async_client import AsyncLogClient
from emitd.context import current_attributes
from emitd.errors import ClientNotOpen, Unavailable
from emitd.jobs.track import AsyncTrack
from emitd.receipt import Receipt, ReceiptState
from emitd.records.audit import next_record_id
from emitd.records.encoding import as_text, encode_attributes
from emitd.settings import ClientSettings
from emitd.transport.async_reader import AsyncReader
from emitd.transport.channel import CallFailed
from emitd.transport.reply import is_retryable
from emitd.v1 import record_pb2 as pb
from emitd_handlers.errors import EmitdError
from emitd_handlers.scope import ANYONE, Caller
from emitd_server.config.loader import Config
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.errors import ServiceStopping
from emitd_server.in_process.ingress import Ingress, call_failure

if TYPE_CHECKING:
    from emitd.interface import AsyncLogger

T = TypeVar("T")
Response = TypeVar("Response")


class InProcessEngine:
    """What an `AsyncLogClient` asks of its `Engine`, done by the ingress that all clients of a service share."""

    def __init__(self, ingress: Ingress, source: str) -> None:
        self._ingress = ingress
        self._source = source
        self.events = ingress.tickers
        #: Set for a client and for all that `bind` made of it.
        self.is_closed = False

    def write(self, level: int, message: str, attributes: Mapping[str, object]) -> None:
        """Queue a log line. Never waits, never raises."""
        if self.is_closed:
            self._ingress.lines.drop("closed")
            return
        try:
            if context := current_attributes():
                attributes = {**context, **attributes}
            line = pb.LogRecord(
                record_id=next_record_id(),
                time_unix_nano=time.time_ns(),
                level=cast("pb.Level", level),
                message=as_text(message),
                source=self._source,
                attributes_json=encode_attributes(attributes),
            )
            self._ingress.lines.put(line)
        except Exception as error:
            self.note_fault(level, error)

    def note_fault(self, level: int, error: Exception) -> None:
        """Count a line that a fault of its own keeps from being sent."""
        self._ingress.lines.drop("internal_error", why=repr(error))

    def refuse_if_closed(self) -> None:
        """Raise ClientNotOpen if the client is closed or the service not running, RuntimeError in another loop."""
        if self.is_closed:
            raise ClientNotOpen("the client is closed")
        if not self._ingress.service.is_running:
            raise ClientNotOpen("the service is not running: use the client inside of its `async with`")
        self._ingress.refuse_other_loops()

    def drop(self, cause: str, level: int, why: str = "", count: int = 1) -> None:
        """Report to the operator that an audit event was not committed: its caller no longer waits."""
        self.report_line(f"an audit event, whose caller no longer waited, was not committed: {why}")

    def report_line(self, text: str) -> None:
        """Report a line to the operator."""
        self._ingress.report(text)

    def stats(self) -> Mapping[str, int]:
        """Return what became of all records of this process."""
        return dict(self._ingress.counts)


class InProcessReader(AsyncReader):
    """Asks the service itself. A stream that breaks is not opened again."""

    def __init__(
        self, ingress: Ingress, settings: ClientSettings, refuse_if_closed: Callable[[], None]
    ) -> None:
        super().__init__(settings, refuse_if_closed)
        self._ingress = ingress

    async def _try(
        self, method: str, request: Any, response: type[Response], timeout: float
    ) -> Response | CallFailed:
        try:
            answer = await self._served(method)(request.SerializeToString(), ANYONE)
            return response.FromString(answer)  # type: ignore[attr-defined, no-any-return]
        except EmitdError as error:
            return call_failure(error)

    def stream(  # type: ignore[override]  # it has what the client asks of one
        self, method: str, request: Any, response: type[Response]
    ) -> AsyncGenerator[Response, None]:
        """Return the messages of a stream, which counts towards the service's limits.

        Its steps raise Unavailable, and grpc.RpcError for what another try cannot help.
        """
        self._refuse_if_closed()
        return self._messages(method, request, response)

    async def _messages(
        self, method: str, request: Any, response: type[Response]
    ) -> AsyncGenerator[Response, None]:
        try:
            # Closed here, so that leaving early frees the watcher at once.
            async with aclosing(self._served(method)(request.SerializeToString(), ANYONE)) as messages:
                async for data in messages:
                    message = response.FromString(data)  # type: ignore[attr-defined]
                    if message.heartbeat and not self._ingress.service.is_running:
                        raise ServiceStopping
                    yield message
        except EmitdError as error:
            failure = call_failure(error)
            raise (Unavailable(str(error)) if is_retryable(failure) else failure) from error

    def _served(self, method: str) -> Callable[[bytes, Caller], Any]:
        """Return what serves a method, such as `WatchJob`, or `AuditService/GetCheckpoint` with its service."""
        service, _, name = method.rpartition("/")
        servicer = self._ingress.servicers[service or "LogService"]
        return getattr(servicer, re.sub(r"\B[A-Z]", r"_\g<0>", name).lower())  # type: ignore[no-any-return]


class InProcessClient(AsyncLogClient):
    """Made by `LoggingService.client`. `emitd.AsyncLogger` says what its calls do.

    All clients of a service share its queue of log lines (10,000 of them, 64 MiB in all), and `stats`. An audit event
    is COMMITTED or an error. A watch ends with Unavailable when the service stops.
    """

    _engine: InProcessEngine  # type: ignore[assignment]  # it has what the base class asks for

    def __init__(self, service: Dispatcher, *, source: str = "", owns_service: bool = False) -> None:
        """Use `service`; with `owns_service`, opening and closing this client starts and stops it."""
        # Not `super().__init__`: it would make an engine with threads and a channel.
        self._service = service
        self._owns_service = owns_service
        self._ingress = Ingress.of(service)
        self._settings = ClientSettings(source=as_text(source))
        self._threshold = self._settings.threshold
        self._bound: Mapping[str, object] = {}
        self._engine = InProcessEngine(self._ingress, self._settings.source)
        self._reader = InProcessReader(self._ingress, self._settings, self._engine.refuse_if_closed)
        self._tracks: weakref.WeakSet[AsyncTrack[Any]] = weakref.WeakSet()

    @classmethod
    def from_config(cls, config: Config | Path | str | None, *, source: str = "") -> Self:
        """Return a client with a service of its own, which lives as long as the client is open.

        Raises ConfigError as `Dispatcher.from_config` does, and opening it StartError.
        """
        return cls(Dispatcher.from_config(config), source=source, owns_service=True)

    async def __aenter__(self) -> Self:
        if self._owns_service:
            await self._service.start()
        return self

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every line logged so far is with its handlers, or counted as dropped."""
        self._ingress.refuse_other_loops()
        return await self._ingress.lines.flush(timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Flush for `timeout` seconds (None: `server.shutdown.drain_seconds`), and stop a service of its own."""
        if self._engine.is_closed:
            return
        self._engine.is_closed = True
        await asyncio.gather(*[track.aclose() for track in self._tracks])
        if self._owns_service:
            await self._service.stop(timeout)
            await self._ingress.close(0)  # if it was never started, what waits for that is lost, and reported
        else:
            await self.flush(self._service.settings.shutdown.drain_seconds if timeout is None else timeout)

    def __repr__(self) -> str:
        return f"<InProcessClient of {self._settings.source!r}, {self.state}>"

    async def _send(self, record: pb.LogRecord, timeout: float | None = None, *, may_spool: bool) -> Receipt:
        self._engine.refuse_if_closed()
        return Receipt(ReceiptState.COMMITTED, await self._ingress.emit(record, timeout))

    async def _send_report(self, record: pb.LogRecord, may_spool: bool) -> Receipt:
        # Also after `close`: a job that has begun ends.
        return Receipt(ReceiptState.COMMITTED, await self._ingress.emit(record))

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        return self._ingress.spawn(work, name)


if TYPE_CHECKING:
    #: Fails the type check if the class does not fit the interface.
    _fits: type[AsyncLogger] = InProcessClient
