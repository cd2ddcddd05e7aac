"""`Senders`: the threads that send, started when there is work for them; and `TimeLeft`, how long they may try.

A thread that sends for itself, because no other can be started, has less time than a sender. It waits only while there
is patience: a fixed time for all such waiting together, and all of it again once the service has answered.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from emitd.runtime import process_hooks
from emitd.runtime.diagnostics import report_fault

#: The least that a call gets, however late it is: enough for a service that is there.
MIN_CALL_SECONDS = 0.01
#: A record, and one that comes of it, are sent; the next is counted as dropped, as `nested`. Without a limit there
#: would be no end if the `__repr__` of an object logs the object.
MAX_NESTING = 2


class _ThisThread(threading.local):
    is_sender = False
    deadline = math.inf
    #: How many records are being made in this thread: the text or the filter of one may itself log.
    depth = 0


making = _this_thread = _ThisThread()


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
    """At most `max_threads` threads that run the same function until it returns.

    They are daemons: at the end of the program `process_hooks` flushes, and then lets go.
    """

    def __init__(self, name: str, run: Callable[[], None], max_threads: int) -> None:
        self._name = name
        self._run = run
        self._max_threads = max_threads
        self._lock = threading.RLock()
        #: For others to look whether there is any.
        self.threads: list[threading.Thread] = []

    def start(self) -> bool:
        """Start one more, if there may be; return whether there is any. Never raises: the next call tries again.

        None is started at the end of the program: Python 3.12 refuses to, and older ones would wait for ever for a
        thread that never runs.
        """
        with self._lock:
            if len(self.threads) < self._max_threads and not process_hooks.is_ending():
                try:
                    self._start_one()
                except Exception as error:  # the system has no more threads, or no memory
                    if "interpreter shutdown" not in str(error):
                        report_fault("no thread could be started, the next record tries again", error)
            return bool(self.threads)

    def join(self, deadline: float) -> bool:
        """Wait until all have returned, until the deadline (monotonic); return whether they have."""
        threads = [thread for thread in list(self.threads) if thread is not threading.current_thread()]
        for thread in threads:
            with suppress(RuntimeError):  # it is just being started: a signal came in between
                thread.join(max(deadline - time.monotonic(), 0.0))
        return not any([thread.is_alive() for thread in threads])

    def _start_one(self) -> None:
        name = f"{self._name}-{len(self.threads) + 1}"
        thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.threads.append(thread)
        try:
            thread.start()
        except Exception:
            self.threads.remove(thread)
            raise

    def _main(self) -> None:
        _this_thread.is_sender = True
        try:
            self._run()
        except Exception as error:
            report_fault("a thread that sends has ended, the next record starts another", error)
        finally:
            with self._lock:
                self.threads.remove(threading.current_thread())


class TimeLeft:
    """How long a client may go on trying: as long as it takes, until it is being closed. For any thread."""

    def __init__(self, patience_seconds: float) -> None:
        self._closing = threading.Event()
        self._close_deadline = math.inf
        self._all_patience = self._patience = patience_seconds

    def close(self, deadline: float) -> None:
        """Let everything end by this time of `time.monotonic`, and a pause at once."""
        self._close_deadline = deadline
        self._closing.set()

    def reopen(self) -> None:
        """Let go on what comes even after that."""
        self._close_deadline = math.inf
        self._closing.clear()

    def seconds(self) -> float:
        """Return how much this thread has left; negative: it is late."""
        return min(self._close_deadline, sending_deadline()) - time.monotonic()

    def for_call(self, timeout: float) -> float:
        """Return how long a call may take."""
        return min(timeout, max(self.seconds(), MIN_CALL_SECONDS))

    def pause(self, seconds: float) -> bool:
        """Wait before another try; return False, at once, if there is no time for that."""
        if self.seconds() <= seconds:
            return False
        if self._closing.is_set():
            time.sleep(seconds)
        else:
            self._closing.wait(min(seconds, threading.TIMEOUT_MAX))
        return True

    @contextmanager
    def alone(self, timeout: float = math.inf) -> Iterator[float]:
        """Let this thread send within the block, for `timeout` and while there is patience; give the deadline."""
        began = time.monotonic()
        deadline = began + max(min(timeout, self._patience), MIN_CALL_SECONDS)
        with sending_by_itself(deadline):
            yield deadline
        self._patience = max(self._patience - (time.monotonic() - began), 0.0)

    def answered(self) -> None:
        """Note that the service is there."""
        self._patience = self._all_patience
