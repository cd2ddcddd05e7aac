"""WorkerThread: calls in order, results to the loop, and an end."""

import asyncio
import threading

import pytest

from emitd_handlers.durable.worker_thread import WorkerThread
from emitd_handlers.errors import HandlerUnavailable


def _threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_calls_run_in_order_in_one_named_daemon_thread() -> None:
    """The thread starts with the first call, runs one call after the other, and keeps no process alive."""
    worker = WorkerThread("w-order")
    assert _threads("w-order") == []
    ran: list[int] = []

    def call(number: int) -> threading.Thread:
        ran.append(number)
        return threading.current_thread()

    threads = set(await asyncio.gather(*(worker.run(call, number) for number in range(50))))
    assert ran == list(range(50))
    assert threads == set(_threads("w-order"))
    assert all(thread.daemon for thread in threads)
    await worker.stop()
    assert _threads("w-order") == []


async def test_arguments_and_result_are_passed() -> None:
    """Positional and keyword arguments reach the call; its result reaches the waiter."""
    worker = WorkerThread("w")
    assert await worker.run(int, "ff", base=16) == 255
    await worker.stop()


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), asyncio.CancelledError("inner")])
async def test_an_exception_reaches_the_waiter_and_not_the_thread(error: BaseException) -> None:
    """Whatever a call raises is its waiter's; the next call runs."""
    worker = WorkerThread("w")

    def fail() -> None:
        raise error

    future = worker.run(fail)
    await worker.run(lambda: None)
    with pytest.raises(type(error)):
        future.result()
    await worker.stop()


async def test_stop_iteration_reaches_the_waiter_too() -> None:
    """The one exception that a future refuses arrives as a RuntimeError, instead of never."""
    worker = WorkerThread("w")
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(worker.run(next, iter(())), 5)
    await worker.stop()


async def test_cancelling_the_waiter_does_not_stop_the_call() -> None:
    """A call once given runs to its end, and the thread goes on."""
    worker, gate, ended = WorkerThread("w"), threading.Event(), threading.Event()

    def call() -> None:
        gate.wait()
        ended.set()

    worker.run(call).cancel()
    gate.set()
    assert await worker.run(lambda: "next") == "next"
    assert ended.is_set()
    await worker.stop()


async def test_stop_lets_the_calls_given_so_far_end() -> None:
    """Nothing that was given before `stop` is left out."""
    worker, gate = WorkerThread("w"), threading.Event()
    ran: list[int] = []
    worker.run(gate.wait)
    for number in range(3):
        worker.run(ran.append, number)
    stopping = asyncio.ensure_future(worker.stop())
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert ran == [0, 1, 2]


async def test_after_stop_calls_are_refused_at_once() -> None:
    """A call during or after `stop` is refused: it neither hangs nor starts a second thread."""
    worker, gate = WorkerThread("w-stopped"), threading.Event()
    worker.run(gate.wait)
    stopping = asyncio.ensure_future(worker.stop())
    await asyncio.sleep(0)
    with pytest.raises(HandlerUnavailable, match="'w-stopped' is stopped"):
        worker.run(print)
    gate.set()
    await stopping
    with pytest.raises(HandlerUnavailable, match="'w-stopped' is stopped"):
        worker.run(print)
    assert _threads("w-stopped") == []


async def test_stop_is_idempotent_and_safe_without_calls() -> None:
    """`stop` without a thread, and `stop` again, do nothing."""
    worker = WorkerThread("w")
    await worker.stop()
    await worker.stop()


async def test_a_call_that_never_ends_can_be_abandoned() -> None:
    """Cancelling `stop` gives up on the call; its thread ends as soon as the call does."""
    worker, gate = WorkerThread("w-stuck"), threading.Event()
    stuck = worker.run(gate.wait)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(worker.stop(), 0.01)
    await worker.stop()
    (thread,) = _threads("w-stuck")
    gate.set()
    await stuck
    thread.join(30)
    assert not thread.is_alive()


def test_a_result_for_a_closed_loop_is_dropped() -> None:
    """A call that outlives its event loop harms nobody."""
    worker, gate = WorkerThread("w-late"), threading.Event()

    async def begin() -> None:
        worker.run(gate.wait)

    asyncio.run(begin())
    (thread,) = _threads("w-late")
    gate.set()
    asyncio.run(worker.stop())
    thread.join(30)
    assert not thread.is_alive()


async def test_a_thread_that_could_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system has no thread to give, the call fails, and the next one may succeed."""
    worker = WorkerThread("w")
    with monkeypatch.context() as patch:

        def no_thread(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            worker.run(print)
    assert await asyncio.wait_for(worker.run(lambda: 7), 5) == 7
    await worker.stop()
