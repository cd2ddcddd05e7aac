"""`emitd log tail` in a terminal of its own: over a kill of the server, and into a reader that is slow."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitd import LogClient
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "emitd_cli", "log", "tail"]
#: Less than a batch of lines.
SMALL_RING_BYTES = 64 * 1024
SECONDS = 60


def config(handler: str, ring_bytes: int = 8 * 1024 * 1024) -> str:
    return f"""
server: {{listen: "127.0.0.1:{free_port()}", recent_lines_bytes: {ring_bytes}}}
handlers:
  lines: {{{handler}}}
"""


FILE = "type: file, path: lines.jsonl, delivery: committed"


@contextmanager
def tailing(*flags: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `emitd log tail` until the end of the block."""
    process = subprocess.Popen([*COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def next_message(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["message"])


def test_a_tail_misses_nothing_that_the_file_has(tmp_path: Path) -> None:
    """One terminal sends while the server is killed and started twice; another tails every line, in order, once."""
    settings = config(FILE)
    server = ServerProcess.start(settings, tmp_path)
    try:
        with (
            LogClient(server.address, source="shop", linger=0.01, backoff_max=0.1, spool="off") as client,
            tailing("--address", server.address, "--last", "1", "--json") as process,
        ):
            client.info("first")
            assert next_message(process) == "first"
            sent = 0
            for count in (200, 300):
                for _ in range(count):
                    client.info(str(sent))
                    sent += 1
                client.flush(SECONDS)
                for _ in range(100):  # these are on their way when the server is killed
                    client.info(str(sent))
                    sent += 1
                server.kill()
                server = ServerProcess.start(settings, tmp_path)
            assert client.flush(SECONDS)
            client.info("last")
            came: list[str] = []
            while not came or came[-1] != "last":
                came.append(next_message(process))
            process.terminate()
            _, stderr = process.communicate()
    finally:
        server.kill()
    in_file = [json.loads(line)["message"] for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert ["first", *came] == in_file
    assert set(map(str, range(sent))) <= set(came)
    notes = [json.loads(line)["note"] for line in stderr.splitlines()]
    assert [note for note in notes if "missed" in note or "missing" in note] == []
    assert any("answers again" in note for note in notes)


def test_a_reader_that_stops_reading_learns_what_it_missed(tmp_path: Path) -> None:
    """It holds up no sender; what left the server's memory meanwhile is counted, and nothing else is missing."""
    lines, text = 30_000, "x" * 400
    settings = config("type: discard, levels: [INFO]", SMALL_RING_BYTES)
    with (
        ServerProcess.start(settings, tmp_path) as server,
        LogClient(server.address, source="shop", overflow="block(60)", spool="off") as client,
        tailing("--address", server.address, "--last", "1", "--json") as process,
    ):
        client.info("first")
        assert next_message(process) == "first"
        for number in range(lines):
            client.info(text, number=number)
        client.info("last")
        assert client.flush(SECONDS)  # nobody has read a line so far
        assert process.stdout is not None
        notes: list[str] = []
        reader = threading.Thread(target=lambda: notes.extend(process.stderr or ()))
        reader.start()
        numbers = []
        for line in process.stdout:
            came = json.loads(line)
            if came["message"] == "last":
                break
            numbers.append(came["attributes"]["number"])
        process.terminate()
        reader.join()
    missed = [int(json.loads(note)["note"].split()[0]) for note in notes]
    assert numbers == sorted(set(numbers))
    assert missed
    assert sum(missed) == lines - len(numbers)


def test_a_pipe_that_is_closed_ends_it(tmp_path: Path) -> None:
    """As `tail | head` does, with the first line that nobody reads; exit code 0, and no traceback."""
    with ServerProcess.start(config(FILE), tmp_path) as server:
        tail = " ".join([*COMMAND, "--address", server.address, "--since", "1h"])
        program = f"set -o pipefail; {tail} | head -2; exit ${{PIPESTATUS[0]}}"
        with LogClient(server.address, source="shop", spool="off") as client:
            for number in range(3):
                client.info(str(number))
            client.flush()
            process = subprocess.Popen(
                ["bash", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            while process.poll() is None:
                client.info("more")
                client.flush()
                threading.Event().wait(0.1)
            stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    assert [line.split()[-1] for line in stdout.splitlines()] == ["0", "1"]
