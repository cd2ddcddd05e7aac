"""A soak: clients in processes of their own, a server that is killed, clients that are killed; and the verdict."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emitd.client import LogClient
from support.soak import client as soak_client
from support.soak.server import SoakServer
from support.soak.verdict import Verdict, compare

#: How long clients may take to end, and spools to empty, once the server stays up.
REST_SECONDS = 90.0


class Soak:
    """One run in a folder."""

    def __init__(self, folder: Path, *, clients: int, kill_every: float, **profile: float) -> None:
        self._spool = folder / "spool"
        self._journals = folder / "journals"
        self._journals.mkdir()
        (folder / "server").mkdir()
        self._server = SoakServer(folder / "server")
        self._client_count = clients
        self._kill_every = kill_every
        self._profile: Mapping[str, Any] = profile
        self._clients: list[subprocess.Popen[bytes]] = []
        self._started = 0
        self.client_kills = 0

    def run(self, seconds: float) -> Verdict:
        """Send and kill for so long, let everything come to rest, and compare."""
        with self._server:
            try:
                self._clients = [self._start_client() for _ in range(self._client_count)]
                self._kill_until(time.monotonic() + seconds)
                self._end_clients()
            finally:
                for client in self._clients:
                    client.kill()
                    client.wait()
            self._empty_spools()
            self._let_leases_end()
            self._server.process.terminate()
            assert self._server.process.wait() == 0
        verdict = compare(sorted(self._journals.iterdir()), self._server.folder, self._server.kills)
        verdict.figures["kills of the server"] = self._server.kills
        verdict.figures["kills of a client"] = self.client_kills
        return verdict

    def _start_client(self) -> "subprocess.Popen[bytes]":
        self._started += 1
        name = f"client{self._started}"
        return subprocess.Popen(
            [
                sys.executable,
                soak_client.__file__,
                self._server.address,
                name,
                str(self._spool),
                str(self._journals / f"{name}.jsonl"),
                json.dumps(self._profile),
            ]
        )

    def _kill_until(self, end: float) -> None:
        """Kill the server again and again; and a client, in turn while the server is down and while it is up."""
        while (now := time.monotonic()) < end:
            down_seconds = random.uniform(0.0, min(3.0, self._kill_every / 2))
            self._server.kill()
            time.sleep(down_seconds)
            if self._server.kills % 2:
                self._kill_client()
            self._server.start()
            time.sleep(self._kill_every / 2)
            if not self._server.kills % 2:
                self._kill_client()
            time.sleep(max(now + self._kill_every - time.monotonic(), 0.0))

    def _kill_client(self) -> None:
        """All in turn but the first, which lives through everything."""
        place = 1 + self.client_kills % (len(self._clients) - 1)
        self.client_kills += 1
        self._clients[place].kill()
        self._clients[place].wait()
        self._clients[place] = self._start_client()

    def _end_clients(self) -> None:
        for client in self._clients:
            client.send_signal(signal.SIGTERM)
        for client in self._clients:
            # One that has just been started may not have come so far as to know the signal.
            assert client.wait(REST_SECONDS) in (0, -signal.SIGTERM)

    def _empty_spools(self) -> None:
        """Be the process that comes next: it sends what the others left behind."""
        with LogClient(self._server.address, source="last", spool=str(self._spool)) as client:
            client.info("the last")
            give_up_at = time.monotonic() + REST_SECONDS
            while any(self._spool.glob("*.db")) and time.monotonic() < give_up_at:
                time.sleep(0.05)
        assert not list(self._spool.glob("*")), "spools are left"

    def _let_leases_end(self) -> None:
        """Wait for the leases of those jobs whose client was killed."""
        lease = self._profile.get("lease", soak_client.Profile.lease)
        give_up_at = time.monotonic() + 2 * lease
        with LogClient(self._server.address, spool="off") as client:
            while time.monotonic() < give_up_at:
                running = client.list_jobs(statuses=["RUNNING"])
                if not any(job.lease_expire_time_unix_nano for job in running):
                    return
                time.sleep(0.2)
