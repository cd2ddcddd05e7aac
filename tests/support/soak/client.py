"""A program that sends records of all kinds until SIGTERM, and keeps a journal of what it was told about each.

    python client.py ADDRESS NAME SPOOL JOURNAL PROFILE

It may be killed at any instant: what the journal says then is true. See `soak_verdict` for what it is held against.
`PROFILE` is a JSON object: see `Profile`.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emitd.client import LogClient
from emitd.errors import EmitError, LeaseLost


@dataclass(frozen=True)
class Profile:
    """How much is sent. Each of so many threads waits between two records."""

    audit_threads: int = 2
    job_threads: int = 2
    line_pause: float = 0.003
    audit_pause: float = 0.03
    #: Less than a server needs to come back, so that many events are spooled.
    audit_timeout: float = 0.3
    #: More than it needs, so that no job is left in doubt.
    timeout: float = 60.0
    lease: int = 20
    longest_job: float = 3.0


class Journal:
    """Appends one JSON array a line, each in one write: a kill of this process leaves it whole."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *words: object) -> None:
        os.write(self._descriptor, json.dumps(words).encode() + b"\n")


class SoakClient:
    """Threads that share one client."""

    def __init__(self, client: LogClient, name: str, journal: Journal, profile: Profile) -> None:
        self._client = client
        self._name = name
        self._journal = journal
        self._profile = profile
        self._stop = threading.Event()
        self._lines = 0

    def run(self) -> None:
        """Send until `stop`; then say how many lines there were, and what the client counted."""
        threads = [threading.Thread(target=self._send_lines)]
        for work, count in (
            (self._send_audits, self._profile.audit_threads),
            (self._run_jobs, self._profile.job_threads),
        ):
            threads += [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._client.close()
        self._journal.note("end", self._lines, dict(self._client.stats()))

    def stop(self) -> None:
        self._stop.set()

    def _send_lines(self) -> None:
        while not self._stop.wait(self._profile.line_pause):
            self._client.info("line", who=self._name, n=self._lines)
            self._lines += 1

    def _send_audits(self, number: int) -> None:
        for serial in self._serials(self._profile.audit_pause):
            event = f"{self._name}-{number}-{serial}"
            self._journal.note("audit", event)
            try:
                receipt = self._client.audit(
                    "soak", user_id="u", details={"event": event}, timeout=self._profile.audit_timeout
                )
            except EmitError as error:
                self._journal.note("failed", event, repr(error))
            else:
                self._journal.note("safe", event, receipt.state)

    def _run_jobs(self, number: int) -> None:
        chance = random.Random(f"{self._name}-{number}")
        for serial in self._serials(0.0):
            job_id = f"{self._name}-{number}-{serial}"
            lease = chance.choice((None, self._profile.lease))
            self._journal.note("job", job_id, lease)
            self._journal.note("ended", job_id, self._run_job(job_id, lease, chance))

    def _run_job(self, job_id: str, lease: int | None, chance: random.Random) -> str:
        """Run a job; return the row that it ought to have by what its reporter said."""
        end = time.monotonic() + chance.uniform(0.05, self._profile.longest_job)
        try:
            with self._client.job(job_id, "soak", total=1000, lease=lease) as job:
                while time.monotonic() < end and not self._stop.is_set():
                    job.advance(chance.randrange(30))
                    time.sleep(chance.uniform(0.0, 0.2))
                if chance.random() < 0.3:
                    raise ArithmeticError("on purpose")
        except ArithmeticError:
            return "FAILED ArithmeticError"
        except LeaseLost:
            return "FAILED LEASE_EXPIRED"
        except EmitError as error:
            return repr(error)
        return "COMPLETED "

    def _serials(self, pause: float) -> Iterator[int]:
        serial = 0
        while not self._stop.wait(pause):
            yield serial
            serial += 1


def main(address: str, name: str, spool: str, journal: str, profile_json: str) -> None:
    profile = Profile(**json.loads(profile_json))
    client = LogClient(address, source=name, spool=spool, timeout=profile.timeout)
    soak = SoakClient(client, name, Journal(Path(journal)), profile)
    signal.signal(signal.SIGTERM, lambda number, frame: soak.stop())
    soak.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
