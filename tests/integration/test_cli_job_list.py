"""`emitd job list` against a real server, in a pipe and on a terminal."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from rich.cells import cell_len

from support.processes.run_main import Done, run_main
from support.processes.server_process import ServerProcess

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
LONG = "a-very-long-job-id-" * 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, tmp_path_factory.mktemp("list")) as server:
        for flags in (
            ["--job", "nightly-1", "--type", "backup", "--status", "RUNNING", "--progress", "40", "copying"],
            ["--job", LONG, "--type", "thumbnails", "--status", "QUEUED", "waiting " * 40],
            ["--job", "r1", "--type", "report", "--status", "FAILED", "--failure-reason", "OOM\x1b[2J"],
            ["--job", "r2", "--type", "report", "--status", "COMPLETED"],
        ):
            assert run_main("emit", *flags, "--address", server.address).returncode == 0
        yield server


def ids(done: Done) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["job_id"] for line in done.stdout.splitlines()]


def on_a_terminal(server: ServerProcess, columns: int, *flags: str, **environ: str) -> str:
    """Run `emitd job list` on a terminal of this width; return what it wrote to the screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    drop = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "COLORTERM")
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    process = subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", "job", "list", "--address", server.address, *flags],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color", **environ},
    )
    os.close(theirs)
    screen = b""
    try:
        while chunk := os.read(ours, 4096):
            screen += chunk
    except OSError:  # the terminal is gone with its process
        pass
    os.close(ours)
    assert process.wait(30) == 0, screen
    return screen.decode().replace("\r\n", "\n")


def test_all_jobs_newest_first(server: ServerProcess) -> None:
    """Without a filter, and page by page as with one page."""
    done = run_main("job", "list", "--json", "--address", server.address)
    assert ids(done) == ["r2", "r1", LONG, "nightly-1"]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("--type report", ["r2", "r1"]),
        ("--status failed --status queued", ["r1", LONG]),
        ("--type report --status RUNNING", []),
        ("--updated-after 1h", ["r2", "r1", LONG, "nightly-1"]),
        ("--updated-after 2100-01-01", []),
        ("--limit 1", ["r2"]),
    ],
)
def test_filters(server: ServerProcess, flags: str, found: list[str]) -> None:
    """The server obeys each."""
    assert ids(run_main("job", "list", "--json", *flags.split(), "--address", server.address)) == found


@pytest.mark.parametrize("columns", ["20", "80"])
def test_in_a_pipe(server: ServerProcess, columns: str) -> None:
    """One line a job, no colour, nothing cut off, whatever the width of the terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "emitd_cli", "job", "list", "--address", server.address],
        env={name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
        | {"COLUMNS": columns},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert "\x1b" not in done.stdout
    assert lines[2].endswith("  OOM\\u001b[2J")
    assert LONG in lines[3]
    assert ("waiting " * 40).strip() in lines[3]


@pytest.mark.parametrize("columns", [160, 80, 50])
def test_on_a_terminal(server: ServerProcess, columns: int) -> None:
    """One line a job, no wider than the terminal; what senders wrote moves no cursor."""
    text = on_a_terminal(server, columns)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 5
    assert max(map(cell_len, text.splitlines())) <= columns


def test_the_note_stands_below_the_table(server: ServerProcess) -> None:
    """That there are more jobs is the last thing read."""
    screen = on_a_terminal(server, 100, "--limit", "1")
    assert screen.endswith("emitd: there are more than 1 such jobs; --limit N shows more\n")
