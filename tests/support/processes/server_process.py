"""A real server process, `emitd serve`, for tests that start, signal and kill it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

START_SECONDS = 30.0


@pytest.fixture(params=["uvloop", "asyncio"])
def each_loop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test twice: its servers, with `server.loop: auto`, find uvloop or cannot find it."""
    kind = str(request.param)
    if kind == "asyncio":
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "sitecustomize.py").write_text("import sys; sys.modules['uvloop'] = None\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"), prepend=os.pathsep)
    return kind


class ServerProcess:
    """One run of `emitd serve` in a folder; its standard output goes into the folder's file `stdout`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: list[str] = []
        self._up = threading.Event()
        #: `host:port` that it listens on, the first of several; empty if it never came up.
        self.address = ""
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()

    @classmethod
    def launch(
        cls,
        folder: Path,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "emitd_cli"),
    ) -> Self:
        """Run `emitd serve ARGUMENTS` in a folder, without waiting until it is up."""
        with (folder / "stdout").open("ab") as stdout:
            process = subprocess.Popen(
                [*command, "serve", *arguments],
                cwd=folder,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **(environ or {})},
            )
        return cls(process)

    @classmethod
    def start(cls, config: str, folder: Path) -> Self:
        """Write the configuration into the folder, run the server, and wait until it listens."""
        (folder / "emitd.yml").write_text(config)
        server = cls.launch(folder, "--config", "emitd.yml")
        try:
            server.wait_until_up()
        except BaseException:
            server.kill()
            raise
        return server

    def wait_until_up(self) -> None:
        """Return when the server listens; fail with what it said if it ends before that."""
        assert self._up.wait(START_SECONDS), f"the server did not come up:\n{self.stderr}"
        assert self.address, f"the server ended:\n{self.stderr}"

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return "".join(self._lines)

    def kill(self) -> None:
        """End it with SIGKILL, if it has not ended, and wait for the end."""
        self._process.kill()
        self.wait()

    def terminate(self) -> None:
        """Ask it to end, with SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if "listening on " in line:
                self.address = self.address or line.split("listening on ")[1].strip()
                self._up.set()
        self._up.set()
