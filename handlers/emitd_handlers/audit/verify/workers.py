"""Work spread over processes, its results taken in order."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

#: How many tasks a worker is given before its first result is taken, so that it never waits for one.
TASKS_AHEAD = 2


def processor_count() -> int:
    """Return how many processors this process may use; 1 where forking is not safe."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def in_order(job: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Yield the result of `job` for each task, in the order of the tasks.

    With two or more workers they are forked: they see what this process holds now, such as open files, and send their
    results back, which can be pickled. What `job` raises is raised here; ChildProcessError if one of them is killed.
    """
    if workers < 2:
        yield from map(job, tasks)
        return
    with ExitStack() as stack:
        started: list[Connection] = []
        for _ in range(workers):
            started.append(_start(job, started, stack))
        turns = cycle(started)
        awaited: deque[Connection] = deque()
        for task in tasks:
            worker = next(turns)
            with _alive():
                worker.send(task)
            awaited.append(worker)
            if len(awaited) >= TASKS_AHEAD * workers:
                yield _receive(awaited.popleft())
        while awaited:
            yield _receive(awaited.popleft())


def _start(job: Callable[[Task], Result], others: list[Connection], stack: ExitStack) -> Connection:
    """Fork a worker, which ends when its connection does: with this process at the latest."""
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(job, theirs, [*others, ours]), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(ours.close)
    return ours


def _serve(job: Callable[[Task], Result], connection: Connection, inherited: list[Connection]) -> None:
    # Ctrl-C goes to all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:
        other.close()
    try:
        while True:
            task = connection.recv()
            answer: tuple[Result | None, Exception | None]
            try:
                answer = (job(task), None)
            except Exception as error:
                answer = (None, error)
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # no result is wanted


def _receive(worker: Connection) -> Any:
    with _alive():
        result, error = worker.recv()
    if error is not None:
        raise error
    return result


@contextmanager
def _alive() -> Iterator[None]:
    """Raise ChildProcessError if a connection to a worker breaks."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise ChildProcessError(
            "one of the processes that share the work was ended by something else"
        ) from error
