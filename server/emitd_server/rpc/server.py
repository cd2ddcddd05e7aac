"""The gRPC server: the servicers that it is given, health, reflection, and an orderly end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from emitd_handlers.diagnostics import report
from emitd_handlers.errors import EmitdError
from emitd_server.access.authenticator import Authenticator, Credentials
from emitd_server.access.grants import Grants
from emitd_server.access.limits import CallerLimits
from emitd_server.access.trail import AccessTrail
from emitd_server.access.watched import look_for_ever
from emitd_server.dispatch.handler_life import HandlerLife
from emitd_server.errors import RequestInvalid, Unauthenticated
from emitd_server.memory import MemoryAccount
from emitd_server.rpc.edge import Edge
from emitd_server.rpc.intake import Intake
from emitd_server.rpc.listening import Listener, Options, UnixSocket
from emitd_server.rpc.methods import abort
from emitd_server.rpc.open_streams import OpenStreams, StreamLimit
from emitd_server.rpc.status import status_of
from emitd_server.settings import ServerSettings

#: How often to look whether health has changed, for those that watch it.
HEALTH_SECONDS = 0.5
_STATUSES = health_pb2.HealthCheckResponse
#: What grpc takes beyond our own limit, whose error names the setting.
ABOVE_OUR_LIMIT_BYTES = 1024 * 1024
#: A peer that does not answer a ping is dead, and found within 40 s.
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
#: Clients may ping this often, also without a call: ours do every 30 s.
MIN_CLIENT_PING_MS = 20_000
#: How many calls wait until the service begins on them, and for how long. grpc ends others with CANCELLED, which costs
#: a tenth of what it costs here: so what is accepted at four times the load that the service can bear is not late.
MAX_WAITING_CALLS = 1000
MAX_WAITING_SECONDS = 1
#: Of each grpc server.
OPTIONS: Options = (
    # Otherwise a second server starts happily on a busy port and takes half the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # Measured: without it a dead peer was found after 60 s.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # It would let each stream send megabytes before its turn to be read comes, which no account knows of.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.server.max_pending_requests", MAX_WAITING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_WAITING_CALLS),
    ("grpc.server_max_unrequested_time_in_server", MAX_WAITING_SECONDS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
)
MAX_MESSAGE = "grpc.max_receive_message_length"
#: The longest name that health is asked for, and the largest question of reflection.
MAX_NAME_BYTES = 4096


class Servicer(Protocol):
    """Serves one service of a contract."""

    #: The service's full name, for health and reflection.
    service_name: str

    def handler(self, edge: Edge, streams: OpenStreams) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what a grpc server needs to route the calls of one listener to this servicer."""


class GrpcServer:
    """Serves `servicers` at every listener, and reports the health of handlers, of which it gets the `lives`.

    `listen_key` is the setting or flag that gave the listeners, for errors.
    """

    def __init__(
        self,
        servicers: Sequence[Servicer],
        lives: Sequence[HandlerLife],
        settings: ServerSettings,
        memory: MemoryAccount,
        trail: AccessTrail,
        listen_key: str,
    ) -> None:
        self._servicers = servicers
        self._streams = OpenStreams(memory, settings.watch.stall_seconds)
        self._trail = trail
        self._settings = settings
        options = (*OPTIONS, (MAX_MESSAGE, settings.limits.max_request_bytes + ABOVE_OUR_LIMIT_BYTES))
        self._listeners = [
            Listener(key, entry, settings.socket_mode, options)
            for key, entry in settings.listeners(listen_key).items()
        ]
        #: Of health and of reflection.
        self._limit = StreamLimit(settings.watch.max_watchers, "server.watch.max_watchers")
        names = ["", *(servicer.service_name for servicer in servicers)]
        sockets = [listener.socket for listener in self._listeners if listener.socket is not None]
        self._health = _HealthServicer(names, lives, self._streams, self._limit, sockets)
        self._intake = Intake(settings.limits, memory)
        self._grants, self._limits = Grants(settings.access.grants), CallerLimits(settings.limits)
        self._credentials = Credentials(settings.access, self._note_change)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looks: list[asyncio.Task[None]] = []
        self._is_started = False

    async def start(self) -> Sequence[str]:
        """Start serving at all listeners, or at none; return their addresses, with the ports that were picked for 0.

        Raises StartError when an address cannot be used, and ConfigError when it would be too open.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._credentials.start)
        try:
            addresses = [await listener.open() for listener in self._listeners]
            looks = [watched.look for watched in self._credentials.watched]
            looks += [each.certificates.look for each in self._listeners if each.certificates is not None]
            self._looks = [asyncio.create_task(look_for_ever(look), name="a look at files") for look in looks]
            await self._health.start()
            self._is_started = True
            for listener in self._listeners:
                await self._serve(listener)
        except BaseException:
            await self._stop_listeners(0)
            raise
        return addresses

    async def stop(self) -> float:
        """End in order: NOT_SERVING, a moment, end the streams, drain the calls. Idempotent.

        Returns how many seconds of `drain_seconds` are left for the handlers.
        """
        shutdown = self._settings.shutdown
        if not self._is_started:
            return shutdown.drain_seconds
        self._is_started = False
        await self._health.stop()
        await asyncio.sleep(shutdown.not_serving_seconds)
        self._streams.close()
        deadline = asyncio.get_running_loop().time() + shutdown.drain_seconds
        await self._stop_listeners(shutdown.drain_seconds)
        self._trail.close()
        return max(0.0, deadline - asyncio.get_running_loop().time())

    async def _serve(self, listener: Listener) -> None:
        server = listener.server
        assert server is not None
        entry, access = listener.entry, self._settings.access
        edge = Edge(
            self._intake,
            Authenticator(entry.identity.value, self._credentials, entry.principal).authenticate,
            self._grants,
            self._limits,
            self._trail,
            keeps_address=access.peer_address,
        )
        # What the generated functions ask of a server: the second would add the same methods again.
        known: Any = SimpleNamespace(
            add_generic_rpc_handlers=lambda added: server.add_generic_rpc_handlers(
                [_Known(added[0], edge, self._streams)]
            ),
            add_registered_method_handlers=lambda *_: None,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, known)
        if not entry.health_only:
            handlers = [servicer.handler(edge, self._streams) for servicer in self._servicers]
            server.add_generic_rpc_handlers(tuple(handlers))
            if self._settings.reflection:
                names = [servicer.service_name for servicer in self._servicers]
                reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                    _ReflectionServicer(names, self._streams, self._limit), known
                )
        await listener.start()

    def _note_change(self, line: str) -> None:
        """Say that tokens or keys have changed; called in a thread."""
        report(line)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._trail.changed, line)

    async def _stop_listeners(self, grace: float) -> None:
        for look in self._looks:
            look.cancel()
        await asyncio.gather(*(listener.stop(grace) for listener in self._listeners))


class _Known(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it takes parameters only in its stub
    """The methods of a service that is for every caller whose name is known, if the listener asks for it."""

    def __init__(self, handler: "grpc.GenericRpcHandler[Any, Any]", edge: Edge, streams: OpenStreams) -> None:
        self._handler = handler
        self._edge = edge
        self._streams = streams

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        found: Any = self._handler.service(details)
        if found is None:
            return None
        kind = next(kind for kind in ("unary_unary", "unary_stream", "stream_stream") if getattr(found, kind))
        method = getattr(found, kind)

        async def checked(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            check = partial(self._edge.refuse_unknown, context)
            try:
                check()
                with self._streams.ending(check) if found.response_streaming else nullcontext():
                    return await method(request, context)
            except EmitdError as error:
                if isinstance(error, Unauthenticated):
                    self._edge.note_refusal(context, details.method.strip("/"), "UNAUTHENTICATED")
                await abort(context, status_of(error))

        return found._replace(**{kind: checked})


class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc, name-defined]  # its stub lacks it
    """The health service of the grpc library, with a Watch that has the bounds of every stream.

    The library's Watch sends while it holds a lock, so that one reader that takes nothing would stop all changes.

    `handler/NAME` is the health of a handler. The names in `readiness` are SERVING while every required handler is
    ready and clients can connect by the path of every socket, and `live` is while the process runs.
    """

    def __init__(
        self,
        readiness: Sequence[str],
        lives: Sequence[HandlerLife],
        streams: OpenStreams,
        limit: StreamLimit,
        sockets: Sequence[UnixSocket],
    ) -> None:
        super().__init__()
        self._readiness = readiness
        self._lives = lives
        self._streams = streams
        #: The problem of each socket that was reported; empty: none.
        self._sockets = dict.fromkeys(sockets, "")
        self._is_stopping = False
        self._shown: dict[str, bool] = {}
        self._task: asyncio.Task[None] | None = None
        self._limit = limit
        self._changed = asyncio.Event()

    async def Watch(  # noqa: N802  # the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        """Stream the status of one service until the server goes down."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        sent: int | None = None
        _refuse_large("service", request)
        with self._limit.counted():
            while True:
                changed = self._changed
                status = self._server_status.get(request.service, unknown)
                if status != sent:
                    message = health_pb2.HealthCheckResponse(status=status)
                    await self._streams.send(context, message, message.ByteSize())
                    sent = status
                await changed.wait()

    async def set(self, service: str, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        """Set the status of a service."""
        await super().set(service, status)
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802  # the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of one service as it is now."""
        await self._show()
        return await super().Check(request, context)

    async def start(self) -> None:
        """Show the health of everything, now and whenever it changes."""
        await self._show()
        self._task = asyncio.create_task(self._follow(), name="health")

    async def stop(self) -> None:
        """Show NOT_SERVING for everything but `live`, for good."""
        self._is_stopping = True
        await self._show()
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            await self._show()

    async def _show(self) -> None:
        works = {f"handler/{life.handler.name}": not life.health_problem for life in self._lives}
        is_ready = all(life.is_ready for life in self._lives if life.handler.is_required)
        for unix_socket, reported in self._sockets.items():
            problem = unix_socket.problem()
            if problem != reported:
                self._sockets[unix_socket] = problem
                report(problem or f"clients can connect to socket '{unix_socket.path}' again")
            is_ready = is_ready and not problem
        works |= dict.fromkeys(self._readiness, is_ready)
        if self._is_stopping:
            works = dict.fromkeys(works, False)
        works["live"] = True
        changed = [name for name, value in works.items() if self._shown.get(name) is not value]
        self._shown = works
        for name in changed:  # a `set` may wait: then another call knows better
            await self.set(name, _STATUSES.SERVING if self._shown[name] else _STATUSES.NOT_SERVING)


class _ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc, name-defined]  # grpc ships no types
    """The reflection service of the grpc library, whose streams have the bounds of every stream."""

    def __init__(self, names: Sequence[str], streams: OpenStreams, limit: StreamLimit) -> None:
        super().__init__((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
        self._streams = streams
        self._limit = limit

    async def ServerReflectionInfo(  # noqa: N802  # the RPC's name
        self,
        request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        """Answer questions until there are no more, or the server goes down."""
        replies = super().ServerReflectionInfo(_small(request_iterator), context)
        with self._limit.counted():
            async with aclosing(replies):
                async for reply in replies:
                    await self._streams.send(context, reply, reply.ByteSize())


async def _small(
    requests: AsyncIterator[reflection_pb2.ServerReflectionRequest],
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for request in requests:
        _refuse_large("", request)  # a reply repeats it
        yield request


def _refuse_large(field: str, request: Message) -> None:
    if request.ByteSize() > MAX_NAME_BYTES:
        raise RequestInvalid(field, f"has {request.ByteSize()} bytes, more than {MAX_NAME_BYTES}")
