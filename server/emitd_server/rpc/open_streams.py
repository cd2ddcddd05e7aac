"""The open streaming calls: how they send, and how they are ended when the server goes down.

grpc's own stop waits for each stream to end by itself, which a watch does not.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from emitd_handlers.errors import EmitdError
from emitd_server.access.limits import StreamLimit
from emitd_server.errors import ServiceStopping, StreamStalled
from emitd_server.memory import MemoryAccount

__all__ = ["OpenStreams", "StreamLimit"]

#: How often a message is held that was not taken: here, and inside grpc.
COPIES = 2
#: Smaller messages are no more than a stream takes itself, and are not charged. Measured: saves 10 of 65 µs a message.
SMALL_BYTES = 4096
#: What messages that were not taken may hold of the account, so that requests find room.
STREAMS_SHARE = 0.5
#: How often it is asked whether the caller of an open stream is still let.
CHECK_SECONDS = 5.0


class OpenStreams:
    """Sends the messages of streaming calls, and ends these when it is closed.

    A call is ended while it waits, never while it sends, so that it can still send its status. What its reader has not
    taken is charged to `memory`; a reader that takes nothing for `stall_seconds` ends it.
    """

    def __init__(self, memory: MemoryAccount | None = None, stall_seconds: float = 60.0) -> None:
        self._memory = memory or MemoryAccount(sys.maxsize)
        self._stall_seconds = stall_seconds
        #: Bytes in messages that were not taken.
        self._untaken = 0
        #: The tasks of calls that have no end of their own.
        self.endless: set[Any] = set()
        #: Why some of them were ended.
        self._ended: dict[Any, EmitdError] = {}
        #: The tasks that are sending, and since when, by the loop's clock.
        self._sending: dict[Any, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def close(self) -> None:
        """End every endless call with ServiceStopping, now and from now on; one that sends, when it has sent."""
        self._closed = True
        for task in self.endless - self._sending.keys() - self._ended.keys():
            task.cancel()

    @contextmanager
    def ending(self, check: Callable[[], object] | None = None) -> Iterator[None]:
        """Make the current task one that is ended in the block. Raises ServiceStopping when closed.

        `check` is called every CHECK_SECONDS; when it raises an EmitdError, the task is ended with that.
        """
        if self._closed:
            raise ServiceStopping
        task: Any = asyncio.current_task()
        self.endless.add(task)
        checking = None if check is None else asyncio.create_task(self._check(task, check))
        try:
            yield
        except asyncio.CancelledError:
            if not self._closed and task not in self._ended:
                raise
            task.uncancel()
            raise self._ended.get(task) or ServiceStopping() from None
        finally:
            if checking is not None:
                checking.cancel()
            self.endless.remove(task)
            self._ended.pop(task, None)

    async def _check(self, task: Any, check: Callable[[], object]) -> None:
        """End a call, while it waits, when its check fails."""
        while task not in self._ended:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                check()
            except EmitdError as error:
                if task not in self._sending and not self._closed:
                    self._ended[task] = error
                    task.cancel()

    async def send(
        self, context: "grpc.aio.ServicerContext[Any, Any]", message: Any, size: int, *, is_owed: bool = False
    ) -> None:
        """Send a message of `size` bytes: return when grpc has passed it on, as far as its reader takes any.

        Raises StreamStalled, ServiceStopping in a call that is `ending`, and MemoryExhausted unless `is_owed`: the
        reply to a request that was carried out.
        """
        is_small = size <= SMALL_BYTES
        writing = context.write(message) if is_small else self._write_charged(context, message, size, is_owed)
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        self._sending[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._stall_seconds, self._end_stalled, loop)
        try:
            await writing
        except asyncio.CancelledError:
            if task in self._sending:
                raise
            task.uncancel()  # type: ignore[union-attr]  # there is always one
            raise StreamStalled(self._stall_seconds) from None
        finally:
            self._sending.pop(task, None)
        if self._closed and task in self.endless:
            raise ServiceStopping

    def _write_charged(self, context: Any, message: Any, size: int, is_owed: bool) -> Awaitable[None]:
        held = COPIES * size
        has_room = self._untaken + held <= STREAMS_SHARE * self._memory.limit_bytes or not self._untaken
        if not is_owed and (self._memory.is_full or not has_room):
            raise self._memory.exhausted()
        self._memory.add(held)
        self._untaken += held

        def settle(_: "asyncio.Future[None]") -> None:
            self._memory.add(-held)
            self._untaken -= held

        # A task of its own: grpc holds the message until it is taken or the connection ends, also after a stall.
        writing = asyncio.ensure_future(context.write(message))
        writing.add_done_callback(settle)
        return asyncio.shield(writing)

    def _end_stalled(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls that send for too long: one timer for all. Measured: saves 6 µs a message."""
        self._timer = None
        while self._sending and self._timer is None:
            task, began = next(iter(self._sending.items()))
            if (seconds := began + self._stall_seconds - loop.time()) > 0:
                self._timer = loop.call_later(seconds, self._end_stalled, loop)
            else:
                del self._sending[task]
                task.cancel()
