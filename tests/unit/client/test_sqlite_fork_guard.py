"""The gate before SQLite, which is shut while a process forks."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from emitd.runtime.fork_guards import sqlite_gate
from emitd.spool.spool import Spool, adopt_orphans

TARGET = "localhost:50051"


@pytest.mark.parametrize("verb", ["append", "first", "delete", "reject", "close", "create", "adopt"])
def test_a_pause_keeps_every_verb_out(tmp_path: Path, verb: str) -> None:
    """Until it ends, of a new spool and of an orphan too."""
    spool, orphan = (Spool.create(tmp_path, TARGET, 1000) for _ in range(2))
    spool.append([b"a"])
    orphan.append([b"a"])
    orphan.close()
    made: list[Spool] = [spool]
    verbs: dict[str, Callable[[], object]] = {
        "append": lambda: spool.append([b"b"]),
        "first": lambda: spool.first(1, 1),
        "delete": lambda: spool.delete([1]),
        "reject": lambda: spool.reject(1, "bad"),
        "close": spool.close,
        "create": lambda: made.append(Spool.create(tmp_path, TARGET, 1000)),
        "adopt": lambda: made.extend(adopt_orphans(tmp_path, TARGET, 1000)),
    }
    done = threading.Event()
    thread = threading.Thread(target=lambda: (verbs[verb](), done.set()))
    assert sqlite_gate.acquire(timeout=1)
    thread.start()
    assert not done.wait(0.05)
    sqlite_gate.release()
    assert done.wait(10)
    thread.join()
    for spool in made:
        spool.close()


def test_a_pause_waits_no_longer_than_it_is_told_to() -> None:
    """For a thread that is inside, and one that stays there must not keep the process from forking."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with sqlite_gate:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    entered.wait(10)
    assert not sqlite_gate.acquire(timeout=0.01)
    leave.set()
    assert sqlite_gate.acquire(timeout=10)
    sqlite_gate.release()
    thread.join()
