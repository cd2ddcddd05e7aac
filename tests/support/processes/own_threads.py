"""The threads that a test starts: a count of all of its process changes with what other tests left."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def own_threads() -> Iterator[list[threading.Thread]]:
    """Note the threads that the calling one starts, and those that they start."""
    started: list[threading.Thread] = []
    own = {threading.current_thread()}
    start = threading.Thread.start

    def start_and_note(thread: threading.Thread) -> None:
        if threading.current_thread() in own:
            own.add(thread)
            started.append(thread)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_note)
        yield started


def alive(threads: list[threading.Thread]) -> list[str]:
    """Return the names of those that have not ended."""
    return [thread.name for thread in threads if thread.is_alive()]
