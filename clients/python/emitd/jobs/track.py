"""`Track` and `AsyncTrack`: a loop that is a job. Each item is a step; the end of the items is the end of the job.

    for row in client.track(rows, job_type="import"):
        store(row)

The job is begun with the first item and COMPLETED after the last one; a step is done when the next item is asked for.
If the items raise, it is FAILED with that. If the loop is left early, it is FAILED with the reason INCOMPLETE: a
`break` and an exception in the loop's body look the same. As a context manager a track sees the difference, and the end
of the block is the end of the job:

    with client.track(rows, job_type="import") as rows:
        for row in rows:
            store(row)

A track without a name ends its job as soon as the loop is left. A track that is kept under a name goes on with the
remaining items when it is looped over again, as any iterator does; its `close` ends it, and so does its client's.
"""

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, SupportsFloat, TypeAlias, TypeVar

from emitd.errors import ClientNotOpen
from emitd.records.exceptions import Incomplete, failure_of

if TYPE_CHECKING:
    from emitd.jobs.interface import AsyncJobReporter
    from emitd.jobs.reporter import JobReporter


T = TypeVar("T")
#: The reporter of a job, for `with`.
R_co = TypeVar("R_co", bound="JobReporter", covariant=True)

#: Runs a coroutine in a task of its own, under a name. In the event loop only.
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], object]


class TrackSteps:
    """Counts the steps, and sees to it that the end of the job is reported once. `take_end` is for any thread."""

    def __init__(self, items: object, job_id: str | None, total: SupportsFloat | None) -> None:
        self.job_id = job_id or secrets.token_hex(16)
        self.total = _length(items) if total is None else total
        self.done = 0
        #: Whether the job was begun; its end is to be reported then, once.
        self.begun = False
        self.ended = False
        #: Whether an item was handed out.
        self.has_item = False
        #: Whether a `with` block decides on the end.
        self.in_block = False
        self._process_id = 0
        # Reentrant: the finalizer may run in a thread that is in here already.
        self._lock = threading.RLock()

    def finish_item(self, reporter: "JobReporter | AsyncJobReporter") -> None:
        """Note that the last item is done. Raises LeaseLost."""
        reporter.refuse_if_lost()
        if self.has_item:
            self.done += 1
            reporter.advance()

    def note_begun(self) -> bool:
        """Note that there is an end to report from now on; return False where `take_end` came first."""
        with self._lock:
            self.begun = True
            self._process_id = os.getpid()
            return not self.ended

    def take_end(self) -> bool:
        """Return whether the end is to be reported now, by the caller; true only once.

        Never in a forked child, which may unwind a copy of its parent's loop: the job is the parent's.
        """
        with self._lock:
            is_due = self.begun and not self.ended
            self.ended = True
            return is_due and self._process_id == os.getpid()

    def refuse_if_ended(self) -> None:
        """Raise ClientNotOpen for who wants another item of a track that was closed under the loop."""
        if self.ended:
            raise ClientNotOpen(f"job '{self.job_id}' was {self.left_by()}: its track is closed")

    def left_by(self, exception: BaseException | None = None) -> BaseException:
        """Return why the job fails whose loop was left early."""
        of_total = f" of {self.total}" if self.total else ""
        return failure_of(exception) or Incomplete(f"left after {self.done}{of_total} items")


class Track(Generic[T, R_co]):
    """An iterator over `items` that reports them as a job; for one thread, but `close` is for any."""

    def __init__(
        self,
        items: Iterable[T],
        make_job: Callable[[str, SupportsFloat | None], R_co],
        *,
        job_id: str | None = None,
        total: SupportsFloat | None = None,
    ) -> None:
        """Loop over `items`, with a job that `make_job` makes of its id and the number of steps. Nothing is sent yet.

        `job_id` None: a random one. `total` None: as many as `items` has, if it knows; 0: there is no percentage.
        """
        self._items = items
        self._iterator: Iterator[T] | None = None
        self._exhausted = False
        #: In which thread the loop was, last.
        self._thread_id = 0
        self._steps = TrackSteps(items, job_id, total)
        self._job = make_job(self._steps.job_id, self._steps.total)

    @property
    def job(self) -> R_co:
        """The job's reporter, for messages and details, and for a look at `cancel_requested`."""
        return self._job

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._exhausted:
            raise StopIteration
        self._begin()
        try:
            self._steps.finish_item(self._job)
            if self._iterator is None:
                self._iterator = iter(self._items)
            item = next(self._iterator)
        except StopIteration:
            self._exhausted = True
            if not self._steps.in_block:
                self._end(None)
            raise
        except BaseException as error:
            self._exhausted = True
            self._end(self._steps.left_by(error))
            raise
        self._steps.has_item = True
        return item

    def close(self) -> None:
        """End the job as INCOMPLETE if it has begun and not ended yet. From any thread; idempotent."""
        self._end(self._steps.left_by())

    def __enter__(self) -> Self:
        self._steps.in_block = True
        self._begin()
        return self

    def __exit__(self, kind: object, exception: BaseException | None, trace: object, /) -> None:
        if not self._exhausted:
            exception = self._steps.left_by(exception)
        self._end(exception)

    def __del__(self) -> None:
        if not hasattr(self, "_job") or not self._steps.take_end():  # the job could not be made, or has ended
            return
        arguments = Incomplete, self._steps.left_by(), None
        if threading.get_ident() != self._thread_id:
            # The garbage collector's choice, such as the very thread that sends the report that this waits for.
            thread = threading.Thread(
                target=self._job.__exit__, args=arguments, daemon=True, name="emitd-track"
            )
            with suppress(Exception):  # the interpreter ends, or there are too many threads
                thread.start()
                return
        self._job.__exit__(*arguments)

    def _begin(self) -> None:
        self._thread_id = threading.get_ident()
        self._steps.refuse_if_ended()
        if self._steps.begun:
            return
        self._job.__enter__()
        if not self._steps.note_begun():
            self._job.__exit__(Incomplete, self._steps.left_by(), None)
            self._steps.refuse_if_ended()

    def _end(self, exception: BaseException | None) -> None:
        if self._steps.take_end():
            self._job.__exit__(type(exception) if exception else None, exception, _trace(exception))


class AsyncTrack(Generic[T]):
    """What `Track` is, for `async for`, over plain or asynchronous `items`; for one event loop."""

    def __init__(
        self,
        items: Iterable[T] | AsyncIterable[T],
        make_job: Callable[[str, SupportsFloat | None], "AsyncJobReporter"],
        spawn: Spawn,
        *,
        job_id: str | None = None,
        total: SupportsFloat | None = None,
    ) -> None:
        """Loop as `Track` does; the end of a loop that was left early is reported in a task that `spawn` makes."""
        self._items = items
        self._iterator: AsyncIterator[T] | None = None
        self._exhausted = False
        self._spawn = spawn
        self._loop: asyncio.AbstractEventLoop | None = None
        self._steps = TrackSteps(items, job_id, total)
        self._job = make_job(self._steps.job_id, self._steps.total)

    @property
    def job(self) -> "AsyncJobReporter":
        """The job's reporter, for messages and details, and for a look at `cancel_requested`."""
        return self._job

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._exhausted:
            raise StopAsyncIteration
        await self._begin()
        try:
            self._steps.finish_item(self._job)
            if self._iterator is None:
                items = self._items
                self._iterator = aiter(items) if isinstance(items, AsyncIterable) else _plain(items)
            item = await anext(self._iterator)
        except StopAsyncIteration:
            self._exhausted = True
            if not self._steps.in_block:
                await self._end(None)
            raise
        except BaseException as error:
            self._exhausted = True
            await self._end(self._steps.left_by(error))
            raise
        self._steps.has_item = True
        return item

    async def aclose(self) -> None:
        """End the job as INCOMPLETE if it has begun and not ended yet. Idempotent."""
        await self._end(self._steps.left_by())

    async def __aenter__(self) -> Self:
        self._steps.in_block = True
        await self._begin()
        return self

    async def __aexit__(self, kind: object, exception: BaseException | None, trace: object, /) -> None:
        if not self._exhausted:
            exception = self._steps.left_by(exception)
        await self._end(exception)

    def __del__(self) -> None:
        if self._loop is None or not self._steps.take_end():
            return
        arguments = self._spawn, self._job, self._steps.left_by()
        if _running_loop() is self._loop:  # at once, so that whoever closes the client next waits for it
            _leave(*arguments)
        else:
            with suppress(RuntimeError):  # the loop was closed under us: nobody is left to send
                self._loop.call_soon_threadsafe(_leave, *arguments)

    async def _begin(self) -> None:
        self._steps.refuse_if_ended()
        if self._steps.begun:
            return
        await self._job.__aenter__()
        self._loop = asyncio.get_running_loop()
        if not self._steps.note_begun():
            await self._job.__aexit__(Incomplete, self._steps.left_by(), None)
            self._steps.refuse_if_ended()

    async def _end(self, exception: BaseException | None) -> None:
        if self._steps.take_end():
            await self._job.__aexit__(type(exception) if exception else None, exception, _trace(exception))


def _leave(spawn: Spawn, job: "AsyncJobReporter", incomplete: BaseException) -> None:
    spawn(job.__aexit__(Incomplete, incomplete, None), f"emitd-track-{job.job_id}")


async def _plain(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        await asyncio.sleep(0)  # a loop that awaits nothing lets others run, also what sends its progress
        yield item


def _trace(exception: BaseException | None) -> TracebackType | None:
    return None if exception is None else exception.__traceback__


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _length(items: object) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]  # most things have a length
    except Exception:  # too large, or a fault of the items' own: they may be looped over all the same
        return None
