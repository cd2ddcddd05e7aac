"""What a process does to its clients: it forks, and it ends.

    fork:  shut_for_fork of all ─> wait_for_fork of each ─> (the fork) ─┬─> resume_after_fork, in the parent
                                                                       └─> start_in_child

A fork waits until no client is inside grpc; the child starts each client afresh. The end of the program flushes: by
`atexit`, and in a child of `multiprocessing` or of Celery, which skips that, by what these have for it.
"""

import atexit
import ctypes
import logging  # noqa: F401  # first: its own hook, which takes logging's lock, has to come after ours at a fork
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Protocol


class Client(Protocol):
    """What the hooks ask of a client."""

    def shut_for_fork(self) -> None:
        """Let no further thread into what a fork must not copy in use. Waits for nothing."""

    def wait_for_fork(self, began: float) -> None:
        """Wait until no thread is in there, for the client's `fork_wait` since `began` (`time.monotonic`) at most."""

    def resume_after_fork(self) -> None:
        """Go on, in the parent."""

    def start_in_child(self) -> None:
        """Leave everything to the parent, and start afresh."""

    def hurry_at_exit(self) -> None:
        """Let everything be sent now: the program is at its end. Does not wait."""

    def finish_at_exit(self) -> None:
        """Deliver, spool or count what there is."""


#: All that are not closed.
_clients: dict[int, Client] = {}
#: Those for which forks are under way, in this thread: one, or more if a signal's handler forks within a fork.
_prepared: list[Sequence[Client]] = []
#: One thread forks at a time: the end of its fork would open what another's has shut.
_forking = threading.RLock()
#: The process that `begin` was called in.
_begun_in = 0
#: Since when the program is at its end, by `time.monotonic`.
_ending_since: float | None = None


def add(client: Client) -> None:
    """Take care of a client from now on."""
    _clients[id(client)] = client


def begin() -> None:
    """Flush clients at the end of this process, because one of them is used.

    Children of `multiprocessing`, and of its copy in Celery, end by `os._exit` after their own finalizers; the workers
    of Celery's pool run none, and have a signal instead.
    """
    global _begun_in
    if _begun_in == os.getpid():
        return
    _begun_in = os.getpid()
    for name in ("multiprocessing", "billiard"):
        util = sys.modules.get(f"{name}.util")
        process = sys.modules.get(f"{name}.process")
        if util is not None and process is not None and process.current_process().name != "MainProcess":
            util.Finalize(None, _finish_all, exitpriority=0)
    if (signals := sys.modules.get("celery.signals")) is not None:
        signals.worker_process_shutdown.connect(lambda **_: _finish_all(), weak=False, dispatch_uid=__name__)


def remove(client: Client) -> None:
    """Forget a client that was closed."""
    _clients.pop(id(client), None)


def is_ending() -> bool:
    """Whether the program is at its end: no thread can be started."""
    return _ending_since is not None


def ending_seconds() -> float:
    """Return for how long the program has been at its end; 0 before that. All clients share the time they have."""
    return 0.0 if _ending_since is None else time.monotonic() - _ending_since


def keep_for_ever(thing: object) -> None:
    """Keep an object of a forked child's parent from being freed, which would use it; also at the child's end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _prepare_fork() -> None:
    _forking.acquire()
    began = time.monotonic()
    clients = list(_clients.values())
    _prepared.append(clients)
    for client in clients:
        client.shut_for_fork()
    for client in clients:
        client.wait_for_fork(began)


def _after_in_parent() -> None:
    for client in _prepared.pop():
        client.resume_after_fork()
    _forking.release()


def _after_in_child() -> None:
    global _ending_since, _forking
    _ending_since = None
    _forking = threading.RLock()
    _prepared.clear()
    for client in list(_clients.values()):
        client.start_in_child()


def _finish_all() -> None:
    global _ending_since
    _ending_since = time.monotonic()
    clients = list(_clients.values())
    for client in clients:
        client.hurry_at_exit()
    for client in clients:
        client.finish_at_exit()


os.register_at_fork(before=_prepare_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
atexit.register(_finish_all)
