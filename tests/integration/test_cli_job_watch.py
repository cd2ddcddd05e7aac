"""`emitd job watch`, `list --watch`, `history` and `cancel` against a real server, on a terminal and in a pipe."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from rich.cells import cell_len

from support.processes.run_main import Done, run_main
from support.processes.screen import ScreenCommand
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  jobs: {type: database_job, database: "sqlite:///jobs.db", keep_progress: true}
"""
INTERRUPTED = 130
EMITD = (sys.executable, "-m", "emitd_cli")
WITHOUT_RICH = (
    sys.executable,
    "-c",
    "import sys\nsys.modules['rich'] = None\nfrom emitd_cli.main import main\nsys.exit(main())",
)
COLOUR = re.compile(r"\x1b\[([\d;]*)m")
_numbers = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, tmp_path_factory.mktemp("watch")) as server:
        yield server


@pytest.fixture
def job_type() -> str:
    """A type that no other test's jobs have."""
    return f"type-{next(_numbers)}"


def emitd(server: ServerProcess, *arguments: str) -> Done:
    return run_main(*arguments, "--address", server.address)


def report(server: ServerProcess, job_id: str, job_type: str, status: str, *flags: str) -> None:
    done = emitd(server, "emit", "--job", job_id, "--type", job_type, "--status", status, *flags)
    assert done.returncode == 0, done.stderr


def on_a_terminal(
    server: ServerProcess,
    *arguments: str,
    columns: int = 100,
    lines: int = 24,
    command: Sequence[str] = EMITD,
    **environ: str,
) -> ScreenCommand:
    return ScreenCommand([*command, *arguments, "--address", server.address], columns, lines, environ)


def cells(screen: str) -> list[list[str]]:
    """The cells of each line."""
    return [re.split(r" {2,}", line) for line in screen.splitlines()]


def test_several_jobs_as_live_bars(server: ServerProcess, job_type: str) -> None:
    """One row each, from before the first report to the end, which says in full why one has failed."""
    names = [f"{job_type}-{name}" for name in "abc"]
    report(server, names[0], job_type, "RUNNING", "--progress", "40", "copying")
    with on_a_terminal(server, "job", "watch", *names, "--wait") as command:
        command.wait_for_text("40 %  ", "no report yet")
        report(server, names[1], job_type, "QUEUED", "a\x1b[2Jb")
        report(server, names[2], job_type, "RUNNING")
        command.wait_for_text("QUEUED", "a\\u001b[2Jb")
        command.wait_for(
            lambda screen: re.search(r"RUNNING .* (?!0:00)\d:\d\d .* copying", screen), "elapsed time"
        )
        emitd(server, "job", "cancel", names[0], "--reason", "late")
        command.wait_for_text("(cancel requested: late)")
        report(server, names[0], job_type, "COMPLETED")
        report(server, names[1], job_type, "COMPLETED")
        why = "the worker was killed by the kernel " * 3
        report(server, names[2], job_type, "FAILED", "--failure-reason", "OOM", "--failure-message", why)
        assert command.wait() == 1
        screen = command.screen.text
    assert [line[0] for line in cells(screen)[:4]] == ["JOB", *names]
    assert screen.split().count("kernel") == 3
    assert screen.count("COMPLETED") == 2
    assert command.screen.history == screen, "each frame stood where the one before did"
    assert "\x1b[31mFAILED" in command.written


def test_a_filter_as_live_bars(server: ServerProcess, job_type: str) -> None:
    """New jobs appear, one that leaves the filter is dim, and Ctrl-C leaves the last frame where it is."""
    flags = ["--type", job_type, "--status", "RUNNING", "--status", "QUEUED"]
    with on_a_terminal(server, "job", "watch", *flags) as command:
        command.wait_for_text("no job is like that")
        report(server, f"{job_type}-a", job_type, "RUNNING", "--progress", "7")
        report(server, f"{job_type}-b", job_type, "QUEUED")
        screen = command.wait_for_text("7 %", "QUEUED")
        assert [line[0] for line in cells(screen)] == ["JOB", f"{job_type}-b", f"{job_type}-a"]
        report(server, f"{job_type}-a", job_type, "COMPLETED")
        command.wait_for_text("COMPLETED")
        assert "\x1b[2;32mCOMPLETED" in command.written
        command.interrupt()
        assert command.wait() == INTERRUPTED
        assert len(command.screen.text.splitlines()) == 3
        assert command.written.endswith("\r\n")


def test_more_jobs_than_rows(server: ServerProcess, job_type: str) -> None:
    """The rest is counted in the last line."""
    for number in range(9):
        report(server, f"{job_type}-{number}", job_type, "RUNNING")
    with on_a_terminal(server, "job", "watch", "--type", job_type, lines=8) as command:
        screen = command.wait_for_text("and 4 more: 4 RUNNING")
        assert len(screen.splitlines()) == 7


def test_a_terminal_of_another_size(server: ServerProcess, job_type: str) -> None:
    """The next frame is right, nothing of the one before is left, and what stood above stays."""
    for number in range(4):
        report(server, f"{job_type}-{number}", job_type, "RUNNING", "--progress", str(number), "m" * 90)
    shell = ("bash", "-c", 'echo before; exec "$@"', "bash", *EMITD)
    flags = ["job", "watch", "--type", job_type]
    with on_a_terminal(server, *flags, lines=30, command=shell) as command:
        command.wait_for_text("  1 %")
        for columns, lines, rows, sign in (
            (40, 30, 6, "DONE  MESSAGE"),
            (130, 30, 6, "m" * 30),
            (60, 30, 6, "m…"),
            (120, 5, 4, "and 2 more"),
        ):
            command.resize(columns, lines)
            screen = command.wait_for(
                lambda screen, rows=rows, sign=sign: len(screen.splitlines()) == rows and sign in screen, sign
            )
            assert max(map(cell_len, screen.splitlines())) <= columns
            assert screen.startswith("before\nJOB" if lines > 5 else "JOB")
            assert screen.count("JOB") == 1
        command.interrupt()
        assert command.wait() == INTERRUPTED


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal_without_colours(server: ServerProcess, job_type: str, columns: int) -> None:
    """What matters is there, wide letters count twice, and no text of a sender moves the cursor."""
    report(server, f"{job_type}-日本語", job_type, "FAILED", "--failure-reason", "OOM\x1b[2J\n")
    flags = ["job", "watch", f"{job_type}-日本語"]
    with on_a_terminal(server, *flags, columns=columns, NO_COLOR="1") as command:
        assert command.wait() == 1
        screen = command.screen.text
    assert max(map(cell_len, screen.splitlines())) <= columns
    assert "FAILED" in screen
    assert "OOM" in screen
    codes = {code for codes in COLOUR.findall(command.written) for code in codes.split(";")}
    assert not codes & {"31", "32", "33", "36"}


def test_a_list_that_is_kept_true(server: ServerProcess, job_type: str) -> None:
    """The table of `job list` is redrawn in place; what is beyond the limit is counted."""
    for number in range(4):
        report(server, f"{job_type}-{number}", job_type, "QUEUED")
    flags = ["--type", job_type, "--limit", "3"]
    with on_a_terminal(server, "job", "list", "--watch", *flags) as command:
        screen = command.wait_for_text("and 1 more: 1 QUEUED")
        assert [line[0] for line in cells(screen)[1:-1]] == [f"{job_type}-{number}" for number in (3, 2, 1)]
        report(server, f"{job_type}-2", job_type, "RUNNING", "--progress", "55")
        screen = command.wait_for_text("RUNNING", "55 %")
        assert len(screen.splitlines()) == 5
        report(server, f"{job_type}-new", job_type, "QUEUED")
        command.wait_for_text(f"{job_type}-new", "and 2 more: 2 QUEUED")
        command.interrupt()
        assert command.wait() == INTERRUPTED


@pytest.mark.parametrize("command", [["list", "--watch"], ["watch"]])
def test_without_rich(server: ServerProcess, job_type: str, command: list[str]) -> None:
    """Each writes a line for each change, as in a pipe."""
    report(server, f"{job_type}-a", job_type, "QUEUED")
    flags = ["job", *command, "--type", job_type]
    with on_a_terminal(server, *flags, columns=60, command=WITHOUT_RICH) as terminal:
        terminal.wait_for_text("QUEUED")
        report(server, f"{job_type}-a", job_type, "RUNNING", "--progress", "5", "m" * 90)
        screen = terminal.wait_for_text("RUNNING")
        assert "QUEUED" in screen
        assert not COLOUR.search(terminal.written)
        terminal.interrupt()
        assert terminal.wait() == INTERRUPTED


def test_a_terminal_that_cannot_move_its_cursor(server: ServerProcess, job_type: str) -> None:
    """It gets lines."""
    report(server, f"{job_type}-a", job_type, "COMPLETED")
    with on_a_terminal(server, "job", "watch", f"{job_type}-a", TERM="dumb") as command:
        assert command.wait() == 0
    assert command.written == f"{job_type}-a  COMPLETED  100 %\r\n"


def test_colours_that_are_asked_for_make_no_frames_in_a_pipe(server: ServerProcess, job_type: str) -> None:
    """A watch writes plain lines there."""
    report(server, f"{job_type}-a", job_type, "COMPLETED")
    done = subprocess.run(
        [*EMITD, "job", "watch", f"{job_type}-a", "--address", server.address],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"{job_type}-a  COMPLETED  100 %\n")


def test_a_filter_outlives_its_server(tmp_path: Path) -> None:
    """The server is killed and started again: the frame goes on below what is told of it, with the new snapshot."""
    config = CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{free_port()}")
    flags = ["job", "watch", "--type", "t", "--status", "RUNNING"]
    with ServerProcess.start(config, tmp_path) as first:
        report(first, "stays", "t", "RUNNING", "--progress", "5")
        report(first, "ends", "t", "RUNNING")
        command = on_a_terminal(first, *flags, columns=200)
        with command:
            command.wait_for_text("stays", "ends")
            first.kill()
            command.wait_for_text("trying again until it answers")
            with ServerProcess.start(config, tmp_path) as second:
                command.wait_for(
                    lambda screen: re.search(r"answers again\nJOB .*\nends .*\nstays .*$", screen),
                    "a frame below",
                )
                report(second, "ends", "t", "COMPLETED")
                report(second, "new", "t", "RUNNING", "--progress", "9")
                command.wait_for_text("COMPLETED", " 9 %")
                command.interrupt()
                assert command.wait() == INTERRUPTED


def test_a_filter_in_a_pipe_that_is_closed(server: ServerProcess, job_type: str) -> None:
    """`emitd job watch --type t | head -1`: it ends quietly with the next line."""
    report(server, f"{job_type}-a", job_type, "RUNNING")
    with subprocess.Popen(
        [*EMITD, "job", "watch", "--type", job_type, "--address", server.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{job_type}-a  RUNNING      0 %\n"
        process.stdout.close()
        report(server, f"{job_type}-a", job_type, "COMPLETED")
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_history_and_cancel(server: ServerProcess, job_type: str) -> None:
    """Two attempts with their progress; the wish to cancel is no change of status, and comes too late at the end."""
    job_id = f"{job_type}-a"
    report(server, job_id, job_type, "RUNNING")
    report(server, job_id, job_type, "RUNNING", "--progress", "50")
    asked = emitd(server, "job", "cancel", job_id, "--reason", "late")
    assert asked == (0, f"{job_id}  RUNNING     50 %  (cancel requested: late)\n", "")
    report(server, job_id, job_type, "FAILED", "--failure-reason", "CANCELLED")
    report(server, job_id, job_type, "QUEUED", "--new-attempt")
    report(server, job_id, job_type, "COMPLETED", "--attempt", "2")
    done = emitd(server, "job", "history", job_id)
    assert done.returncode == 0, done.stderr
    assert [[line[1], line[2], line[3], line[4], *line[6:]] for line in cells(done.stdout)[1:]] == [
        ["1", "1", "RUNNING", "0%"],
        ["2", "1", "-", "50%"],
        ["4", "1", "FAILED", "50%", "CANCELLED"],
        ["5", "2", "QUEUED", "0%"],
        ["6", "2", "COMPLETED", "100%"],
    ]
    as_json = emitd(server, "job", "history", job_id, "--after-revision", "4", "--json")
    assert [json.loads(line)["revision"] for line in as_json.stdout.splitlines()] == ["5", "6"]
    late = emitd(server, "job", "cancel", job_id)
    assert late.returncode == 0
    assert late.stderr == f"emitd: '{job_id}' is COMPLETED already; there is nothing to cancel\n"
    for command in ("history", "cancel"):
        assert emitd(server, "job", command, "nope") == (4, "", "emitd: NOT_FOUND: there is no job 'nope'\n")


def test_filters_by_label_and_id(server: ServerProcess, job_type: str) -> None:
    """The server obeys both, for lists and for watches."""
    report(server, f"{job_type}-a", job_type, "QUEUED", "--label", f"team={job_type}", "--label", "x=1")
    report(server, f"{job_type}-b", job_type, "QUEUED", "--label", f"team={job_type}")
    for flags, found in (
        (["--label", f"team={job_type}"], ["b", "a"]),
        (["--label", f"team={job_type}", "--label", "x=1"], ["a"]),
        (["--id", f"{job_type}-b", "--id", "nope"], ["b"]),
    ):
        done = emitd(server, "job", "list", "--json", *flags)
        assert [json.loads(line)["job_id"] for line in done.stdout.splitlines()] == [
            f"{job_type}-{id_}" for id_ in found
        ]
    flags = ["--label", f"team={job_type}", "--label", "x=1", "--timeout", "0.5"]
    assert emitd(server, "job", "watch", *flags) == (0, f"{job_type}-a  QUEUED       0 %\n", "")
