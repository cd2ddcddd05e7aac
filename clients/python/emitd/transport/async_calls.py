"""`AsyncCalls`: the calls of grpc.aio, awaited in any event loop, and made in a thread and a loop of their own.

    await ask, anext(stream) ─> the thread's loop ─> grpc.aio ─> the service

grpc.aio keeps a thread inside grpc for as long as it has a channel, and a child that is forked then crashes, or hangs.
A fork can end it only from another thread than the one that forks, and that may be the one of the caller's loop.
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from emitd.runtime import process_hooks
from emitd.settings import ClientSettings
from emitd.transport.channel import CallFailed, NoChannel, make_async_channel
from emitd.transport.grpc_transport import multi_callable
from emitd.transport.reply import is_retryable, request_error

__all__ = ["AsyncCalls", "AsyncReader", "AsyncStream"]

T = TypeVar("T")
Response = TypeVar("Response")


class AsyncCalls:
    """For any thread and event loop. A forked child has a thread and a channel of its own."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # From here on: for the thread alone.
        self._channel: grpc.aio.Channel | None = None
        self._asked: set[Any] = set()
        self._streams: weakref.WeakSet[AsyncStream[Any]] = weakref.WeakSet()
        #: Of the fork under way.
        self._is_quiet = threading.Event()
        self._may_go_on = threading.Event()

    async def ask(self, method: str, request: Any, response: type[Response], timeout: float) -> Response:
        """Ask something. Raises grpc.RpcError."""
        answer = await self.run(self._ask(method, request, response, timeout))
        if isinstance(answer, grpc.RpcError):
            raise answer
        return answer

    def stream(self, method: str, request: Any, response: type[Response]) -> "AsyncStream[Response]":
        """Return a stream, which opens with the first message that is wanted."""
        return AsyncStream(self, method, request, response)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the thread's loop, and wait for it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._start()))

    def close(self) -> None:
        """End all calls, and the thread. Idempotent; blocks for a moment."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        process_hooks.remove(self)
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(self._settings.close_timeout)

    def cancel(self, stream: "AsyncStream[Any]") -> None:
        """End a stream, soon."""
        if (loop := self._loop) is not None:
            loop.call_soon_threadsafe(stream.drop)

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
        """Leave all that there is to the parent."""
        process_hooks.keep_for_ever(self.__dict__.copy())
        process_hooks.remove(self)
        self._start_afresh()

    def hurry_at_exit(self) -> None:
        """Do nothing: nothing waits to be sent."""

    def finish_at_exit(self) -> None:
        """End the thread: no answer is wanted any more."""
        self.close()

    # In the thread.

    def open(self) -> grpc.aio.Channel:
        """Return the channel. Raises NoChannel."""
        if self._channel is None:
            self._channel = make_async_channel(self._settings.address)
        return self._channel

    def add(self, stream: "AsyncStream[Any]") -> None:
        """Note a stream that is open, and has to be dropped for a fork."""
        self._streams.add(stream)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._main, args=(self._loop,), name="emitd-reads", daemon=True
                )
                process_hooks.add(self)
                self._thread.start()
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
        for stream in list(self._streams):
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
    ) -> Response | grpc.RpcError:
        call = None
        try:
            call = multi_callable(self.open().unary_unary, method, request, response)(
                request, timeout=timeout
            )
            self._asked.add(call)
            return await call  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            return CallFailed.copy_of(error)
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if _is_cancelled():
                raise
            return NoChannel("interrupted")
        finally:
            self._asked.discard(call)
            del call


class AsyncStream(Generic[Response]):
    """The messages of a stream, for one task at a time."""

    def __init__(self, calls: AsyncCalls, method: str, request: Any, response: type[Response]) -> None:
        self._calls = calls
        self._arguments = method, request, response
        self._call: Any = None
        self._is_dropped = False

    def __aiter__(self) -> "AsyncStream[Response]":
        return self

    async def __anext__(self) -> Response:
        """Return the next message. Raises grpc.RpcError: of a kind that is worth another try, after a fork."""
        message = await self._calls.run(self._read())
        if message is None:
            raise StopAsyncIteration
        if isinstance(message, grpc.RpcError):
            raise message
        return message

    def cancel(self) -> None:
        """End it, if it has not ended."""
        self._calls.cancel(self)

    def drop(self) -> None:
        """End it, in the thread, and free it."""
        call, self._call, self._is_dropped = self._call, None, True
        if call is not None:
            call.cancel()

    async def _read(self) -> Response | grpc.RpcError | None:
        if self._is_dropped:
            return NoChannel("interrupted")
        try:
            if self._call is None:
                method, request, response = self._arguments
                self._call = multi_callable(self._calls.open().unary_stream, method, request, response)(
                    request
                )
                self._calls.add(self)
            message = await self._call.read()
            return None if message is grpc.aio.EOF else message  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            return CallFailed.copy_of(error)
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if _is_cancelled():
                raise
            return NoChannel("interrupted")


class AsyncReader:
    """The questions of an `AsyncLogClient`, asked again while that can help. For any event loop."""

    def __init__(self, settings: ClientSettings, refuse_if_closed: Callable[[], None]) -> None:
        self._settings = settings
        self._refuse_if_closed = refuse_if_closed
        self._calls = AsyncCalls(settings)

    async def ask(self, method: str, request: Any, response: type[Response]) -> Response:
        """Ask something, again while that can help. Raises EmitError."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settings.timeout
        attempts = 0
        while True:
            self._refuse_if_closed()
            left = give_up_at - loop.time()
            try:
                return await self._calls.ask(method, request, response, max(left, 0.001))
            except grpc.RpcError as error:
                self._refuse_if_closed()
                if not is_retryable(error) or left <= 0:
                    raise request_error(error) from error
            attempts += 1
            await asyncio.sleep(min(self._settings.backoff.pause(attempts), max(give_up_at - loop.time(), 0)))

    def stream(self, method: str, request: Any, response: type[Response]) -> AsyncStream[Response]:
        """Return the messages of a stream. Raises ClientNotOpen; grpc.RpcError from its steps."""
        self._refuse_if_closed()
        return self._calls.stream(method, request, response)

    def close(self) -> None:
        """End all streams. Idempotent; blocks for a moment."""
        self._calls.close()


def _is_cancelled() -> bool:
    """Return whether it is the task that was cancelled, and not its call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
