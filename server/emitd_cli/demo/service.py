"""The service that `emitd demo` shows: a real `emitd serve`, in a process and a folder of its own."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Self

from emitd_cli.errors import CannotRun

#: The command that the demo shows.
COMMAND: Sequence[str] = ("serve", "--config", "demo.yml", "--listen", "127.0.0.1:0")
#: How long starting, writing a line and stopping may take; a loaded machine is slow.
WAIT_SECONDS = 30.0
LISTENING = "emitd listening on "


class _Lines:
    """The lines of a pipe, read by a thread as they come."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        #: None is the end.
        self._queue: Queue[str | None] = Queue()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self, timeout: float = WAIT_SECONDS) -> str | None:
        """Return the next line without its newline; None at the end, or if none comes in time."""
        try:
            return self._queue.get(timeout=timeout)
        except Empty:
            return None

    def rest(self) -> list[str]:
        """Wait for the end of the pipe; return the lines that are left."""
        self._thread.join(WAIT_SECONDS)
        return [line for line in iter(lambda: self.next(0), None) if line is not None]

    def _read(self) -> None:
        with self._pipe:
            for line in self._pipe:
                self._queue.put(line.rstrip("\n"))
        self._queue.put(None)


class DemoService:
    """One run of `emitd serve`. Leaving its context stops it."""

    def __init__(self, folder: Path, config: str) -> None:
        """Write the configuration into the folder, and start the process."""
        (folder / "demo.yml").write_text(config, encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "emitd_cli", *COMMAND],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            # A terminal's Ctrl-C must reach the demo only, which then stops the service.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        #: Its standard output: the console handler's.
        self.console = _Lines(self._process.stdout)
        #: Its standard error: its reports on itself.
        self.said = _Lines(self._process.stderr)

    def wait_until_up(self) -> str:
        """Return the address that it listens on. Raises CannotRun."""
        deadline = time.monotonic() + WAIT_SECONDS
        lines: list[str] = []
        while (line := self.said.next(max(0.0, deadline - time.monotonic()))) is not None:
            if line.startswith(LISTENING):
                return line.removeprefix(LISTENING)
            lines.append(line)
        raise CannotRun(f"the demo's service did not start; it said: {' / '.join(lines) or 'nothing'}")

    def stop(self) -> int:
        """Stop it with SIGTERM if it still runs; return its exit code, negative if it had to be killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(WAIT_SECONDS)
        except BaseException:  # a second Ctrl-C must not leave a process behind
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self.console.rest()
        self.said.rest()
