"""`AsyncReader`: the questions of an `AsyncLogClient`, and the calls of grpc.aio that carry them.

    await ask, anext(stream) ─> a loop in a thread of its own ─> grpc.aio ─> the service

grpc.aio keeps a thread inside grpc while it has a channel, and a child that is forked then crashes or hangs. A fork
can end the channel only from a thread other than the one that forks, which may run the caller's loop.
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from emitd.credentials import Certificates, Credentials, Metadata
from emitd.errors import EmitError, JobNotFound, Unavailable
from emitd.runtime import process_hooks
from emitd.settings import ClientSettings
from emitd.transport.channel import CallFailed, NoChannel, make_async_channel, may_have_moved
from emitd.transport.grpc_transport import multi_callable
from emitd.transport.reply import is_retryable, request_error

Response = TypeVar("Response")


class AsyncReader:
    """For any thread and event loop. A forked child has a thread and a channel of its own."""

    def __init__(
        self,
        settings: ClientSettings,
        refuse_if_closed: Callable[[], None],
        credentials: Credentials | None = None,
    ) -> None:
        """Ask no more once `refuse_if_closed` raises."""
        self._settings = settings
        self.credentials = credentials or settings.credentials()
        self._refuse_if_closed = refuse_if_closed
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # From here on, only the thread uses these.
        self._channel: grpc.aio.Channel | None = None
        self._certificates: Certificates | None = None
        self._asked: set[Any] = set()
        #: They are dropped for a fork.
        self.open_streams: weakref.WeakSet[AsyncStream[Any]] = weakref.WeakSet()
        # Of the fork under way.
        self._is_quiet = threading.Event()
        self._may_go_on = threading.Event()

    async def ask(
        self,
        method: str,
        request: Any,
        response: type[Response],
        not_found: type[EmitError] = JobNotFound,
    ) -> Response:
        """Ask something, again while that can help. Raises EmitError; `not_found` for NOT_FOUND."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settings.timeout
        attempts = 0
        failed: CallFailed | None = None
        while True:
            self._refuse_if_closed()
            left = give_up_at - loop.time()
            answer = await self._try(method, request, response, max(left, 0.001))
            if not isinstance(answer, CallFailed):
                return answer
            self._refuse_if_closed()
            if not is_retryable(answer):
                raise request_error(answer, not_found) from answer
            # The last try may have no time to learn anything.
            failed = failed if answer.code() is grpc.StatusCode.DEADLINE_EXCEEDED and failed else answer
            if left <= 0:
                raise request_error(failed, not_found) from answer
            attempts += 1
            await asyncio.sleep(min(self._settings.backoff.pause(attempts), max(give_up_at - loop.time(), 0)))

    def stream(self, method: str, request: Any, response: type[Response]) -> "AsyncStream[Response]":
        """Return a stream, which opens when its first message is asked for. Raises ClientNotOpen."""
        self._refuse_if_closed()
        return AsyncStream(self, method, request, response)

    async def _try(
        self, method: str, request: Any, response: type[Response], timeout: float
    ) -> Response | CallFailed:
        return await self.run(self._ask(method, request, response, timeout))

    async def run(self, work: Coroutine[Any, Any, Response]) -> Response:
        """Run something in the thread's loop and wait for it."""
        try:
            loop = self._start()
        except (OSError, RuntimeError, MemoryError) as error:  # no file descriptor, or no thread
            work.close()
            raise Unavailable(f"nothing can be asked now: {error!r}") from error
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def close(self) -> None:
        """End all calls and the thread. Idempotent; blocks for a moment."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        process_hooks.remove(self)
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(self._settings.close_timeout)

    # Forks and the end of the program: see `process_hooks`.

    def shut_for_fork(self) -> None:
        """Begin to end all calls; they are made again later."""
        self._is_quiet.clear()
        self._may_go_on.clear()
        if (loop := self._loop) is not None:
            asyncio.run_coroutine_threadsafe(self._stand_still(), loop)

    def wait_for_fork(self, began: float) -> None:
        """Wait until the thread stands still, outside of grpc."""
        if self._loop is not None:
            self._is_quiet.wait(began + self._settings.fork_wait - time.monotonic())

    def resume_after_fork(self) -> None:
        """Let the thread go on, in the parent."""
        self._may_go_on.set()

    def start_in_child(self) -> None:
        """Leave everything to the parent, and start afresh."""
        process_hooks.keep_for_ever(self.__dict__.copy())
        process_hooks.remove(self)
        self._start_afresh()

    def hurry_at_exit(self) -> None:
        """Do nothing: no record waits here."""

    finish_at_exit = close

    # In the thread.

    def open(self) -> grpc.aio.Channel:
        """Return the channel: another one if there are new certificates. Raises NoChannel."""
        certificates = self.credentials.certificates()
        if self._channel is None or certificates is not self._certificates:  # the calls under way keep theirs
            self._channel = make_async_channel(self.credentials)
            self._certificates = certificates
        return self._channel

    def failure(
        self, error: BaseException, channel: grpc.aio.Channel | None, metadata: Metadata | None
    ) -> CallFailed:
        """Return how a call by a channel ended. Raises the error if the task was cancelled, and not its call."""
        if isinstance(error, grpc.RpcError):
            failed = CallFailed.copy_of(error, self.credentials, metadata)
            if channel is self._channel and may_have_moved(self.credentials.address, failed):
                self._channel = None  # the calls under way keep it
            return failed
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        return NoChannel("interrupted")

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._main, args=(loop,), name="emitd-reads", daemon=True)
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
                process_hooks.add(self)
            return self._loop

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.run_until_complete(self._end_calls())
        loop.close()

    async def _stand_still(self) -> None:
        await self._end_calls()
        self._is_quiet.set()
        self._may_go_on.wait()  # blocks the loop, so that nothing begins

    async def _end_calls(self) -> None:
        for stream in list(self.open_streams):
            stream.drop()
        for call in list(self._asked):
            call.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def _ask(
        self, method: str, request: Any, response: type[Response], timeout: float
    ) -> Response | CallFailed:
        call = channel = None
        metadata = self.credentials.metadata()
        try:
            channel = self.open()
            call = multi_callable(channel.unary_unary, method, request, response)(
                request, timeout=timeout, metadata=metadata
            )
            self._asked.add(call)
            return await call  # type: ignore[no-any-return]
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError) as error:
            return self.failure(error, channel, metadata)
        finally:
            self._asked.discard(call)
            del call, channel


class AsyncStream(Generic[Response]):
    """The messages of a stream, for one task at a time."""

    def __init__(self, reader: AsyncReader, method: str, request: Any, response: type[Response]) -> None:
        self._reader = reader
        self._arguments = method, request, response
        self._call: Any = None
        self._channel: grpc.aio.Channel | None = None
        self._metadata: Metadata | None = None
        self._is_dropped = False

    def __aiter__(self) -> "AsyncStream[Response]":
        return self

    async def __anext__(self) -> Response:
        """Return the next message. Raises grpc.RpcError; after a fork, one that is worth another try."""
        message = await self._reader.run(self._read())
        if message is None:
            raise StopAsyncIteration
        if isinstance(message, CallFailed):
            raise message
        return message

    async def aclose(self) -> None:
        """End it soon, if it has not ended."""
        if (loop := self._reader._loop) is not None:
            loop.call_soon_threadsafe(self.drop)

    def drop(self) -> None:
        """End it, in the thread, and free it."""
        call, self._call, self._is_dropped = self._call, None, True
        if call is not None:
            call.cancel()
        self._channel = None

    async def _read(self) -> Response | CallFailed | None:
        if self._is_dropped:
            return NoChannel("interrupted")
        try:
            if self._call is None:
                method, request, response = self._arguments
                self._channel, self._metadata = self._reader.open(), self._reader.credentials.metadata()
                self._call = multi_callable(self._channel.unary_stream, method, request, response)(
                    request, metadata=self._metadata
                )
                self._reader.open_streams.add(self)
            message = await self._call.read()
            return None if message is grpc.aio.EOF else message  # type: ignore[attr-defined]
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError) as error:
            return self._reader.failure(error, self._channel, self._metadata)
