"""A terminal for tests: types into a shell and reads what it shows."""

import codecs
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

SECONDS = 30.0
#: After each command the shell says by this that it has ended; no command prints it.
_ENDED = "\x1eended\x1e\n"


class Terminal:
    """A bash of its own, in a process group of its own, with both outputs in one stream."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        """Start the shell. Like one in front of a reader, it outlives what is interrupted in it."""
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._shown = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        #: Whether a command is still running.
        self.busy = False
        self._send("trap : INT\n")

    def type(self, command: str) -> None:
        """Type a command. `$?` is that of the command before."""
        assert not self.busy, f"a command is still running, so this cannot be typed: {command}"
        self.busy = True
        # The end must not be read by the command, so nothing may be left for it on standard input.
        self._send(
            f"{{ (exit ${{_last:-0}}); {command}\n}} </dev/null; _last=$?; printf '\\036ended\\036\\n'\n"
        )

    def export(self, name: str, value: str) -> None:
        """Set a variable, unseen by the reader. No command may be running."""
        self._send(f"export {name}={value}\n")

    def interrupt(self) -> None:
        """Press Ctrl-C: the signal goes to all that runs in the terminal."""
        assert self.busy, "nothing is running that Ctrl-C could stop"
        os.killpg(self._process.pid, signal.SIGINT)

    def read(self, lines: int, *, until_end: bool) -> str:
        """Take what has been shown: until the command ends, or else also when that many lines are there."""
        deadline = time.monotonic() + SECONDS
        with self._changed:
            while not self._enough(lines, until_end) and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())
            text, ended, rest = self._shown.partition(_ENDED)
            self._shown = rest
            self.busy = self.busy and not ended
        return text + ("" if ended or not until_end else "... and the command did not end\n")

    def close(self) -> None:
        """End the shell and what still runs in it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _enough(self, lines: int, until_end: bool) -> bool:
        if _ENDED in self._shown or not self._reader.is_alive():
            return True
        return not until_end and self._shown.count("\n") >= lines

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while chunk := os.read(self._process.stdout.fileno(), 65536):
            with self._changed:
                self._shown += decoder.decode(chunk)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
