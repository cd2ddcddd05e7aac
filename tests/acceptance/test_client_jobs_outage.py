"""Jobs and their watches by the client, while the real server is killed, or the reporter's process stands still."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from emitd.async_client import AsyncLogClient
from emitd.client import LogClient
from emitd.errors import ClientNotOpen
from emitd.v1 import JobState, ListJobTransitionsRequest, LogServiceStub, WatchJobResponse
from support.client.sending import until
from support.soak.server import SoakServer, soak_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

#: The history from its beginning, over all runs.
ALL = {"after_revision": 0, "wait_for_creation": True, "follow": True, "min_interval_ms": 1}
STOPPED = """
import sys, time
from emitd.client import LogClient
from emitd.errors import LeaseLost

client = LogClient(sys.argv[1], spool="off")
try:
    with client.job("j", "t", lease=1) as job:
        print("inside", flush=True)
        for number in range(2000):
            job.progress(number % 100)
            time.sleep(0.01)
except LeaseLost as error:
    print(error.stale_reason, flush=True)
"""


class Watchers:
    """A job that runs again and again, one that lasts as long as all that, and who watches them; each in a thread."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._worker = LogClient(address, spool="off", timeout=60.0)
        self._reader = LogClient(address, spool="off")
        self._is_done = threading.Event()
        self._is_over = threading.Event()
        #: What was told of the runs, by the client and by its async twin, and of the long one.
        self.told: list[WatchJobResponse] = []
        self.told_async: list[WatchJobResponse] = []
        self.told_of_long: list[WatchJobResponse] = []
        works = (self._watch, self._watch_in_loop, self._watch_long, self._work)
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def finish_work(self) -> None:
        """Return when the jobs, and the watch of the long one, have ended."""
        self._is_done.set()
        for thread in self._threads[2:]:
            thread.join(60)
            assert not thread.is_alive()

    def close(self) -> None:
        """End the watches, with their clients."""
        self._is_done.set()
        self._is_over.set()
        self._reader.close()
        for thread in self._threads[:2]:
            thread.join(30)
            assert not thread.is_alive()
        self._worker.close()

    def _work(self) -> None:
        with self._worker.job("long", "t", lease=20) as long:
            while not self._is_done.is_set():
                with self._worker.job("nightly", "t", total=10) as job:
                    job.advance(5)
                    time.sleep(0.02)
                long.message("on and on")

    def _watch(self) -> None:
        with pytest.raises(ClientNotOpen):
            self.told.extend(self._reader.watch_job("nightly", **ALL))  # type: ignore[arg-type]

    def _watch_long(self) -> None:
        self.told_of_long.extend(self._reader.watch_job("long", after_revision=0, wait_for_creation=True))

    def _watch_in_loop(self) -> None:
        asyncio.run(self._watch_async())

    async def _watch_async(self) -> None:
        async with AsyncLogClient(self._address, spool="off") as client:
            watching = asyncio.create_task(self._collect(client))
            while not self._is_over.is_set():
                await asyncio.sleep(0.05)
            await client.close()
            with pytest.raises(ClientNotOpen):
                await watching

    async def _collect(self, client: AsyncLogClient) -> None:
        async for message in client.watch_job("nightly", **ALL):  # type: ignore[arg-type]
            self.told_async.append(message)


@contextmanager
def watchers_of(address: str) -> Iterator[Watchers]:
    watchers = Watchers(address)
    try:
        yield watchers
    finally:
        watchers.close()


def kill_and_restart(server: SoakServer, watchers: Watchers) -> None:
    """When both have been told something."""
    seen = len(watchers.told), len(watchers.told_async)
    until(lambda: len(watchers.told) > seen[0] + 3 and len(watchers.told_async) > seen[1] + 3, 30)
    server.kill()
    time.sleep(0.3)
    server.start()


def revisions(messages: Sequence[WatchJobResponse]) -> Sequence[int]:
    return [change.revision for message in messages for change in message.transitions]


def history(address: str, job_id: str) -> Sequence[int]:
    """The revisions of all changes of status."""
    found: list[int] = []
    request = ListJobTransitionsRequest(job_id=job_id, page_size=1000)
    with grpc.insecure_channel(address) as channel:
        while True:
            page = LogServiceStub(channel).ListJobTransitions(request, wait_for_ready=True)
            found += [change.revision for change in page.transitions]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def test_watches_skip_and_double_no_change_over_kills_of_the_server(tmp_path: Path) -> None:
    """Nor does a job that is in the middle of it suffer; its own watch ends by itself."""
    with soak_server(tmp_path) as server:
        with watchers_of(server.address) as watchers:
            for _ in range(3):
                kill_and_restart(server, watchers)
            watchers.finish_work()
            runs = history(server.address, "nightly")
            assert len(runs) > 10
            until(lambda: revisions(watchers.told)[-1:] == runs[-1:])
            until(lambda: revisions(watchers.told_async)[-1:] == runs[-1:])
        assert revisions(watchers.told) == runs
        assert revisions(watchers.told_async) == runs
        assert revisions(watchers.told_of_long) == history(server.address, "long")
        end = watchers.told_of_long[-1].job
        assert (JobState.Name(end.status), end.message) == ("JOB_STATE_COMPLETED", "on and on")


def test_a_reporter_whose_process_stood_still_learns_that_its_lease_ran_out(tmp_path: Path) -> None:
    """By its next call after its next report; the job stays as the lease left it."""
    with soak_server(tmp_path) as server, LogClient(server.address, spool="off") as client:
        worker = subprocess.Popen(
            [sys.executable, "-c", STOPPED, server.address], stdout=subprocess.PIPE, text=True
        )
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "inside\n"
            worker.send_signal(signal.SIGSTOP)
            until(lambda: client.get_job("j").ended)  # type: ignore[union-attr]
            worker.send_signal(signal.SIGCONT)
            assert worker.communicate(timeout=20)[0] == "ATTEMPT_ENDED\n"
        finally:
            worker.kill()
            worker.communicate()
        job = client.get_job("j")
        assert job is not None
        assert (job.failure_reason, job.attempt) == ("LEASE_EXPIRED", 1)


def test_an_outage_longer_than_the_lease_ends_no_job(tmp_path: Path) -> None:
    """The server looks at no lease while it is down, and puts them off when it is back."""
    with soak_server(tmp_path) as server, LogClient(server.address, spool="off", timeout=60.0) as client:
        with client.job("j", "t", total=2, lease=6) as job:
            job.advance()
            assert client.flush(10)
            server.kill()
            time.sleep(9)
            server.start()
            job.advance()
        found = client.get_job("j")
        assert found is not None
        assert (JobState.Name(found.status), found.attempt) == ("JOB_STATE_COMPLETED", 1)
