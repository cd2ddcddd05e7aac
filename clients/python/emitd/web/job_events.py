"""`JobEventStream`: the server-sent events of one job for one page, from its present state to its end.

    watch_job ─> job_event ─> send       until the job has ended,
                                         or the page is gone: its watcher is freed at once,
                                         or the application stops: the last known state is sent

If a stream ends before its job does, the browser opens it again by itself, and `Last-Event-ID` says how far it was.
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from emitd.errors import EmitError
from emitd.interface import AsyncLogger
from emitd.web.context import Receive, Send, WebSettings

if TYPE_CHECKING:
    from emitd import v1
from typing import TYPE_CHECKING

import msgspec

from emitd.records.encoding import encode_attributes
from emitd.records.levels import job_state_name

if TYPE_CHECKING:
    from emitd import v1

__all__ = ["HEARTBEAT", "JobEventStream", "describe_job", "job_event", "read_last_event_id", "retry"]


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
        """Send what `describe` says of the job, while `may_see` is true of it; end when `stopping` is set."""
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
    """Yield the updates, and None after each `seconds` without one."""
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


#: A comment, which readers pass over.
HEARTBEAT = b": still here\n\n"

_MAX_REVISION = 2**64 - 1
#: In JSON they stand between tokens only, where a space means the same; in an event they would end the line.
_LINE_BREAKS = str.maketrans("\r\n", "  ")


def describe_job(job: "v1.Job") -> Mapping[str, object]:
    """Return what a page gets to know of a job: all but labels, source, lease and times."""
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "status": job_state_name(job.status),
        "progress": job.progress,
        "message": job.message,
        "details": msgspec.Raw(job.details_json.encode() or b"{}"),
        "attempt": job.attempt,
        "failure_reason": job.failure_reason,
        "failure_message": job.failure_message,
        "cancel_requested": job.cancel_requested,
    }


def job_event(update: "v1.WatchJobResponse", data: Mapping[str, object]) -> bytes:
    """Return the event of a job's state: `progress`, or `end` where it has ended; its id is the job's revision.

    `data`, with the changes of status as `transitions`, becomes JSON in one line, so that no text of anybody's can
    forge an event.
    """
    job = update.job
    name = "end" if job.ended else "progress"
    transitions = [_describe_transition(transition) for transition in update.transitions]
    text = encode_attributes({**data, "transitions": transitions}).translate(_LINE_BREAKS)
    return f"id: {job.revision}\nevent: {name}\ndata: {text}\n\n".encode()


def retry(milliseconds: int) -> bytes:
    """Return the line that says when a browser comes back after a break."""
    return b"retry: %d\n\n" % milliseconds


def read_last_event_id(text: str) -> int | None:
    """Return the revision that a page has seen; None if the header does not say."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_MAX_REVISION)):
        return None
    revision = int(text)
    return revision if revision <= _MAX_REVISION else None


def _describe_transition(transition: "v1.JobTransition") -> Mapping[str, object]:
    return {
        "revision": transition.revision,
        "attempt": transition.attempt,
        "status": job_state_name(transition.status),
        "progress": transition.progress,
        "time_unix_ms": transition.time_unix_nano // 1_000_000,  # a page's numbers end at 2^53
    }
