"""`on_stop_signals`: learn of a stop when the server does.

An ASGI server tells the application of its end only when all answers are finished, and waits for event streams that
would end if they were told. So the signal is heard here too, and passed on.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["on_stop_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop_signals(call: Callable[[], object]) -> Iterator[None]:
    """Call `call`, from the signal handler, before whoever handles SIGINT and SIGTERM now; within the block.

    Signals that nobody handles in Python are left alone, and so are all outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        call()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in _SIGNALS:
        if callable(before[number]):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
