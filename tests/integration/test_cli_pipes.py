"""Commands in pipes: what reads them may stop early, what feeds them may pause."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitd_cli.errors import ExitCode
from support.processes.run_main import run_main
from support.processes.server_process import ServerProcess

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
NOBODY = "127.0.0.1:1"
JOBS = 1500
#: Standard error of these goes where standard output goes.
ALL_HELP = ("", "serve", "check-config", "emit", "job", "job list", "job get", "job watch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipes")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """It knows more jobs than a pipe holds in lines."""
    with ServerProcess.start(CONFIG, folder) as server:
        reports = (
            {
                "job": {"job_id": f"job-{n:06}", "job_type": "t", "status": "JOB_STATE_RUNNING"},
                "message": "m" * 99,
            }
            for n in range(JOBS)
        )
        (folder / "jobs.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
        flags = ["--file", str(folder / "jobs.jsonl"), "--format", "jsonl", "--address", server.address]
        assert run_main("emit", *flags).returncode == 0
        yield server


def pipe(command: str, reader: str, address: str = "") -> tuple[int, str, str]:
    """Run `emitd COMMAND | READER`; return the command's exit code, what the reader printed, and standard error."""
    program = f"set -o pipefail; {sys.executable} -m emitd_cli {command} | {reader}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", program],
        env={**os.environ, "EMITD_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize("command", [f"job list --limit {JOBS}", f"job list --limit {JOBS} --json"])
def test_a_list_that_is_read_in_part(server: ServerProcess, command: str, reader: str) -> None:
    """No traceback, and exit code 0: what was asked for was given."""
    code, stdout, stderr = pipe(command, reader, server.address)
    assert (code, stderr) == (0, "")
    assert stdout.count("\n") == (reader == "head -1")


@pytest.mark.parametrize("command", ALL_HELP)
def test_help_that_is_read_in_part(command: str) -> None:
    """Of every command, also by a reader that has gone before the first line."""
    for reader in ("head -1", "true"):
        code, _, stderr = pipe(f"{command} --help", reader)
        assert (code, stderr) == (0, "")


def test_a_watch_that_is_read_in_part(server: ServerProcess) -> None:
    """The history has more lines than are read."""
    for status in ("QUEUED", "RUNNING", "COMPLETED"):
        flags = ["--job", "seen", "--type", "t", "--status", status, "--address", server.address]
        assert run_main("emit", *flags).returncode == 0
    code, stdout, stderr = pipe("job watch seen --after-revision 0", "head -1", server.address)
    assert (code, stdout, stderr) == (0, "seen  QUEUED       0 %\n", "")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("emit hello", ExitCode.GOOD),
        ("emit --job x --status RUNNING", ExitCode.BAD),
        ("emit --level LOUD", ExitCode.MISUSE),
        ("emit --file records.txt --format jsonl", ExitCode.BAD),
        ("check-config none.yml", ExitCode.BAD),
        ("job get nope", ExitCode.CANNOT_TELL),
        ("job list --json --status LOUD", ExitCode.MISUSE),
    ],
)
def test_how_a_command_went_does_not_depend_on_its_reader(
    server: ServerProcess, command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that was refused stays refused when nobody reads what is printed of it, on either output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "records.txt").write_text("nonsense\n")
    assert pipe(command, "true", server.address)[0] == code
    assert pipe(f"{command} 2>&1", "true", server.address)[0] == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_that_cannot_be_written_is_told() -> None:
    """A disk that is full is no traceback, and no success."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "emitd_cli", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            # argparse overlooks an error of its own writing; what is buffered is written later.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == ExitCode.CANNOT_TELL
    assert done.stderr == "emitd: standard output cannot be written: No space left on device\n"


def test_without_any_standard_output() -> None:
    """A process that was started without one does its work."""
    program = f"{sys.executable} -m emitd_cli --version >&-"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_trouble_with_a_line_is_told_while_the_next_is_awaited() -> None:
    """`tail -f | emitd emit -`: a server that is not there is told at once, not when the input ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", "emit", "-", "--address", NOBODY, "--retry-seconds", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("one line\n")
        process.stdin.flush()
        first = process.stderr.readline()
        process.stdin.close()
        # Not `communicate`: it passes over what `readline` has read ahead.
        out, err = process.stdout.read(), process.stderr.read()
    assert first.endswith("; trying again for 1 s\n")
    assert (process.returncode, out) == (4, "0 records\n")
    assert err.endswith("; gave up at line 1\n")


def test_a_fast_pipe_is_sent_as_one_stream(server: ServerProcess, folder: Path) -> None:
    """All lines of a long input arrive, whatever the pieces that it comes in."""
    lines = "".join(f"line {n}\n" for n in range(20_000))
    done = subprocess.run(
        [sys.executable, "-m", "emitd_cli", "emit", "-", "--address", server.address],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "20000 records: 20000 queued\n", "")
