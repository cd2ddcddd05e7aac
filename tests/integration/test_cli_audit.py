"""`emitd audit list`, `tail` and `show` against a real server, in a pipe and on a terminal."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from emitd_cli.errors import ExitCode
from emitd_server.settings import ServerSettings
from support.audit.sealed_log import LOG_ID, make_line
from support.audit.written_log import WrittenLog, WrittenLogHandler, written_log
from support.client.in_process import Running, running
from support.processes.run_main import Done, run_main

SIZE = 30
COMMAND = [sys.executable, "-m", "emitd_cli", "audit"]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[WrittenLog]:
    async with written_log(tmp_path / "audit.json.log", SIZE) as log:
        yield log


@pytest.fixture
async def server(log: WrittenLog) -> AsyncIterator[Running]:
    async with running([WrittenLogHandler(log)]) as server:
        yield server


async def audit(server: Running, *arguments: str) -> Done:
    """Run a command to its end."""
    return await asyncio.to_thread(run_main, "audit", *arguments, "--address", server.address)


@asynccontextmanager
async def tailing(address: str, *flags: str) -> AsyncIterator[Process]:
    """Run `emitd audit tail` until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "tail", "--address", address, *flags, stdout=PIPE, stderr=PIPE, limit=2**20
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        # Also what was not read, or the pipes stay open.
        await process.communicate()


async def lines_of(process: Process, count: int) -> list[bytes]:
    assert process.stdout is not None
    return [(await process.stdout.readline()).rstrip(b"\n") for _ in range(count)]


async def test_list_as_json_is_the_file(server: Running, log: WrittenLog) -> None:
    """From the oldest on, through a pipe, byte for byte."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "list",
        "--address",
        server.address,
        "--oldest-first",
        "--json",
        "--limit",
        "99",
        stdout=PIPE,
    )
    stdout, _ = await process.communicate()
    assert stdout == log.log.path.read_bytes()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--limit", "3"], [29, 28, 27]),
        (["--oldest-first", "--limit", "3"], [0, 1, 2]),
        (["--user", "user-3"], [24, 17, 10, 3]),
        (["--source-ip", "192.0.2.9"], [9]),
        (["--event", "playlist.", "--user", "user-3"], [17]),
        (["--since", "2026-11-23T03:39:00.028Z"], [29, 28]),
        (["--until", "2026-11-23T03:39:00.002Z", "--log-id", LOG_ID], [1, 0]),
        (["--since", "2100-01-01"], []),
    ],
)
async def test_list_filters(server: Running, flags: list[str], found: list[int]) -> None:
    """The server obeys each; the newest come first."""
    done = await audit(server, "list", "--json", *flags)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["details"]["n"] for line in done.stdout.splitlines()] == found


async def test_list_on_a_terminal(server: Running, log: WrittenLog) -> None:
    """No line is wider than the terminal, and nothing that a sender wrote moves its cursor."""
    log.commit(
        [make_line(SIZE, user="日本語\x9b2J\u202e").replace(b'{"n":', b'{"p":"' + b"x" * 200 + b'","n":')]
    )
    screen = await asyncio.to_thread(on_a_terminal, 80, "list", "--address", server.address)
    lines = screen.splitlines()
    assert len(lines) == SIZE + 2
    assert all(line.isprintable() and len(line) <= 80 for line in lines)
    assert "日本語\\u009b2J\\u202e" in lines[1]


def on_a_terminal(columns: int, *arguments: str) -> str:
    """Run a command on a terminal of this width; return what it wrote to the screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    pid = os.posix_spawn(
        sys.executable,
        [*COMMAND, *arguments],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, target) for target in (0, 1, 2)],
    )
    os.close(theirs)
    screen = b""
    try:
        while chunk := os.read(ours, 4096):
            screen += chunk
    except OSError:  # the terminal is gone with its process
        pass
    os.close(ours)
    assert os.waitpid(pid, 0)[1] == 0, screen
    return screen.decode().replace("\r\n", "\n")


async def test_tail_prints_what_comes_until_ctrl_c(server: Running, log: WrittenLog) -> None:
    """Each event at once, also through a pipe; Ctrl-C ends it with 130 and no word."""
    async with tailing(server.address, "--from", str(SIZE - 1), "--json") as process:
        assert await lines_of(process, 1) == [make_line(SIZE - 1)]
        for number in range(SIZE, SIZE + 3):
            log.commit([make_line(number)])
            assert await lines_of(process, 1) == [make_line(number)]
        process.send_signal(signal.SIGINT)
        stdout, stderr = await process.communicate()
        assert (process.returncode, stdout, stderr) == (ExitCode.INTERRUPTED, b"", b"")


async def test_tail_goes_on_when_the_server_is_back(log: WrittenLog) -> None:
    """What was committed meanwhile comes too, each once; the outage is told once."""
    async with AsyncExitStack() as stack:
        async with running([WrittenLogHandler(log)]) as server:
            address = server.address
            process = await stack.enter_async_context(tailing(address, "--from", "0", "--json"))
            got = await lines_of(process, SIZE)
        log.grow(5)
        assert process.stderr is not None
        assert b"trying again until it answers" in await process.stderr.readline()
        async with running([WrittenLogHandler(log)], ServerSettings(listen=address)):
            got += await lines_of(process, 5)
            log.grow(1)
            got += await lines_of(process, 1)
            process.send_signal(signal.SIGINT)
            _, stderr = await process.communicate()
    assert got == log.log.lines
    (note,) = map(json.loads, stderr.splitlines())
    assert note == {"note": f"{address} answers again; going on with line {SIZE}"}


async def test_tail_into_a_pipe_that_is_closed(server: Running, log: WrittenLog) -> None:
    """It ends quietly with the first event that nobody reads."""
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "tail", "--address", server.address, "--from", "0", stdout=theirs, stderr=PIPE
    )
    os.close(theirs)
    assert await asyncio.to_thread(os.read, ours, 10) == b"2026-11-23"
    os.close(ours)
    ended = asyncio.create_task(process.communicate())
    async with asyncio.timeout(60):
        while not ended.done():
            log.grow(1)
            await asyncio.sleep(0.05)
    assert (process.returncode, ended.result()[1]) == (0, b"")


async def test_show(server: Running, log: WrittenLog) -> None:
    """An event with its place; whether it is covered; exit code 4 if there is none."""
    done = await audit(server, "show", "event-000007")
    assert done.returncode == 0
    assert "index       7\n" in done.stdout
    assert f"covered     by the checkpoint over {SIZE} lines\n" in done.stdout
    log.grow(1)
    done = await audit(server, "show", f"event-{SIZE:06}")
    assert f"covered     by no checkpoint yet; the newest is over {SIZE} lines\n" in done.stdout
    done = await audit(server, "show", "nope")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"emitd: there is no event 'nope' in the log '{LOG_ID}'\n"
