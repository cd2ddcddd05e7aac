"""What arrived at a real server, counted by `key`, for tests of programs that fork; and how these are run."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.processes.pythons import environ_of
from support.processes.server_process import ServerProcess

__all__ = ["CONFIG", "assert_once", "keys_in_audit", "keys_in_lines", "program", "run", "wait_until"]

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console, delivery: {kind: queued, max_records: 100000}}
  audit: {type: json_audit, path: logs/audit.json.log}
  jobs: {type: database_job, database: "sqlite:///logs/jobs.db"}
"""
SUPPORT = Path(__file__).parent
RUN_SECONDS = 100.0
WAIT_SECONDS = 30.0


def keys_in_audit(folder: Path) -> Counter[str]:
    """Return the keys of the audit events of a server in that folder."""
    lines = (folder / "logs" / "audit.json.log").read_bytes().splitlines()
    return Counter(json.loads(line)["details"]["key"] for line in lines)


def keys_in_lines(server: ServerProcess, folder: Path) -> Counter[str]:
    """End the server, which empties its queue, and return the keys of the log lines."""
    server.terminate()
    assert server.wait() == 0
    return Counter(re.findall(r"key=(\S+)$", (folder / "stdout").read_text(), re.MULTILINE))


def assert_once(found: Counter[str], expected: Iterable[str]) -> None:
    """Fail unless each key that is expected was found once, and no other."""
    wanted = Counter(expected)
    assert not wanted - found, f"lost: {list((wanted - found).items())[:10]}"
    assert not found - wanted, f"more than once, or unknown: {list((found - wanted).items())[:10]}"


def run(python: Path, name: str, *arguments: object, environ: Mapping[str, str] | None = None) -> Any:
    """Run a program of this folder, which must succeed; return what it printed, a JSON value."""
    done = subprocess.run(
        [python, SUPPORT / name, *map(str, arguments)],
        env=environ_of(python, **(environ or {})),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


@contextmanager
def program(
    python: Path, log: Path, *arguments: object, environ: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a module of that Python with what it says in a log, until the end of the block at most."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", *map(str, arguments)],
            env=environ_of(python, **environ),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(is_so: Callable[[], object], log: Path) -> None:
    """Return when something is so; fail with the log if it takes too long."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
