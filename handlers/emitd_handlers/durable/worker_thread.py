"""One thread that runs blocking calls for an event loop, one after the other."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from emitd_handlers.errors import HandlerUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class WorkerThread:
    """Runs calls in the order given, in a daemon thread that starts with the first call.

    Unlike an executor's, the thread does not keep the process from ending: a call that blocks for ever can be
    abandoned.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run `call` in the thread; the future, of the running event loop, gets its result or exception.

        Cancelling the future does not stop the call. Raises HandlerUnavailable after `stop`.
        """
        if self._stopped:
            raise HandlerUnavailable(f"thread '{self._name}' is stopped")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = call(*args, **kwargs)
            except BaseException as error:  # it belongs to the waiter, not to this thread
                _call_in(loop, _fail, future, error)
            else:
                _call_in(loop, _succeed, future, result)

        if self._thread is None:
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._calls.put(work)
        return future

    async def stop(self) -> None:
        """Let the calls given so far end, then end the thread. Idempotent, and for good.

        Cancelling it abandons a call that does not end; the thread ends with that call.
        """
        self._stopped = True
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._calls.put(lambda: _call_in(loop, _succeed, done, None))
        self._calls.put(None)
        await done
        thread.join()

    def _loop(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


def _call_in(loop: asyncio.AbstractEventLoop, *callback_and_args: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(*callback_and_args)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if isinstance(error, StopIteration):  # the one exception that a future does not take
        error = RuntimeError(f"the call raised {error!r}")
    if not future.done():
        future.set_exception(error)
