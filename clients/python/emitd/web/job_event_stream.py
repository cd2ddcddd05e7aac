"""`JobEventStream`: tells one page of one job, from the state it stands in to its end.

    watch_job ─> job_event ─> send       until the job has ended,
                                         or the page is gone: its watcher is freed at once,
                                         or the application stops: what is known by then is told

A stream that ends before its job does, for whatever reason, is one that the browser opens again by itself, and
`Last-Event-ID` then says how far it was.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from emitd.errors import EmitError
from emitd.interface import AsyncLogger
from emitd.web.context_middleware import Receive, Send
from emitd.web.job_event import HEARTBEAT, job_event, retry
from emitd.web.settings import WebSettings

if TYPE_CHECKING:
    from emitd import v1

__all__ = ["JobEventStream"]


class JobEventStream:
    """The body of one answer. Runs once, in the event loop of its logger."""

    def __init__(
        self,
        logger: AsyncLogger,
        job_id: str,
        *,
        after_revision: int | None,
        may_see: "Callable[[v1.Job], bool]",
        describe: "Callable[[v1.Job], Mapping[str, object]]",
        stopping: asyncio.Event,
        settings: WebSettings,
    ) -> None:
        """Tell of the job what `describe` says of it, while `may_see` is true of it; end when `stopping` is set."""
        self._logger = logger
        self._job_id = job_id
        self._seen_revision = after_revision
        self._may_see = may_see
        self._describe = describe
        self._stopping = stopping
        self._settings = settings
        self._has_ended = False

    async def run(self, receive: Receive, send: Send) -> None:
        """Send the body of an answer whose head is sent. Its watcher is free when this returns."""
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(_gone(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((telling, leaving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(telling, leaving, stopping)
        if not telling.cancelled():
            telling.result()
        elif leaving.cancelled():
            await self._tell_last(send)

    async def _tell(self, send: Send) -> None:
        with suppress(OSError):  # how some servers say that the page is gone
            await _send(send, retry(self._settings.stream_retry_ms))
            with suppress(EmitError):
                await self._tell_all(send)
            await self._end(send)

    async def _tell_all(self, send: Send) -> None:
        watch = self._watch()
        async with (
            aclosing(watch),
            aclosing(_with_pauses(watch, self._settings.stream_heartbeat_seconds)) as updates,
        ):
            async for update in updates:
                if update is None or update.heartbeat:
                    await _send(send, HEARTBEAT)
                elif update.job.ended:
                    await self._end(send, self._event(update))
                    return
                else:
                    await _send(send, self._event(update))
                    self._seen_revision = update.job.revision

    async def _tell_last(self, send: Send) -> None:
        """Tell how the job ended if the stop has ended it, so that its page need not come back for that."""
        body = b""
        with suppress(EmitError, StopAsyncIteration, TimeoutError):
            async with asyncio.timeout(self._settings.stream_end_seconds), aclosing(self._watch()) as watch:
                update = await anext(watch)
                body = self._event(update) if update.job.ended else b""
        with suppress(OSError, TimeoutError):  # a page that does not read any more
            async with asyncio.timeout(self._settings.stream_end_seconds):
                await self._end(send, body)

    async def _end(self, send: Send, body: bytes = b"") -> None:
        if not self._has_ended:
            self._has_ended = True
            await _send(send, body, more=False)

    async def _watch(self) -> "AsyncGenerator[v1.WatchJobResponse, None]":
        """Watch the job for as long as the page may see it: it can become another one under the same id."""
        watch = self._logger.watch_job(self._job_id, after_revision=self._seen_revision)
        async with aclosing(watch):
            async for update in watch:
                if not update.heartbeat and not self._may_see(update.job):
                    return
                yield update

    def _event(self, update: "v1.WatchJobResponse") -> bytes:
        return job_event(update, self._describe(update.job))


async def _with_pauses(updates: AsyncGenerator[Any, None], seconds: float) -> AsyncGenerator[Any, None]:
    """Yield the updates, and None whenever none has come for so many seconds."""
    coming: asyncio.Future[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(updates))
            await asyncio.wait((coming,), timeout=seconds)
            if not coming.done():
                yield None
                continue
            try:
                update = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield update
    finally:
        if coming is not None:
            await _cancel(coming)


async def _gone(receive: Receive) -> None:
    """Wait until the page has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
