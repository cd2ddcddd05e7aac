"""emitd in a FastAPI application, by dependency injection.

    emitd_web = EmitdFastAPI(
        lambda: InProcessClient.from_config("logging_config.yml", source="shop"),  # the one line that names the client
        user=get_user_id,
        trusted_proxies=["10.0.0.0/8"],
    )
    app = FastAPI(lifespan=emitd_web.lifespan)
    emitd_web.install(app)

    Logger = Annotated[RequestLogger, Depends(emitd_web.request_logger)]
    Events = Annotated[JobEvents, Depends(emitd_web.job_events)]

    @app.post("/playlists")
    async def create_playlist(playlist: Playlist, logger: Logger) -> None:
        await logger.audit("playlist.create", details={"name": playlist.name})   # user_id, source_ip: the request's
        logger.info("playlist created")                                          # with client_ip and request_id

    @app.get("/reports/{job_id}/events")
    async def follow_report(job_id: str, events: Events, user: User) -> Response:
        return await events(job_id, may_see=lambda job: job.labels.get("user") == user)

A server that reads `X-Forwarded-For` by itself, as uvicorn does for 127.0.0.1, takes the peer's address away: run it
with `--no-proxy-headers`.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from emitd.errors import ClientNotOpen, EmitError, RequestRejected
from emitd.interface import AsyncLogger
from emitd.web.context import ContextMiddleware, RequestLogger, WebSettings, context_of
from emitd.web.job_events import JobEventStream, describe_job, read_last_event_id
from emitd.web.trusted_proxies import TrustedProxies

if TYPE_CHECKING:
    from emitd import v1

__all__ = [
    "EmitdFastAPI",
    "JobEvents",
    "RequestLogger",
    "WebSettings",
    "anyone",
    "describe_job",
]


def anyone(job: "v1.Job") -> bool:
    """Return True: for `may_see`, if all who know a job's id may follow it."""
    return True


async def _nobody() -> None:
    """Stand in for `user` where the application does not say."""


async def _nothing() -> None:
    """Stand in for `on_stop`."""


class EmitdFastAPI:
    """One application's use of emitd. Its logger is open from the start of the application to its end."""

    def __init__(
        self,
        client: Callable[[], AsyncLogger],
        *,
        user: Callable[..., object] = _nobody,
        trusted_proxies: Iterable[str] | str = (),
        on_stop: Callable[[], Awaitable[object]] = _nothing,
        settings: WebSettings | None = None,
    ) -> None:
        """Make the logger by `client` when the application starts.

        `user` is a dependency, with parameters like a route's, that returns the id of the user who is logged in, or
        None. `trusted_proxies` are addresses and networks, and `unix` for a proxy on a Unix socket. `on_stop` is
        awaited when the server begins to stop, before event streams are ended: cancel the tasks that report jobs here.

        Raises ValueError naming a setting that is wrong.
        """
        self._client = client
        self._on_stop = on_stop
        self._settings = settings or WebSettings()
        self._proxies = TrustedProxies(
            trusted_proxies, header=self._settings.forwarded_header, max_proxies=self._settings.max_proxies
        )
        self._logger: AsyncLogger | None = None
        self._stopping = asyncio.Event()
        self._stop: asyncio.Task[None] | None = None

        async def request_logger(
            connection: HTTPConnection, user_id: Annotated[object, Depends(user)]
        ) -> RequestLogger:
            if user_id is not None and not isinstance(user_id, str):
                raise TypeError(f"user: must give an id as a str, or None, not {type(user_id).__name__}")
            return RequestLogger(self.logger, context_of(connection.scope), user_id)  # type: ignore[abstract]

        async def job_events(
            request: Request, logger: Annotated[RequestLogger, Depends(request_logger)]
        ) -> JobEvents:
            return JobEvents(logger, request.headers.get("last-event-id", ""), self._stopping, self._settings)

        #: The dependency that gives a `RequestLogger`.
        self.request_logger = request_logger
        #: The dependency that gives `JobEvents`.
        self.job_events = job_events

    @property
    def logger(self) -> AsyncLogger:
        """The application's logger, for what belongs to no request. Raises ClientNotOpen outside of the lifespan."""
        if self._logger is None:
            raise ClientNotOpen(
                "the logger is open while the application runs: FastAPI(lifespan=....lifespan)"
            )
        return self._logger

    def install(self, app: FastAPI) -> None:
        """Give every request its context, and `EmitError` an answer. Before the application starts."""
        app.add_middleware(
            ContextMiddleware,
            proxies=self._proxies,
            settings=self._settings,
            log_exception=self._log_exception,
        )
        app.add_exception_handler(EmitError, self._answer_error)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Open the logger, and close it at the end; for `FastAPI(lifespan=...)`.

        In another lifespan: `async with emitd_web.lifespan(app): ...`. Raises what opening the client raises.
        """
        if self._logger is not None:
            raise RuntimeError("the application is running already: make an EmitdFastAPI for each")
        self._stopping, self._stop = asyncio.Event(), None
        loop = asyncio.get_running_loop()
        async with self._client() as self._logger:
            try:
                with on_stop_signals(lambda: loop.call_soon_threadsafe(self._begin_stop)):
                    yield
            finally:
                await self.stop()
                self._logger = None

    async def stop(self) -> None:
        """Do `on_stop`, then end all event streams. Idempotent.

        SIGTERM, SIGINT and the end of the lifespan call it. If a server is stopped in another way, call it first: a
        server waits for the streams before it ends the lifespan.
        """
        await asyncio.shield(self._begin_stop())

    def _begin_stop(self) -> "asyncio.Task[None]":
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_task(self._do_stop(), name="emitd-web-stop")
        return self._stop

    async def _do_stop(self) -> None:
        try:
            async with asyncio.timeout(self._settings.on_stop_seconds):
                await self._on_stop()
        except Exception:
            self._log_exception("on_stop failed")
        finally:
            self._stopping.set()

    async def _answer_error(self, request: Request, error: Exception) -> Response:
        """Answer 503 if another try can help, else 500. The log has the details."""
        what = f"{request.method} {request.url.path}"
        if not isinstance(error, EmitError) or not error.retryable:
            self._log_exception(f"{what} failed")
            return JSONResponse({"detail": "internal error"}, 500)
        self.logger.warning(f"{what} is to be tried again", error=str(error))
        headers = {"Retry-After": str(self._settings.retry_after_seconds)}
        return JSONResponse({"detail": "not possible now; try again"}, 503, headers)

    def _log_exception(self, message: str) -> None:
        if self._logger is not None:
            self._logger.exception(message)


class JobEvents:
    """Answers with the events of a job, for `EventSource` in a page. Given by `EmitdFastAPI.job_events`."""

    def __init__(
        self, logger: AsyncLogger, last_event_id: str, stopping: asyncio.Event, settings: WebSettings
    ) -> None:
        self._logger = logger
        self._after_revision = read_last_event_id(last_event_id)
        self._stopping = stopping
        self._settings = settings

    async def __call__(
        self,
        job_id: str,
        *,
        may_see: "Callable[[v1.Job], bool]",
        describe: "Callable[[v1.Job], Mapping[str, object]]" = describe_job,
    ) -> Response:
        """Return the answer of a route: an event `progress` for each news of the job, and at last `end`.

        The data are what `describe` returns, as JSON, with the transitions since the event before, oldest first, under
        `transitions`; an event's id is the job's revision. A page that comes back with `Last-Event-ID` gets the state
        and all changes that it missed; if it knows the end, 204, so that it does not come again.

        Raises HTTPException 404 if there is no such job, or `may_see` is false for it.
        """
        try:
            job = await self._logger.get_job(job_id)
        except EmitError as error:
            if isinstance(error, RequestRejected) and error.field == "job_id":
                raise HTTPException(404, "no such job") from None  # no job can have such an id
            if not error.retryable:
                raise
            # The stream's page comes back for it; after a 503 it would not.
        else:
            if job is None or not may_see(job):
                raise HTTPException(404, "no such job")
            if job.ended and job.revision == self._after_revision:
                return Response(status_code=204)
        return _EventResponse(
            JobEventStream(
                logger=self._logger,
                job_id=job_id,
                after_revision=self._after_revision,
                may_see=may_see,
                describe=describe,
                stopping=self._stopping,
                settings=self._settings,
            )
        )


class _EventResponse(Response):
    """Sends its head, then leaves the rest to the stream."""

    media_type = "text/event-stream"

    def __init__(self, stream: JobEventStream) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._stream.run(receive, send)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop_signals(call: Callable[[], object]) -> Iterator[None]:
    """Within the block, call `call` from the signal handler, before the present handlers of SIGINT and SIGTERM.

    An ASGI server tells the application of its end only when all answers are finished, and waits for event streams that
    would end if they knew. Signals without a handler in Python are left alone, and so are threads other than the main
    one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        call()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in _SIGNALS:
        if callable(before[number]):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
