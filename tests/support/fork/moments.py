"""A program that forks at bad moments: `python moments.py MOMENT ADDRESS SPOOL`. Prints a JSON object.

`first_use`: while threads make, use and close clients. `closed`: just after the only client was closed. `busy`: while
threads are inside the locks of a client, which delivers nothing. `no_answer`: while calls to a server are under way
that does not answer, or is not there. `handed_over`: between the making of a job's reporter and its run, in the child.
`watched`: while watches are open.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable

from emitd.client import LogClient
from emitd.errors import ClientNotOpen
from load import CHILD_SECONDS, wait_for

FORKS = 60
FEW_FORKS = 4
THREADS = 3
#: So that a fork that waits for it, and one on a busy machine, can be told apart.
LONG_FORK_WAIT_SECONDS = 10.0


def fork(child: Callable[[], None], errors: list[str]) -> float:
    """Fork a child that must end with 0; return how long the fork took."""
    began = time.monotonic()
    process_id = os.fork()
    if not process_id:
        child()
        os._exit(0)
    took = time.monotonic() - began
    status = wait_for(process_id, time.monotonic() + CHILD_SECONDS)
    if status != 0:
        errors.append(f"{child.__name__}: {status}")
    return took


def in_threads(work: Callable[[int], None]) -> None:
    for number in range(THREADS):
        threading.Thread(target=work, args=(number,), daemon=True).start()


def first_use(address: str, spool: str) -> object:
    """Children use the client that a thread is just making, using or closing; return the keys that were taken."""
    latest: list[LogClient] = []
    keys: list[str] = []
    errors: list[str] = []
    stop = threading.Event()

    def make(thread: int) -> None:
        number = 0
        while not stop.is_set():
            client = LogClient(address, spool=spool)
            latest[:] = [client]
            client.info("the parent's", key=f"parent{thread}-{number}")
            client.audit("fork.first", user_id="parent", details={"key": f"parent{thread}-{number}"})
            keys.append(f"parent{thread}-{number}")
            client.close()
            number += 1

    in_threads(make)
    while not latest:
        time.sleep(0.001)
    for number in range(FORKS):
        read, write = os.pipe()

        def child(key: str = f"child{number}", write: int = write) -> None:
            client = latest[0]
            try:
                client.audit("fork.first", user_id="child", details={"key": key})
            except ClientNotOpen:
                return
            client.info("a child's", key=key)
            client.close()
            os.write(write, key.encode())

        fork(child, errors)
        os.close(write)
        if key := os.read(read, 100).decode():
            keys.append(key)
        os.close(read)
    stop.set()
    for thread in threading.enumerate():
        if thread.name.endswith("(make)"):
            thread.join(CHILD_SECONDS)
    return {"keys": keys, "errors": errors}


def busy(address: str, spool: str) -> object:
    """Children use the client; return which of them failed."""
    client = LogClient(address, spool=spool, max_queue_records=100)
    errors: list[str] = []

    def work(_: int) -> None:
        while True:
            client.info("nobody gets it")
            client.stats()

    def child() -> None:
        client.info("nor this")
        assert client.stats()["queued"] == 1
        assert not client.flush(0.01)

    in_threads(work)
    for _ in range(FORKS):
        fork(child, errors)
    return {"errors": errors}


def no_answer(address: str, spool: str) -> object:
    """Several clients have calls under way; return how long the slowest fork took, and how the children fared."""
    clients = [LogClient(address, spool=spool, close_timeout=0.5) for _ in range(THREADS)]
    errors: list[str] = []

    def work(number: int) -> None:
        while True:
            clients[number].info("nobody gets it")
            clients[number].audit("fork.outage", user_id="parent", timeout=3)

    def ask(number: int) -> None:
        clients[number].get_job("nobody's")

    def child() -> None:
        receipt = clients[0].audit("fork.outage", user_id="child", timeout=0.1)
        assert receipt.state.name == "SPOOLED", receipt
        clients[0].close()

    in_threads(work)
    in_threads(ask)
    time.sleep(0.5)
    return {"slowest": max([fork(child, errors) for _ in range(FEW_FORKS)]), "errors": errors}


def watched(address: str, spool: str) -> object:
    """Return how long the slowest fork took while a watch is open of which nothing comes."""
    client = LogClient(address, spool=spool, fork_wait=LONG_FORK_WAIT_SECONDS)
    errors: list[str] = []

    def watch(_: int) -> None:
        list(client.watch_job("nobody's", wait_for_creation=True))

    def child() -> None:
        pass

    in_threads(watch)
    took = []
    for _ in range(FEW_FORKS):
        time.sleep(0.5)
        took.append(fork(child, errors))
    return {"slowest": max(took), "errors": errors}


def closed(address: str, spool: str) -> object:
    """Children have clients of their own, as their parent had before; return the keys."""
    errors: list[str] = []
    keys: list[str] = []

    def use(key: str) -> None:
        with LogClient(address, spool=spool) as client:
            client.info("in a block", key=key)
            client.audit("fork.closed", user_id="u1", details={"key": key})

    for number in range(FORKS):
        use(f"parent{number}")

        def child(key: str = f"child{number}") -> None:
            use(key)

        fork(child, errors)
        keys += [f"parent{number}", f"child{number}"]
    return {"keys": keys, "errors": errors}


def handed_over(address: str, spool: str) -> object:
    """Return how the job ended that a child has run with its parent's reporter."""
    client = LogClient(address, spool=spool)
    client.audit("fork.before", user_id="parent")
    job = client.job("handed-over", "test", total=2)
    errors: list[str] = []

    def child() -> None:
        with job:
            job.advance(2)

    fork(child, errors)
    ended = client.get_job("handed-over")
    return {"errors": errors, "ended_as": ended and ended.status, "progress": ended and ended.progress}


if __name__ == "__main__":
    faulthandler.enable()
    json.dump(globals()[sys.argv[1]](*sys.argv[2:]), sys.stdout)
    sys.stdout.flush()
    os._exit(0)
