"""The hooks of a process's fork and end, with clients that only note what they are told."""

import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest

from emitd.runtime import process_hooks

# Python 3.12 warns of every fork of a process with threads; these children do nothing but end.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class NotedClient:
    """Notes what it is told, in order with the others that share its list."""

    def __init__(self, name: str, told: list[str], on_wait: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._told = told
        self._on_wait = on_wait
        self.began: list[float] = []

    def shut_for_fork(self) -> None:
        self._told.append(f"{self._name} shut")

    def wait_for_fork(self, began: float) -> None:
        self._told.append(f"{self._name} wait")
        self.began.append(began)
        self._on_wait()

    def resume_after_fork(self) -> None:
        self._told.append(f"{self._name} resume")

    def start_in_child(self) -> None:
        self._told.append(f"{self._name} child")

    def hurry_at_exit(self) -> None:
        self._told.append(f"{self._name} hurry")

    def finish_at_exit(self) -> None:
        self._told.append(f"{self._name} finish")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def no_other_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_hooks, "_clients", {})
    monkeypatch.setattr(process_hooks, "_begun_in", 0)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for celery.signals, and what is connected to the end of its workers."""
    connected: list[dict[str, Any]] = []
    signal = types.SimpleNamespace(connect=lambda hook, **more: connected.append({"hook": hook, **more}))
    monkeypatch.setitem(sys.modules, "celery.signals", types.SimpleNamespace(worker_process_shutdown=signal))  # type: ignore[arg-type]
    return connected


def make_process_module(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """Be a child process of that name, of multiprocessing; return the list of what it is to do at its end."""
    finalizers: list[tuple[Any, ...]] = []
    util = types.SimpleNamespace(Finalize=lambda *arguments, **more: finalizers.append((*arguments, more)))
    process = types.SimpleNamespace(current_process=lambda: types.SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, "multiprocessing.util", util)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "multiprocessing.process", process)  # type: ignore[arg-type]
    for module in ("billiard.util", "billiard.process"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return finalizers


def fork(in_child: Callable[[], bool] = lambda: True) -> bool:
    """Fork; return what the function returned in the child."""
    process_id = os.fork()
    if not process_id:
        os._exit(0 if in_child() else 1)
    return os.waitpid(process_id, 0)[1] == 0


def test_a_fork_shuts_all_clients_before_it_waits_for_any(told: list[str]) -> None:
    """So that they share the time that it may take."""
    first, second = NotedClient("a", told), NotedClient("b", told)
    process_hooks.add(first)
    process_hooks.add(second)
    assert fork()
    assert told == ["a shut", "b shut", "a wait", "b wait", "a resume", "b resume"]
    assert first.began == second.began


def test_a_child_starts_its_clients_afresh(told: list[str]) -> None:
    """And none that its parent has closed."""
    process_hooks.add(NotedClient("a", told))
    closed = NotedClient("b", told)
    process_hooks.add(closed)
    process_hooks.remove(closed)
    assert fork(lambda: told == ["a shut", "a wait", "a child"])


def test_a_client_that_is_closed_in_the_midst_of_a_fork_goes_on_after_it(told: list[str]) -> None:
    """It was shut, and would stay so for ever."""
    client = NotedClient("a", told, on_wait=lambda: process_hooks.remove(client))
    process_hooks.add(client)
    assert fork()
    assert told == ["a shut", "a wait", "a resume"]


def test_a_client_that_is_made_in_the_midst_of_a_fork_is_not_resumed(told: list[str]) -> None:
    """It was not shut."""
    late = NotedClient("b", told)
    process_hooks.add(NotedClient("a", told, on_wait=lambda: process_hooks.add(late)))
    assert fork()
    assert told == ["a shut", "a wait", "a resume"]


def test_threads_fork_one_at_a_time(told: list[str]) -> None:
    """The end of one fork would let threads in that another one has shut out."""
    process_hooks.add(NotedClient("a", told, on_wait=lambda: threading.Event().wait(0.01)))
    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert told == ["a shut", "a wait", "a resume"] * 4


def test_a_child_can_fork_too(told: list[str]) -> None:
    """What its parent's fork has shut does not hold it up."""
    process_hooks.add(NotedClient("a", told))
    assert fork(fork)


def test_what_is_kept_for_ever_is_not_freed_with_its_last_name() -> None:
    """One reference stays."""

    class Freed(list[int]):
        freed = False

        def __del__(self) -> None:
            Freed.freed = True

    thing = Freed()
    process_hooks.keep_for_ever(thing)
    del thing
    assert not Freed.freed


def test_a_child_of_multiprocessing_flushes_by_its_finalizers_once(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many clients are used in it."""
    finalizers = make_process_module(monkeypatch, "Process-1")
    process_hooks.begin()
    process_hooks.begin()
    [(owner, finish, more)] = finalizers
    assert owner is None
    assert more == {"exitpriority": 0}  # else none but those of the interpreter's end run it
    monkeypatch.setattr(process_hooks, "_ending_since", None)
    process_hooks.add(NotedClient("a", told))
    finish()
    assert told == ["a hurry", "a finish"]


def test_a_main_process_has_no_finalizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's end flushes."""
    finalizers = make_process_module(monkeypatch, "MainProcess")
    process_hooks.begin()
    assert finalizers == []


def test_a_worker_of_celery_flushes_by_its_signal(
    told: list[str], signals: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pool ends its workers without finalizers."""
    process_hooks.begin()
    [connected] = signals
    assert connected["weak"] is False
    monkeypatch.setattr(process_hooks, "_ending_since", None)
    process_hooks.add(NotedClient("a", told))
    connected["hook"](signal=None, sender="host", pid=1, exitcode=0)
    assert told == ["a hurry", "a finish"]
