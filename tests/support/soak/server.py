"""A server that is killed again and again, and comes back at the same address with the same files."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from support.processes.server_process import ServerProcess

#: For ports: the order of the tests decides what `random` gives, and runs at the same time may have the same.
CHANCE = random.SystemRandom()
CONFIG = """
handler_paths: [handlers]
handlers:
  console: {type: slow_console.SlowConsole}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db", lease_check_seconds: 0.2}
"""
#: Lets log lines stand in the server's queue for a moment, so that a kill finds some.
SLOW_CONSOLE = """
import asyncio

from emitd_handlers.console import ConsoleHandler


class SlowConsole(ConsoleHandler):
    async def emit_batch(self, records):
        await asyncio.sleep(0.1)
        return await super().emit_batch(records)
"""


class SoakServer:
    """For a `with` block; its files are in `folder`, and its standard output, the log lines, in the file `stdout`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        (folder / "emitd.yml").write_text(CONFIG)
        (folder / "handlers").mkdir()
        (folder / "handlers" / "slow_console.py").write_text(SLOW_CONSOLE)
        self.kills = 0
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Return when it listens."""
        self._process = ServerProcess.launch(self.folder, "--config", "emitd.yml", "--listen", self.address)
        self._process.wait_until_up()

    @property
    def process(self) -> ServerProcess:
        """The process that runs now, or was killed last."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.kills += 1
        self.process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()


@contextmanager
def soak_server(folder: Path, name: str = "server") -> Iterator[SoakServer]:
    """Run one in a folder of this name."""
    (folder / name).mkdir()
    with SoakServer(folder / name) as server:
        yield server


def free_port() -> int:
    """A port that nobody is given by chance while the server is down: below those of outgoing connections."""
    while True:
        port = CHANCE.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
