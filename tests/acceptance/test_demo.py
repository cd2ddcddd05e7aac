"""`emitd demo`: what it shows, that it looks at what it shows, and that it leaves nothing behind."""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from emitd_cli import demo
from emitd_cli.demo import CONFIG, JOBS, LOG_LINES, job_reports
from support.processes.run_main import run_main

ROOT = Path(__file__).parents[2]
DRAW = ROOT / "tests" / "support" / "docs" / "demo_picture.py"
PICTURE = ROOT / "docs" / "images" / "demo.svg"
# A Ctrl-C must reach it also where the tests run in the background, and SIGHUP also under nohup. Its pauses are short.
DEMO = """
import signal, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 10)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from emitd_cli.main import main
sys.exit(main(["demo", *sys.argv[1:]]))
"""
SECONDS = 60


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The folder in which the demo makes its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def environment(temporary: Path, **variables: str) -> Mapping[str, str]:
    unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "TMPDIR": str(temporary), "TERM": "xterm-256color", **variables}


def spawn(temporary: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DEMO, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**environment(temporary), "PYTHONIOENCODING": "utf-8"},
    )


def on_a_terminal(temporary: Path, **variables: str) -> tuple[int, str]:
    """Run the demo on a terminal; return its exit code and everything that was written to the screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DEMO, "--fast"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(temporary, **variables),
    )
    os.close(theirs)
    screen = b""
    try:
        while data := os.read(ours, 65536):
            screen += data
    except OSError:  # how Linux says that the terminal was closed
        pass
    finally:
        os.close(ours)
    return process.wait(SECONDS), screen.decode()


def assert_nothing_is_left(temporary: Path, shown: str) -> None:
    """No folder, no process, nobody who listens at the address that was shown."""
    assert list(temporary.iterdir()) == []
    for link in Path("/proc").glob("[0-9]*/cwd"):  # Linux only
        try:
            assert not os.readlink(link).startswith(str(temporary)), link
        except OSError:  # it has just ended, or is somebody else's
            continue
    match = re.search(r"listening on 127\.0\.0\.1:(\d+)", shown)
    assert match is not None, shown
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(match[1]))) != 0


def test_it_shows_every_part_in_plain_lines(temporary: Path) -> None:
    """In a pipe: every chapter, every record, every state of the jobs, no control code; exit code 0."""
    process = spawn(temporary, "--fast")
    shown, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, ""), shown
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert re.findall(r"^(\d)  ", shown, re.MULTILINE) == list("123456")
    for _, _, message in LOG_LINES:
        assert message.replace("\n", r"\n") in shown
    assert '"event_name":"user.login.failure"' in shown
    assert re.search(r"leaf_index 0  leaf_hash [0-9a-f]{64}\n", shown)
    for job in JOBS:
        states = re.findall(rf"^{job.job_id} +([A-Z]+) +(\d+) %", shown, re.MULTILINE)
        assert states[-1] == (job.status, str(job.progress)), job
    assert "BAD_IMAGE cover-0815.tif is cut off" in shown
    assert "emitd stopped\n" in shown
    assert "once each: 5 console lines, 1 line in audit.json.log, 3 rows in jobs.db" in shown
    assert "good: 1 line, 1 checkpoint" in shown
    assert "LINE_CHANGED: line 0 was changed" in shown
    assert str(temporary) not in shown
    commands = re.findall(r"^  \$ emitd (.*)", shown.partition("Your turn")[2], re.MULTILINE)
    assert [command.partition(" --")[0] for command in commands] == ["serve", "emit", "job watch first"]
    assert_nothing_is_left(temporary, shown)


def test_on_a_terminal_there_are_bars_in_colour(temporary: Path) -> None:
    """Every job has a bar, the failed one in red, and the screen ends with all of them."""
    code, screen = on_a_terminal(temporary)
    assert code == 0, screen
    last = screen.rpartition("Three jobs")[2].partition("A clean stop")[0]
    for status, colour in (("COMPLETED", "32"), ("FAILED", "31")):
        assert re.search(rf"\x1b\[{colour}m *{status}", last), status
    assert "\x1b[31m━" in last
    assert "\x1b[32m━" in last
    assert_nothing_is_left(temporary, screen)


def test_no_color_is_honoured(temporary: Path) -> None:
    """With NO_COLOR the bars are there, and no code that sets a colour."""
    code, screen = on_a_terminal(temporary, NO_COLOR="1")
    assert code == 0, screen
    assert "━━━" in screen
    assert not re.search(r"\x1b\[(?:\d+;)*[34]\d[;m]", screen)


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "listening on"), (signal.SIGHUP, "[WARNING]"), (signal.SIGINT, "RUNNING")],
)
def test_an_end_before_the_end_leaves_nothing(temporary: Path, number: signal.Signals, moment: str) -> None:
    """Ctrl-C, SIGTERM, or a terminal that is closed: exit code 130, no traceback, no service, no folder."""
    process = spawn(temporary)
    assert process.stdout is not None
    shown = ""
    while moment not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    assert list(temporary.iterdir()) != []
    process.send_signal(number)
    rest, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (130, "")
    assert "A clean stop" not in rest
    assert_nothing_is_left(temporary, shown)


def test_a_reader_that_leaves_ends_it(temporary: Path) -> None:
    """`emitd demo | head -8` stops the service as well, quietly."""
    process = spawn(temporary)
    assert process.stdout is not None
    assert process.stderr is not None
    shown = ""
    while "listening on" not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    process.stdout.close()
    assert process.wait(SECONDS) == 0
    with process.stderr:
        assert process.stderr.read() == ""
    assert_nothing_is_left(temporary, shown)


def test_an_audit_event_that_is_not_committed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that only queues its audit events has no leaf hash to show: exit code 1, and it says so."""
    queued = CONFIG.replace("type: json_audit,", "type: json_audit, delivery: queued,")
    monkeypatch.setattr(demo, "CONFIG", queued)
    done = run_main("demo", "--fast")
    assert done.returncode == 1
    assert done.stderr.startswith("emitd: not as it should be: the leaf_hash is that of the line in the file")
    assert "NOT OK: the leaf_hash" in done.stdout
    assert "Your turn" not in done.stdout


def test_a_job_that_ends_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch and the rows are both looked at."""
    monkeypatch.setattr(demo, "job_reports", lambda job: job_reports(job._replace(status="COMPLETED")))
    done = run_main("demo", "--fast")
    assert done.returncode == 1
    assert "NOT OK: the watch ended with the jobs" in done.stdout
    assert "NOT OK: once each" in done.stdout


def test_a_record_that_is_refused_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handler for log lines it cannot go on: one line with the service's own words, exit code 1."""
    monkeypatch.setattr(demo, "CONFIG", CONFIG.replace("{type: console}", "{type: console, enabled: false}"))
    done = run_main("demo", "--fast")
    assert done.returncode == 1
    assert "the demo's service did not answer as it should: FAILED_PRECONDITION" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it said, in one line, and exit code 5."""
    monkeypatch.setattr(demo, "CONFIG", "handlers: {console: {type: nothing}}\n")
    done = run_main("demo", "--fast")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "did not start" in done.stderr
    assert "demo.yml:1: handlers.console.type" in done.stderr


def test_the_reports_of_a_job_are_in_order_and_end_as_they_should() -> None:
    """Reports go out under ids of their own, in the order of their times, and end as the story says."""
    for job in JOBS:
        reports = list(job_reports(job))
        times = [at for at, _ in reports]
        assert times == sorted(times)
        assert len({record.record_id for _, record in reports}) == len(reports)
        assert reports[-1][1].job.progress == job.progress


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_demo_runs_it() -> None:
    """`make demo` is `emitd demo`, and `make help` names it."""
    # Within another make it would also tell which folder it enters.
    command = ["make", "--no-print-directory", "-n", "demo"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert plan.stdout.splitlines()[-1] == ".venv/bin/emitd demo"
    help_ = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "make demo " in help_.stdout


def assert_stands_alone(picture: Path) -> None:
    """Assert that a picture loads nothing, names no folder of the machine, and cuts no line."""
    svg = picture.read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"'<> ]*", svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@font-face|@import|<script|<image|href", svg)
    assert set(re.findall(r"url\((.)", svg)) == {"#"}
    assert not re.search(r"/(?:tmp|home|root|Users|work)/", svg)
    assert len(svg) < 200_000
    root = ElementTree.fromstring(svg)
    text = "".join(root.itertext()).replace("\xa0", " ")
    for part in (
        "[ERROR]",
        "leaf_hash",
        "nightly-import",
        "FAILED",
        "BAD_IMAGE",
        "LINE_CHANGED",
        "emitd stopped",
        "Your turn",
    ):
        assert part in text, part
    assert "…" not in text
    ends = [
        float(element.attrib["x"]) + float(element.attrib["textLength"])
        for element in root.iter("{http://www.w3.org/2000/svg}text")
        if "textLength" in element.attrib and (element.text or "").strip()
    ]
    assert max(ends) <= 100 * 12.2 + 0.1


def test_the_picture_in_the_docs_stands_alone() -> None:
    """It was made by `demo_picture.py`, loads nothing from elsewhere, and is whole."""
    assert_stands_alone(PICTURE)


def test_a_picture_is_made_of_the_real_run(tmp_path: Path) -> None:
    """The file is as the one in the docs must be."""
    subprocess.run([sys.executable, str(DRAW), str(tmp_path / "demo.svg"), "--fast"], check=True)
    assert_stands_alone(tmp_path / "demo.svg")
