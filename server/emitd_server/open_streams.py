"""The streaming calls that are open, so that they can be ended when the server goes down.

grpc's own stop waits for every stream to end by itself, which a watch does not.
"""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, TypeVar

from emitd_server.errors import ServiceStopping

__all__ = ["OpenStreams"]

T = TypeVar("T")


class OpenStreams:
    """Knows which streaming calls are waiting, and ends their waits when it is closed.

    A call is ended where it waits, and never while it sends: it can still say why it ends.
    """

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[Any]] = set()
        self._closed = False

    def close(self) -> None:
        """End every wait, now and from now on, with ServiceStopping."""
        self._closed = True
        for task in self._waiting:
            task.cancel()

    def waiting(self) -> "_Waiting":
        """Return a context manager around what a call waits for. It raises ServiceStopping when closed."""
        return _Waiting(self)

    async def iterate(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield the items of another iterator. Raises ServiceStopping when closed."""
        while True:
            with self.waiting():
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            yield item

    def _enter(self) -> "asyncio.Task[Any]":
        if self._closed:
            raise ServiceStopping
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        return task

    def _leave(self, task: "asyncio.Task[Any]", exception: BaseException | None) -> None:
        self._waiting.discard(task)
        if self._closed and isinstance(exception, asyncio.CancelledError):
            task.uncancel()
            raise ServiceStopping from None


class _Waiting:
    """One wait. A class, because a generator would take three times as long for each message of a stream."""

    __slots__ = ("_streams", "_task")

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams

    def __enter__(self) -> None:
        self._task = self._streams._enter()

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams._leave(self._task, exception)
