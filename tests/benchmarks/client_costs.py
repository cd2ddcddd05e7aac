"""The other tables of the client's benchmark: a disabled level, importing, an outage. Each in fresh processes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from statistics import median

from bench_records import HERE

__all__ = ["print_disabled_level", "print_imports", "print_outage"]

#: At most, for one process.
RUN_SECONDS = 120.0
IMPORT_ROUNDS = 15
IMPORTS = {
    "import grpc": "import grpc",
    "and LogClient": "import grpc; from emitd import LogClient",
    "import emitd alone": "import emitd",
}
DISABLED = {
    "logging": (
        "import logging; log = logging.getLogger('bench'); log.setLevel('INFO')",
        "log.debug('order taken', extra={'order': 17, 'user': 'u1'})",
    ),
    "LogClient": (
        "from emitd import LogClient; log = LogClient('127.0.0.1:1', source='bench', level='INFO')",
        "log.debug('order taken', order=17, user='u1')",
    ),
}


def print_disabled_level() -> None:
    """Print what a call below the level costs, by `timeit`: the best of its runs."""
    for name, (setup, statement) in DISABLED.items():
        said = _python("-m", "timeit", "-u", "usec", "-s", setup, statement)
        print(f"a disabled level, {name}: {said.split('best of 5: ')[1].strip()}")


def print_imports() -> None:
    """Print how long imports take, in ms of wall time, in fresh interpreters that take turns.

    Modules are compiled beforehand, as they are once installed, whatever the environment says of that.
    """
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    with tempfile.TemporaryDirectory() as folder:
        caching = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for turn in range(IMPORT_ROUNDS + 1):
            for name, statement in IMPORTS.items():
                elapsed = float(_python("-c", _timed(statement), environ=caching))
                if turn:  # the first turn compiles
                    times[name].append(elapsed * 1e3)
    for name, elapsed_ms in times.items():
        print(f"{name}: {median(elapsed_ms):.1f} ms (best {min(elapsed_ms):.1f})")
    difference = median(times["and LogClient"]) - median(times["import grpc"])
    print(f"LogClient over grpc: {difference:.1f} ms")


def print_outage(records: int) -> None:
    """Print how much memory a client takes that nobody answers."""
    print(_python(str(HERE / "client_outage.py"), str(records)), end="")


def _timed(statement: str) -> str:
    return f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"


def _python(*arguments: str, environ: Mapping[str, str] | None = None) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=RUN_SECONDS,
        env={**os.environ, **(environ or {})},
    ).stdout
