"""The context of a request, and the two that know it: `ContextMiddleware` and `RequestLogger`.

The middleware is plain ASGI. A context variable that a dependency sets does not reach a route that runs in a thread;
one that is set around the whole application reaches everything.
"""

import copy
import functools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from emitd.context import log_context
from emitd.errors import RecordRejected
from emitd.interface import AsyncLogger
from emitd.web.trusted_proxies import TrustedProxies

if TYPE_CHECKING:
    from emitd.receipt import Receipt

# Of ASGI.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID_BYTES = 16
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_KEY = "emitd.request_context"
_APOLOGY = b"Internal Server Error"
_APOLOGY_HEADERS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_APOLOGY)),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class WebSettings:
    """The limits and names. Raises ValueError naming the one that is wrong."""

    #: The header in which the proxies say where a request came from. `Forwarded` is read by RFC 7239; any other as
    #: addresses with commas. Only this one is read: senders can forge those that the proxies leave alone.
    forwarded_header: str = "X-Forwarded-For"
    #: How many proxies a request is followed back through at most.
    max_proxies: int = 32
    #: The header of a request's id, in requests from trusted proxies and in all answers.
    request_id_header: str = "X-Request-ID"
    #: A longer id is not taken over.
    max_request_id_characters: int = 128
    #: When to come back after a 503.
    retry_after_seconds: int = 1
    #: When a browser comes back whose event stream broke.
    stream_retry_ms: int = 2_000
    #: How often a stream without news sends a sign of life; proxies close silent streams.
    stream_heartbeat_seconds: float = 15.0
    #: How long a stream may take for its last event when the application stops.
    stream_end_seconds: float = 1.0
    #: How long `on_stop` may take. With `stream_end_seconds` twice it should fit into the server's own patience.
    on_stop_seconds: float = 3.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                if not value.isascii() or not value.replace("-", "").isalnum():
                    raise ValueError(f"{field.name}: {value!r} is not the name of a header")
            elif value <= 0:
                raise ValueError(f"{field.name}: {value!r} is not above 0")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Where a request came from, and its id."""

    #: An address, or `unknown`.
    source_ip: str
    request_id: str

    @property
    def attributes(self) -> Mapping[str, str]:
        """What records carry of it."""
        return {"client_ip": self.source_ip, "request_id": self.request_id}


def context_of(scope: Scope) -> RequestContext:
    """Return the context of a request. Raises RuntimeError where the middleware is not installed."""
    context = scope.get(_KEY)
    if not isinstance(context, RequestContext):
        raise RuntimeError(
            "the request has no context: call `EmitdFastAPI.install(app)` when the app is made"
        )
    return context


class ContextMiddleware:
    """Wraps an application; its answers get the request's id as a header.

    An exception that the application did not handle is logged with the request's context. If no other code makes an
    answer of it, there is a 500 with the id, by which the log line is found.
    """

    def __init__(
        self, app: App, proxies: TrustedProxies, settings: WebSettings, log_exception: Callable[[str], None]
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._forwarded_header = settings.forwarded_header.lower().encode()
        self._id_header = settings.request_id_header.lower().encode()
        self._max_id_characters = settings.max_request_id_characters
        self._log_exception = log_exception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[_KEY] = context = self._read(scope)
        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] in ("http.response.start", "websocket.accept"):
                has_begun = True
                headers = list(message.get("headers", ()))
                if all(name.lower() != self._id_header for name, _ in headers):
                    headers.append((self._id_header, context.request_id.encode()))
                message = {**message, "headers": headers}
            await send(message)

        with log_context(**context.attributes):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                self._log_exception(f"{scope.get('method', 'websocket')} {scope['path']} failed")
                if scope["type"] == "http" and not has_begun and _is_left_to_us(scope):
                    await send_with_id(
                        {"type": "http.response.start", "status": 500, "headers": _APOLOGY_HEADERS}
                    )
                    await send_with_id({"type": "http.response.body", "body": _APOLOGY})
                raise

    def _read(self, scope: Scope) -> RequestContext:
        """Return the context of a request. Its id is a trusted proxy's if that is sane, else a new one."""
        client = scope.get("client")
        peer = client[0] if client else None
        return RequestContext(
            source_ip=self._proxies.source_address(peer, _values(scope, self._forwarded_header)),
            request_id=self._given_id(peer, scope) or secrets.token_hex(_REQUEST_ID_BYTES),
        )

    def _given_id(self, peer: str | None, scope: Scope) -> str:
        if not self._proxies.trusts(peer):
            return ""
        values = _values(scope, self._id_header)
        if len(values) != 1 or len(values[0]) > self._max_id_characters:
            return ""
        return values[0] if _PRINTABLE.fullmatch(values[0]) else ""


def _is_left_to_us(scope: Scope) -> bool:
    """Whether Starlette would answer with the bare 500: no page for debugging, no handler of the application's."""
    app = scope.get("app")
    handlers = getattr(app, "exception_handlers", {})
    return not getattr(app, "debug", False) and Exception not in handlers and 500 not in handlers


def _values(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]


class RequestLogger(AsyncLogger):
    """The application's logger, for one request. Every record carries `client_ip` and `request_id`.

    `emitd.AsyncLogger` says what the calls do. It works on after the request, such as in a task that the request began.
    """

    def __init__(self, logger: AsyncLogger, context: RequestContext, user_id: str | None) -> None:
        self._logger = logger.bind(**context.attributes)
        #: For records that must be the same in another request.
        self._repeatable = logger
        self._context = context
        self._user_id = user_id

    @property
    def user_id(self) -> str | None:
        """The user who is logged in; None: nobody is, or the application gave no `user`."""
        return self._user_id

    @property
    def source_ip(self) -> str:
        """The address that the request came from, or `unknown`."""
        return self._context.source_ip

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._context.request_id

    def bind(self, **attributes: object) -> Self:
        """Return a logger for the same request that adds these attributes to every record."""
        bound = copy.copy(self)
        bound._logger = self._logger.bind(**attributes)
        bound._repeatable = self._repeatable.bind(**attributes)
        return bound

    async def audit(
        self,
        event_name: str,
        *,
        user_id: str | None = None,
        source_ip: str | None = None,
        details: Mapping[str, object] | None = None,
        message: str = "",
        record_id: str = "",
        time_unix_nano: int = 0,
        timeout: float | None = None,
        require_commit: bool = False,
    ) -> "Receipt":
        """Send an audit event by the user who is logged in, from the address of the request; arguments win over both.

        Raises RecordRejected naming `audit.user_id` if nobody is logged in and no user is given. With a `record_id` of
        the caller's the event does not carry `client_ip` and `request_id`, which may differ when the request is made
        again; its `source_ip` must be the same then.
        """
        user = self._user_id if user_id is None else user_id
        if user is None:
            raise RecordRejected(
                "audit.user_id is mandatory: nobody is logged in here, so the call must give `user_id`",
                field="audit.user_id",
            )
        logger = self._repeatable if record_id else self._logger
        return await logger.audit(
            event_name,
            user_id=user,
            source_ip=self.source_ip if source_ip is None else source_ip,
            details=details,
            message=message,
            record_id=record_id,
            time_unix_nano=time_unix_nano,
            timeout=timeout,
            require_commit=require_commit,
        )

    async def close(self) -> None:
        """Flush, and no more: the logger is the application's, and other requests use it."""
        await self._logger.flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _passed_on(name: str) -> Callable[..., Any]:
    """Return the call of the interface that passes everything on to the application's logger."""

    @functools.wraps(getattr(AsyncLogger, name))
    def call(self: RequestLogger, /, *arguments: object, **options: object) -> Any:
        return getattr(self._logger, name)(*arguments, **options)

    return call


for _name in vars(AsyncLogger):
    if not _name.startswith("_") and _name not in vars(RequestLogger):
        setattr(RequestLogger, _name, _passed_on(_name))
