"""Runs programs to their end, by several Pythons, and says how that went."""

import re
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.processes.pythons import environ_of
from support.soak.server import free_port

RUN_SECONDS = 30.0
SUPPORT = Path(__file__).parent
CONFIG = """
server: {{listen: "127.0.0.1:{port}"}}
handlers:
  console: {{type: console, levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]}}
  audit: {{type: json_audit, levels: [AUDIT], path: audit.json.log}}
  jobs: {{type: database_job, levels: [JOB_STATUS], database: "sqlite:///jobs.db"}}
"""


@dataclass(frozen=True)
class Run:
    """A program that has ended."""

    code: int
    lines: Sequence[str]
    stderr: str
    #: From when it said that it ends.
    seconds: float

    @property
    def said(self) -> Sequence[str]:
        """What it said on standard error, without the traceback of its own end."""
        lines = self.stderr.splitlines()
        return [line for line in lines if not re.match(r"Traceback |  |\w*(Error|Interrupt)\b", line)]


class Program:
    """One that is running. The last line of its output is the time at which it begins to end."""

    def __init__(self, python: Path, program: str, *arguments: str, **environ: str) -> None:
        self._process = subprocess.Popen(
            [python, SUPPORT / program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ_of(python, **environ),
        )

    def wait(self) -> Run:
        """Wait for its end."""
        try:
            stdout, stderr = self._process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            stdout, stderr = self._process.communicate()
            raise AssertionError(f"it did not end:\n{stdout}\n{stderr}") from None
        ended, lines = time.time(), stdout.splitlines()
        began = [line.removeprefix("end ") for line in lines if re.fullmatch(r"(end )?\d{9,}\.\d+", line)]
        seconds = ended - float(began[-1]) if began else -1.0
        return Run(self._process.returncode, lines, stderr, seconds)


@contextmanager
def hanging_server(port: int = 0) -> Iterator[str]:
    """Give the address of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", port), backlog=500) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def free_address() -> str:
    """Return an address on which nobody listens."""
    return f"127.0.0.1:{free_port()}"


def config(address: str = "127.0.0.1:0") -> str:
    """Return the configuration of a server there."""
    return CONFIG.format(port=address.rpartition(":")[2])


def lines_in(folder: Path) -> Counter[str]:
    """Return the log lines that the server in a folder has taken, without their times and levels."""
    found = re.findall(
        r"^\[[^]]*\] \[\w+\] (?:\[[^]]*\] )?(.*)$", (folder / "stdout").read_text(), re.MULTILINE
    )
    return Counter(found)


def waiting_in(folder: Path) -> int:
    """Return how many records wait in the spools of a folder, whose processes are gone."""
    found = 0
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            found += connection.execute("SELECT COUNT(*) FROM waiting").fetchone()[0]
    return found
