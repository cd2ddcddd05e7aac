"""The open streaming calls, so that they can be ended when the server goes down, and limits on their number.

grpc's own stop waits for each stream to end by itself, which a watch does not.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from emitd_server.errors import ServiceStopping, TooManyWatchers

__all__ = ["OpenStreams", "StreamLimit", "Waiting"]

T = TypeVar("T")


class OpenStreams:
    """Knows which streaming calls are waiting, and ends their waits when it is closed.

    A call is ended while it waits, never while it sends, so that it can still send its status.
    """

    def __init__(self) -> None:
        self.waiting_tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

    def close(self) -> None:
        """End every wait, now and from now on, with ServiceStopping."""
        self.closed = True
        for task in self.waiting_tasks:
            task.cancel()

    def waiting(self) -> "Waiting":
        """Return a context manager for the waits of one call; it can be entered many times."""
        return Waiting(self)

    async def iterate(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield the items of another iterator. Raises ServiceStopping when closed."""
        waiting = self.waiting()
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
        self._open = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a stream as open in the block. Raises TooManyWatchers."""
        if self._open >= self._limit:
            raise TooManyWatchers(self._limit, self._key)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
