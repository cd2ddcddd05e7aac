"""A program that forks under load; run by tests with any Python: `python load.py ADDRESS SPOOL FORKS`.

Threads log, audit, watch a job and replay a spool, the main thread reports a job with a lease and forks. Each child
uses its parent's client and ends in one of `ENDINGS`. Standard output is a JSON object: what was sent, by its `key`s,
and what went wrong.
"""

import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from emitd.client import LogClient
from emitd.spool.spool import Spool
from emitd.v1 import AuditEvent, LogRecord

CHILD_SECONDS = 30.0
CHILD_LINES = 3
ORPHANS = 2_000
JOB = "fork-load"
LEASE_SECONDS = 5
#: At the same time, so that children are forked while others end.
MAX_CHILDREN = 3

FORK = multiprocessing.get_context("fork")


def use(client: LogClient, key: str) -> None:
    """Log and audit under keys of our own; fail where the audit event is not committed."""
    for line in range(CHILD_LINES):
        client.info("a child's", key=f"{key}.{line}")
    receipt = client.audit("fork.child", user_id="child", details={"key": key})
    assert receipt.state.name == "COMMITTED", receipt


class Load:
    """The parent's threads, and the keys that they have sent."""

    def __init__(self, client: LogClient) -> None:
        self._client = client
        self._stop = threading.Event()
        self.lines: list[str] = []
        self.events: list[str] = []
        self.progress: list[int] = []
        self.errors: list[str] = []
        self.threads = [
            threading.Thread(target=self._run, args=(step, name), daemon=True)
            for step, name in ((self._log, "a"), (self._log, "b"), (self._audit, "c"), (self._audit, "d"))
        ]
        self.threads.append(threading.Thread(target=self._watch, daemon=True))

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join(CHILD_SECONDS)
        self.errors += [f"{thread.name} hangs" for thread in self.threads if thread.is_alive()]

    def _run(self, step: object, name: str) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                step(f"{name}{number}")  # type: ignore[operator]
                number += 1
        except Exception as error:
            self.errors.append(f"{name}{number}: {error!r}")

    def _log(self, key: str) -> None:
        self._client.info("the parent's", key=key)
        self.lines.append(key)
        time.sleep(0.002)

    def _audit(self, key: str) -> None:
        receipt = self._client.audit("fork.parent", user_id="parent", details={"key": key})
        if receipt.state.name != "COMMITTED":
            self.errors.append(f"{key}: {receipt}")
        self.events.append(key)

    def _watch(self) -> None:
        last = None
        for news in self._client.watch_job(JOB, wait_for_creation=True, min_interval_ms=1):
            last = news.job
            self.progress.append(news.job.progress)
        self.ended_as = None if last is None else last.status


class Children:
    """Forks, waits for each, and notes those that crash or hang."""

    def __init__(self, client: LogClient) -> None:
        self._client = client
        self._running: deque[tuple[int, str, float]] = deque()
        self.errors: list[str] = []
        self.keys: list[str] = []

    def begin(self, number: int) -> None:
        """Fork a child, or a few, in the way that is this number's turn."""
        ending = ENDINGS[number % len(ENDINGS)]
        key = f"{ending.__name__}-{number}"
        ending(self, key)

    def flush_and_exit(self, key: str) -> None:
        if not self._fork(key):
            use(self._client, key)
            assert self._client.flush(CHILD_SECONDS)
            os._exit(0)

    def close_and_exit(self, key: str) -> None:
        if not self._fork(key):
            use(self._client, key)
            self._client.close()
            os._exit(0)

    def end_with_interpreter(self, key: str) -> None:
        if not self._fork(key):
            use(self._client, key)
            sys.exit(0)

    def end_unused(self, key: str) -> None:
        if not self._fork(key, sends=False):
            sys.exit(0)

    def end_after_a_child(self, key: str) -> None:
        if self._fork(key):
            self.keys.append(f"{key}-child")
            return
        use(self._client, key)
        child = os.fork()
        if not child:
            use(self._client, f"{key}-child")
            sys.exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def end_as_process(self, key: str) -> None:
        process = FORK.Process(target=use, args=(self._client, key))
        self.keys.append(key)
        process.start()
        process.join(CHILD_SECONDS)
        if process.exitcode != 0:
            self.errors.append(f"{key}: {process.exitcode}")
            process.kill()

    def end_with_executor(self, key: str) -> None:
        with ProcessPoolExecutor(1, mp_context=FORK) as executor:
            self.keys.append(key)
            try:
                executor.submit(use_client_of_module, key).result(CHILD_SECONDS)
            except Exception as error:
                self.errors.append(f"{key}: {error!r}")

    def wait(self, running: int = 0) -> None:
        """Wait until so few are left."""
        while len(self._running) > running:
            process_id, key, deadline = self._running.popleft()
            status = wait_for(process_id, deadline)
            if status != 0:
                self.errors.append(f"{key}: {status}")

    def _fork(self, key: str, *, sends: bool = True) -> bool:
        self.wait(MAX_CHILDREN - 1)
        process_id = os.fork()
        if not process_id:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            return False
        self._running.append((process_id, key, time.monotonic() + CHILD_SECONDS))
        if sends:
            self.keys.append(key)
        return True


ENDINGS = (
    Children.flush_and_exit,
    Children.end_with_interpreter,
    Children.close_and_exit,
    Children.end_as_process,
    Children.end_unused,
    Children.end_with_interpreter,
    Children.end_with_executor,
    Children.end_after_a_child,
)


def wait_for(process_id: int, deadline: float) -> int | str:
    """Return a child's exit code; one that hangs says where on standard error."""
    while time.monotonic() < deadline:
        found, status = os.waitpid(process_id, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process_id, signal.SIGABRT)
    os.waitpid(process_id, 0)
    return "hangs"


def leave_orphan(folder: Path, address: str) -> list[str]:
    """Make a spool as a process that died would have left it; return the keys in it."""
    keys = [f"spooled{number}" for number in range(ORPHANS)]
    spool = Spool.create(folder, address, 2**24)
    for key in keys:
        event = AuditEvent(
            event_name="fork.spooled",
            user_id="dead",
            source_ip="unknown",
            details_json=json.dumps({"key": key}),
        )
        record = LogRecord(record_id=f"orphan-{key}", time_unix_nano=1, source="fork", audit=event)
        spool.append([record.SerializeToString()])
    spool.close()
    return keys


def use_client_of_module(key: str) -> None:
    """Use it in a worker that can be handed no client."""
    use(CLIENT, key)


def main(client: LogClient, spooled: list[str], forks: int) -> None:
    load, children = Load(client), Children(client)
    load.start()
    delays = []
    with client.job(JOB, "test", total=forks, lease=LEASE_SECONDS) as job:
        for number in range(forks):
            began = time.monotonic()
            children.begin(number)
            delays.append(time.monotonic() - began)
            job.advance()
        children.wait()
    load.stop()
    flushed = client.flush(CHILD_SECONDS)
    lines = [f"{key}.{line}" for key in children.keys for line in range(CHILD_LINES)]
    json.dump(
        {
            "lines": [*load.lines, *lines],
            "events": [*load.events, *children.keys, *spooled],
            "errors": [*load.errors, *children.errors],
            "flushed": flushed,
            "progress": load.progress,
            "ended_as": load.ended_as,
            "longest_fork": max(delays),
            "spool_left": client.stats()["spool_records"],
            "unconfirmed": client.stats()["unconfirmed"],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    faulthandler.enable()
    ADDRESS, SPOOL, FORKS = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    SPOOLED = leave_orphan(SPOOL, ADDRESS)
    CLIENT = LogClient(ADDRESS, source="fork", spool=str(SPOOL), timeout=CHILD_SECONDS)
    main(CLIENT, SPOOLED, FORKS)
