"""`ContextMiddleware`: gives every request its context, so that all records made in it carry it.

Plain ASGI, because what a dependency sets in a context variable does not reach a route that runs in a thread, while
what is set around the whole application reaches everything.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from emitd.context import log_context
from emitd.web.request_context import ContextReader, RequestContext, Scope

__all__ = ["ContextMiddleware", "Message", "Receive", "Send", "context_of"]

# Of ASGI.
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_KEY = "emitd.request_context"
_APOLOGY = b"Internal Server Error"


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

    An exception that the application did not handle is logged with the request's context, for which it is too late
    further out. Where nobody else makes an answer of it, there is a 500 with the id, by which the log line is found.
    """

    def __init__(
        self, app: App, reader: ContextReader, id_header: str, log_exception: Callable[[str], None]
    ) -> None:
        self._app = app
        self._reader = reader
        self._id_header = id_header.lower().encode()
        self._log_exception = log_exception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[_KEY] = context = self._reader.read(scope)
        answer = _Answer(send, self._id_header, context.request_id.encode())
        with log_context(**context.attributes):
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                self._log_exception(f"{scope.get('method', 'websocket')} {scope['path']} failed")
                if scope["type"] == "http" and not answer.has_begun and _is_left_to_us(scope):
                    await answer.apologise()
                raise


class _Answer:
    """Passes on what the application answers, with the request's id."""

    def __init__(self, send: Send, header: bytes, request_id: bytes) -> None:
        self._send = send
        self._header = header
        self._request_id = request_id
        self.has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            self.has_begun = True
            headers = list(message.get("headers", ()))
            if all(name.lower() != self._header for name, _ in headers):
                message = {**message, "headers": [*headers, (self._header, self._request_id)]}
        await self._send(message)

    async def apologise(self) -> None:
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(_APOLOGY)),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _APOLOGY})


def _is_left_to_us(scope: Scope) -> bool:
    """Whether Starlette would answer with the bare 500: no page for debugging, no handler of the application's."""
    app = scope.get("app")
    handlers = getattr(app, "exception_handlers", {})
    return not getattr(app, "debug", False) and Exception not in handlers and 500 not in handlers
