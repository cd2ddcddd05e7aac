"""The open streaming calls: how they send, how they are ended when the server goes down, and how many there may be.

grpc's own stop waits for each stream to end by itself, which a watch does not.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Any, TypeVar

import grpc

from emitd_handlers.errors import EmitdError
from emitd_server.errors import ServiceStopping, StreamStalled, TooManyWatchers
from emitd_server.memory import MemoryAccount

#: How often a message is held that was not taken: here, and inside grpc.
COPIES = 2
#: Smaller messages are no more than a stream takes itself, and are not charged. Measured: saves 10 of 65 µs a message.
SMALL_BYTES = 4096
#: What messages that were not taken may hold of the account, so that requests find room.
STREAMS_SHARE = 0.5

#: How often it is asked whether the caller of an open stream is still let.
CHECK_SECONDS = 5.0

T = TypeVar("T")


class OpenStreams:
    """Sends the messages of streaming calls. Knows which calls are waiting, and ends their waits when it is closed.

    A call is ended while it waits, never while it sends, so that it can still send its status. What its reader has not
    taken is charged to `memory`; a reader that takes nothing for `stall_seconds` ends it.
    """

    def __init__(self, memory: MemoryAccount | None = None, stall_seconds: float = 60.0) -> None:
        self._memory = memory or MemoryAccount(sys.maxsize)
        self._stall_seconds = stall_seconds
        #: Bytes in messages that were not taken.
        self._untaken = 0
        #: What ends the wait of a task by an exception, asked every CHECK_SECONDS; and the exceptions.
        self._checks: dict[asyncio.Task[Any], Callable[[], object]] = {}
        self._refusals: dict[asyncio.Task[Any], EmitdError] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.waiting_tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

    def close(self) -> None:
        """End every wait, now and from now on, with ServiceStopping."""
        self.closed = True
        for task in self.waiting_tasks:
            task.cancel()

    async def send(
        self, context: "grpc.aio.ServicerContext[Any, Any]", message: Any, size: int, *, is_owed: bool = False
    ) -> None:
        """Send a message of `size` bytes: return when grpc has passed it on, as far as its reader takes any.

        Raises StreamStalled, and MemoryExhausted unless `is_owed`: the reply to a request that was carried out.
        """
        if size <= SMALL_BYTES:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await context.write(message)
            except TimeoutError:
                raise StreamStalled(self._stall_seconds) from None
            return
        held = COPIES * size
        has_room = self._untaken + held <= STREAMS_SHARE * self._memory.limit_bytes or not self._untaken
        if not is_owed and (self._memory.is_full or not has_room):
            raise self._memory.exhausted()
        self._memory.add(held)
        self._untaken += held
        # A task of its own: grpc holds the message until it is taken or the connection ends, also after a stall.
        sending = asyncio.ensure_future(context.write(message))

        def settle(sending: "asyncio.Future[None]") -> None:
            self._memory.add(-held)
            self._untaken -= held
            if not sending.cancelled():
                sending.exception()  # of a stream that has stalled nobody asks for it

        sending.add_done_callback(settle)
        if not (await asyncio.wait((sending,), timeout=self._stall_seconds))[0]:
            raise StreamStalled(self._stall_seconds)
        sending.result()

    @contextmanager
    def checked(self, check: Callable[[], object]) -> Iterator[None]:
        """End the wait of a task in the block with the EmitdError that `check` raises from some time on."""
        task = asyncio.current_task()
        assert task is not None
        self._checks[task] = check
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check_all)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._refusals:
                raise
            task.uncancel()
            raise self._refusals[task] from None
        finally:
            del self._checks[task]
            self._refusals.pop(task, None)

    def _check_all(self) -> None:
        for task in self._checks.keys() & self.waiting_tasks - self._refusals.keys():
            try:
                self._checks[task]()
            except EmitdError as error:
                self._refusals[task] = error
                task.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(CHECK_SECONDS, self._check_all) if self._checks else None

    def waiting(self) -> "Waiting":
        """Return a context manager for the waits of one call; it can be entered many times."""
        return Waiting(self)

    async def iterate(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Yield the items of another iterator, and close it at the end. Raises ServiceStopping when closed."""
        waiting = self.waiting()
        async with aclosing(items):
            while True:
                with waiting:
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        return
                yield item


class Waiting:
    """The waits of one call, one after the other. Entering and leaving raise ServiceStopping when closed."""

    __slots__ = ("_streams", "_task")

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams

    def __enter__(self) -> None:
        if self._streams.closed:
            raise ServiceStopping
        task = asyncio.current_task()
        assert task is not None
        self._task = task  # asked each time: a generator can be handed from task to task
        self._streams.waiting_tasks.add(task)

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.waiting_tasks.discard(self._task)
        if self._streams.closed and isinstance(exception, asyncio.CancelledError):
            self._task.uncancel()
            raise ServiceStopping from None


class StreamLimit:
    """How many streams of a kind may be open at once; `key` is the setting that says so."""

    def __init__(self, limit: int, key: str) -> None:
        self._limit = limit
        self._key = key
        #: How many are open now.
        self.open = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a stream as open in the block. Raises TooManyWatchers."""
        if self.open >= self._limit:
            raise TooManyWatchers(self._limit, self._key)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
