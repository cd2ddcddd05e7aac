"""The streams that a watch reads: each by a thread of its own, and what they bring in one place.

All that is printed is printed by the thread that takes what has arrived, so that Ctrl-C, a closed pipe and a screen
that is drawn over have one place too. When it is slow the streams stand still, and the server coalesces.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple, TypeAlias

from emitd.v1 import WatchJobResponse, WatchJobsResponse

#: So many items may wait to be taken.
ROOM = 16
#: How often a thread that waits for room looks whether anybody still takes anything.
LOOK_SECONDS = 0.2
#: A thread that has not ended after this is left to the end of the process.
JOIN_SECONDS = 5.0


class Arrived(NamedTuple):
    """A message of a stream; `begins`: the first of its connection."""

    response: WatchJobResponse | WatchJobsResponse
    begins: bool


class Note(NamedTuple):
    """What people should know and is no error."""

    text: str


class Ended(NamedTuple):
    """A stream will bring nothing more; `error`: why, unless it ended as it should."""

    name: str
    error: Exception | None


Item: TypeAlias = Arrived | Note | Ended


class StreamsClosed(Exception):
    """Nobody takes anything any more."""


class JobStreams:
    """Every method but `start`, `take` and `close` is for the threads that read."""

    def __init__(self) -> None:
        self._arrived: Queue[Item] = Queue(ROOM)
        self._closed = Event()
        self._lock = Lock()
        self._calls: set[Any] = set()
        self._threads: list[Thread] = []

    def start(self, name: str, follow: Callable[[], None]) -> None:
        """Run `follow` in a thread; when it returns or raises, an Ended of this name arrives."""
        thread = Thread(target=self._run, args=(name, follow), name=f"watch {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def take(self, seconds: float | None) -> Item | None:
        """Return the next that has arrived; None if nothing does within `seconds` (None: for ever)."""
        try:
            return self._arrived.get(timeout=seconds)
        except Empty:
            return None

    def put(self, item: Item) -> None:
        """Let an item arrive, as soon as there is room. Raises StreamsClosed."""
        while not self._closed.is_set():
            try:
                self._arrived.put(item, timeout=LOOK_SECONDS)
            except Full:
                continue
            return
        raise StreamsClosed

    @contextmanager
    def opened(self, call: Callable[[Any], Any], request: Any) -> Iterator[Any]:
        """Give a stream's messages until the end of the context. Raises StreamsClosed."""
        with self._lock:  # so that a call is either cancelled by `close` or not made
            if self._closed.is_set():
                raise StreamsClosed
            stream = call(request)
            self._calls.add(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._calls.discard(stream)

    def pause(self, seconds: float) -> None:
        """Sleep. Raises StreamsClosed, at once."""
        if self._closed.wait(seconds):
            raise StreamsClosed

    def close(self) -> None:
        """End all streams and their threads."""
        with self._lock:
            self._closed.set()
            calls = list(self._calls)
        for stream in calls:
            stream.cancel()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _run(self, name: str, follow: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            follow()
        except Exception as raised:  # raised again, or told, by whoever takes it
            error = raised
        with suppress(StreamsClosed):
            self.put(Ended(name, error))


@contextmanager
def job_streams() -> Iterator[JobStreams]:
    """Give streams that are closed at the end of the context."""
    streams = JobStreams()
    try:
        yield streams
    finally:
        streams.close()
