"""Standard streams of the real process: missing, full, or with a reader that leaves."""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from emitd.v1 import (
    JOB_STATE_RUNNING,
    Job,
    JobChange,
    TailAuditEventsRequest,
    TailAuditEventsResponse,
    WatchJobResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from emitd_cli.arguments import make_parser
from emitd_handlers.audit.read.scan import entry_of
from emitd_server.convert.audit import entry_to_wire
from support.audit.sealed_log import SealedLog, make_line
from support.client.fake_log_service import Answer, fake_log_service

NOBODY = "127.0.0.1:1"
EMITD = (sys.executable, "-m", "emitd_cli")
#: The same with any of these redirections, unless what is printed cannot be written.
REDIRECTIONS = (">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full", ">/dev/full", ">/dev/full 2>/dev/full")
SECONDS = 60


def shell(folder: Path, command: str, redirection: str = "", **environ: str) -> tuple[int, str, str]:
    """Run `emitd COMMAND REDIRECTION`; return its exit code and what it printed."""
    line = f"{sys.executable} -m emitd_cli {command} {redirection}"
    environ = {"EMITD_ADDRESS": NOBODY, **environ}
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={name: value for name, value in (os.environ | environ).items() if value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """It has a good log, a forged one, a good configuration and a wrong one."""
    SealedLog.make(tmp_path / "good.log", 5)
    SealedLog.make(tmp_path / "forged.log", 5)
    forged = tmp_path / "forged.log"
    forged.write_bytes(forged.read_bytes().replace(b"user-3", b"user-4"))
    (tmp_path / "good.yml").write_text("handlers:\n  console: {type: console}\n")
    (tmp_path / "wrong.yml").write_text("handlers:\n  console: {type: nope}\n")
    return tmp_path


#: Commands, and their exit codes when they are heard.
VERDICTS = [
    ("audit verify good.log", 0),
    ("audit verify forged.log", 1),
    ("audit verify good.log --json", 0),
    ("check-config good.yml", 0),
    ("check-config wrong.yml --json", 1),
    ("job watch j1", 4),
    ("job list --watch --json", 4),
    ("audit tail", 4),
    ("emit --level LOUD", 2),
    ("job watch --help", 0),
    ("--version", 0),
    ("serve --config wrong.yml", 3),
]


@pytest.mark.slow  # a process for each
@pytest.mark.parametrize(("command", "code"), VERDICTS)
@pytest.mark.parametrize(
    ("redirection", "unbuffered"),
    [*((each, "") for each in REDIRECTIONS), (">/dev/full", "1"), ("2>/dev/full", "1")],
)
def test_streams_that_are_missing_or_full(
    folder: Path, command: str, code: int, redirection: str, unbuffered: str
) -> None:
    """The verdict is the same without them. If it cannot be written, nobody can tell: 4; a misuse stays one."""
    found, out, error = shell(folder, command, redirection, PYTHONUNBUFFERED=unbuffered)
    is_full = ">/dev/full" in redirection.replace("2>/dev/full", "") and code in (0, 1)
    assert found == (4 if is_full else code)
    assert "Traceback" not in error
    if is_full and "2>" not in redirection:
        assert "standard output cannot be written: No space left on device" in error
    if "2>" in redirection:
        assert "emitd: " not in out
        assert error == ""


def test_a_full_disk_is_no_verdict(folder: Path) -> None:
    """`audit verify LOG > /dev/full` cannot tell; a bad log does not become worse, nor a good one bad."""
    told = "emitd: standard output cannot be written: No space left on device\n"
    for unbuffered in ("", "1"):
        assert shell(folder, "audit verify good.log", ">/dev/full", PYTHONUNBUFFERED=unbuffered) == (
            4,
            "",
            told,
        )
        assert shell(folder, "demo --fast", ">/dev/full", PYTHONUNBUFFERED=unbuffered) == (4, "", told)
    code, _, error = shell(folder, "audit verify good.log --json", ">/dev/full")
    assert (code, json.loads(error)["error"]["code"]) == (4, "CANNOT_TELL")


def test_nothing_of_standard_error_goes_to_standard_output(folder: Path) -> None:
    """Without a standard error errors and notes are lost; the result is there."""
    assert shell(folder, "job watch j1", "2>&-") == (4, "", "")
    assert shell(folder, "emit --level LOUD", "2>&-") == (2, "", "")
    assert shell(folder, "emit --level LOUD", "2>/dev/full") == (2, "", "")
    unforeseen = f"new-handler slack --config {'a' * 5000}"
    assert shell(folder, unforeseen, "2>/dev/full", EMITD_DEBUG="1") == (4, "", "")
    code, out, error = shell(folder, "new-handler slack", "2>&-")
    assert (code, error) == (0, "")
    assert out.startswith("handler_paths:")
    assert "wrote" not in out


def test_standard_input_that_is_closed(folder: Path) -> None:
    """Is misuse for a command that reads it."""
    told = "emitd: --file: '-' cannot be read: standard input is closed\n"
    assert shell(folder, "emit -", "<&-") == (2, "", told)


def test_no_file_takes_the_place_of_a_missing_stream(tmp_path: Path) -> None:
    """What a process opens gets numbers from 3 on, so that nothing printed ends in it."""
    code = (
        "import os, sys\nfrom emitd_cli.main import main\n"
        f"code = main(['job', 'get', 'j', '--address', '{NOBODY}'])\n"
        "fd = os.open('file', os.O_WRONLY | os.O_CREAT)\n"
        "for stream in (0, 1, 2):\n"
        "    try:\n        os.write(stream, b'lost')\n    except OSError as error:\n        assert stream\n"
        "os.write(fd, b'%d' % fd)\nsys.exit(code)"
    )
    line = f'exec {sys.executable} -c "$CODE" >&- 2>&- <&-'
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env={**os.environ, "CODE": code}, timeout=SECONDS, check=False
    )
    assert done.returncode == 4
    assert int((tmp_path / "file").read_text()) >= 3


@pytest.mark.parametrize(
    ("locale", "argument", "code"),
    [("C.UTF-8", "\udcff", 2), ("C.UTF-8", "é", 4), ("POSIX", "é", 4), ("POSIX", "\udcff", 2)],
)
def test_bytes_in_an_argument(tmp_path: Path, locale: str, argument: str, code: int) -> None:
    """UTF-8 is read in every locale; other bytes are misuse, named in one line of ASCII."""
    done = subprocess.run(
        [*map(os.fsencode, EMITD), b"job", b"get", os.fsencode(argument), b"--address", NOBODY.encode()],
        env={**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, b"")
    if code == 2:
        assert done.stderr == b"emitd: JOB_ID: '\\udcff' is not UTF-8; see 'emitd job get --help'\n"


#: Ends the answers below, which wait as a server does that has nothing to say.
quiet = threading.Event()
JOB = Job(job_id="j1", job_type="t", status=JOB_STATE_RUNNING, revision=1, attempt=1)


def say_one_thing(request: Any, _: object) -> Iterator[Any]:
    if isinstance(request, TailAuditEventsRequest):
        yield TailAuditEventsResponse(
            log_id="log", entries=[entry_to_wire(entry_of(0, make_line(0)))], next_index=1
        )
    elif isinstance(request, WatchJobsRequest):
        yield WatchJobsResponse(changes=[JobChange(job=JOB)], snapshot_end=True)
    else:
        yield WatchJobResponse(job=JOB)
    quiet.wait(SECONDS)


@pytest.fixture
def _quiet() -> Iterator[None]:
    quiet.clear()
    yield
    quiet.set()


STREAMS = (
    "job watch j1",
    "job watch j1 --json",
    "job watch j1 j2 --wait",
    "job watch --type t",
    "job list --watch",
    "audit tail",
    "audit tail --json",
)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("command", STREAMS)
def test_a_stream_ends_with_its_reader(command: str) -> None:
    """`emitd job watch j1 | grep -m1 RUNNING`: quietly and with 0, though there is nothing more to print."""
    answer: Answer = say_one_thing
    with fake_log_service(answer) as service:
        process = start(command.split(), service.address)
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(SECONDS / 2) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
        finally:
            quiet.set()
            stop(process)


def test_a_stream_ends_with_its_reader_while_it_waits_for_its_server() -> None:
    """Also if it has printed nothing yet."""
    process = start(["job", "watch", "j1", "--wait"], NOBODY)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"trying again" in process.stderr.readline()
        process.stdout.close()
        assert process.wait(SECONDS / 2) == 0
    finally:
        stop(process)


def start(words: Sequence[str], address: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*EMITD, *words, "--address", address], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def command_names(parser: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                yield from command_names(child, f"{name} {word}".strip())
            return
    yield name


@pytest.mark.slow  # a process for each command
@pytest.mark.parametrize("name", list(command_names(make_parser())))
@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_misuse_of_every_command_with_any_streams(tmp_path: Path, name: str, redirection: str) -> None:
    """Is 2, and says nothing on the wrong stream."""
    code, out, error = shell(tmp_path, f"{name} --nothing-like-this", redirection)
    assert (code, out) == (2, "")
    assert error == "" if "2>" in redirection else error.startswith("emitd: ")
