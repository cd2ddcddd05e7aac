"""Where the records of the client's benchmark arrive, and how many did: a file, an OTLP receiver, an emitd server.

The two servers run as processes of their own as long as the benchmark, and keep a count in a file.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from bench_records import HERE, server
from client_contestants import MESSAGE

__all__ = ["Receivers", "is_installed"]

CONFIG = """
server: {{listen: "127.0.0.1:0"}}
handler_paths: [{handlers}]
handlers:
  lines: {{type: counted_discard.CountedDiscardHandler, delivery: {{kind: queued, max_records: 1000000}}}}
"""
#: After a sender has closed, for what is still on its way within the receiver.
ARRIVAL_SECONDS = 3.0


def is_installed(module: str) -> bool:
    """Whether there is such a module, without loading it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor the package it would be in
        return False


class Receivers:
    """Starts what it takes to receive, until the end of a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._addresses: dict[str, str] = {}
        self._numbers = count()

    def __enter__(self) -> Self:
        (self._folder / "emitd").mkdir()
        (self._folder / "emitd/emitd.yml").write_text(CONFIG.format(handlers=HERE / "handlers"))
        self._start("emitd", [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"])
        if is_installed("opentelemetry.proto.collector.logs.v1"):
            (self._folder / "otlp").mkdir()
            self._start("otlp", [sys.executable, str(HERE / "otlp_receiver.py")])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, receiver: str) -> "AbstractContextManager[tuple[str, Callable[[int], int]]]":
        """Give the target of one lap, and what waits for so many records and says how many came."""
        if receiver in self._addresses:
            return self._open_server(receiver)
        return self._open_file() if receiver == "file" else self._open_nowhere()

    def _start(self, name: str, command: list[str]) -> None:
        address, _ = self._stack.enter_context(server(command, self._folder / name))
        self._addresses[name] = address

    @contextmanager
    def _open_server(self, receiver: str) -> Iterator[tuple[str, Callable[[int], int]]]:
        file = self._folder / receiver / "arrived"
        before = _read_count(file)
        yield self._addresses[receiver], lambda expected: _wait(lambda: _read_count(file) - before, expected)

    @contextmanager
    def _open_file(self) -> Iterator[tuple[str, Callable[[int], int]]]:
        file = self._folder / f"lines-{next(self._numbers)}"
        yield str(file), lambda expected: _wait(lambda: file.read_bytes().count(MESSAGE.encode()), expected)
        file.unlink(missing_ok=True)

    @contextmanager
    def _open_nowhere(self) -> Iterator[tuple[str, Callable[[int], int]]]:
        yield "", lambda expected: expected


def _read_count(file: Path) -> int:
    return int(file.read_bytes() or 0) if file.exists() else 0


def _wait(arrived: Callable[[], int], expected: int) -> int:
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while arrived() < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return arrived()
