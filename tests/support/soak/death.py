"""A `soak_client` that kills itself with SIGKILL, at a point of its own code.

    python death.py POINT COUNT ADDRESS NAME SPOOL JOURNAL PROFILE

`POINT` is one of `POINTS`; it dies when it comes there for the `COUNT`th time.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from emitd.spool.spool import Spool
from emitd.transport.grpc_transport import Transport
from support.soak import client as soak_client

#: Where records change hands: a client dies before and after each of these.
METHODS: dict[str, tuple[type, str]] = {
    "append": (Spool, "append"),
    "first": (Spool, "first"),
    "delete": (Spool, "delete"),
    "close": (Spool, "close"),
    "emit": (Transport, "emit"),
}
#: For which call of them.
COUNTS: dict[str, tuple[int, ...]] = {
    "append": (1, 23),
    "first": (1, 3),
    "delete": (1, 3),
    "close": (1,),
    "emit": (2, 40),
}
POINTS = [f"{when} {name}" for name in METHODS for when in ("before", "after")]


def arm(point: str, count: int) -> None:
    """Let this process die there."""
    when, name = point.split()
    owner, method = METHODS[name]
    original = getattr(owner, method)
    lock, calls = threading.Lock(), 0

    def come_by() -> None:
        nonlocal calls
        with lock:
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)

    def armed(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            come_by()
        result = original(*arguments, **named)
        if when == "after":
            come_by()
        return result

    replacement: Callable[..., Any] = armed
    setattr(owner, method, replacement)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    soak_client.main(*sys.argv[3:])
