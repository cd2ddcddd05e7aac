"""The streaming calls that are open, so that they can be ended when the server goes down.

grpc's own stop waits for every stream to end by itself, which a watch does not.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from emitd_server.errors import ServiceStopping

__all__ = ["OpenStreams"]

T = TypeVar("T")


class OpenStreams:
    """Waits on behalf of streaming calls, until it is closed."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Task[Any]] = set()
        self._closed = False

    def close(self) -> None:
        """End every wait, now and from now on, with ServiceStopping."""
        self._closed = True
        for task in self._waits:
            task.cancel()

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the coroutine's result. Raises ServiceStopping when closed before it has one."""
        task = self.begin(coroutine)
        try:
            await asyncio.wait([task])
            return self.result(task)
        finally:
            task.cancel()

    async def iterate(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield the items of another iterator. Raises ServiceStopping when closed."""
        while True:
            try:
                item = await self.wait(_next(items))
            except StopAsyncIteration:
                return
            yield item

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a wait; whoever began it asks for its `result` when it is done, or cancels it."""
        if self._closed:
            coroutine.close()
            raise ServiceStopping
        task = asyncio.get_running_loop().create_task(coroutine)
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)
        return task

    def result(self, task: asyncio.Task[T]) -> T:
        """Return the result of a wait that is done. Raises ServiceStopping when closed before it had one."""
        if task.cancelled():
            raise ServiceStopping
        return task.result()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)
