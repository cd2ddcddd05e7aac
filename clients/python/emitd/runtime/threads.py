"""`Senders`: the threads that send, started when there is work for them; and threads that send for themselves."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from emitd.runtime import process_hooks

__all__ = ["Senders", "is_sender", "sending_by_itself", "sending_deadline"]


class _ThisThread(threading.local):
    is_sender = False
    deadline = math.inf


_this_thread = _ThisThread()


def is_sender() -> bool:
    """Whether this thread sends records: what it logs about that must not become more to send."""
    return _this_thread.is_sender


def sending_deadline() -> float:
    """Return when this thread has to be done, by `time.monotonic`: infinity for a sender."""
    return _this_thread.deadline


@contextmanager
def sending_by_itself(deadline: float) -> Iterator[None]:
    """Make this thread a sender within the block, which its own caller waits for until the deadline."""
    before = _this_thread.is_sender, _this_thread.deadline
    _this_thread.is_sender, _this_thread.deadline = True, min(deadline, _this_thread.deadline)
    try:
        yield
    finally:
        _this_thread.is_sender, _this_thread.deadline = before


class Senders:
    """At most so many threads that run the same function until it returns.

    They are daemons: the end of the program is the affair of `process_hooks`, which flushes and then lets go.
    """

    def __init__(self, name: str, run: Callable[[], None], max_threads: int) -> None:
        self._name = name
        self._run = run
        self._max_threads = max_threads
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []

    def start(self) -> bool:
        """Start one more, if there may be; return whether there is any.

        None is started at the end of the program, where Python 3.12 refuses to, and older ones would wait for ever for
        a thread that never runs. Where there is none, whoever waits sends by itself.
        """
        with self._lock:
            if len(self._threads) < self._max_threads and not process_hooks.is_ending():
                self._start_one()
            return bool(self._threads)

    def join(self, deadline: float) -> bool:
        """Wait until all have returned, until the deadline (monotonic); return whether they have."""
        threads = [thread for thread in list(self._threads) if thread is not threading.current_thread()]
        for thread in threads:
            with suppress(RuntimeError):  # it is just being started: a signal came in between
                thread.join(max(deadline - time.monotonic(), 0.0))
        return not any([thread.is_alive() for thread in threads])

    def __len__(self) -> int:
        return len(self._threads)

    def _start_one(self) -> None:
        name = f"{self._name}-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to end, or the system has no more of them
            self._threads.remove(thread)

    def _main(self) -> None:
        _this_thread.is_sender = True
        try:
            self._run()
        finally:
            with self._lock:
                self._threads.remove(threading.current_thread())
