"""`emitd audit verify`: what it prints, and how it ends."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from emitd_cli.audit import verify as audit_verify
from support.audit.sealed_log import LOG_ID, SealedLog, make_line
from support.processes.run_main import run_main


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "log" / "audit.json.log", 10, 40)


def test_a_good_log(log: SealedLog) -> None:
    """One line says that it is good, by whose signature; another that the key beside it proves less."""
    done = run_main("audit", "verify", str(log.path))
    verdict, note = done.stdout.splitlines()
    name, key_id, _ = log.vkeys[0].split("+", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert verdict == (
        "good: 40 lines, 2 checkpoints, each the continuation of the one before, the last over 40 lines, "
        f"signed by {name}+{key_id}"
    )
    assert note.startswith("note: the public key is the one next to the log")


def test_a_key_as_a_text_and_as_a_file(log: SealedLog, tmp_path: Path) -> None:
    """`--key` takes both; then there is nothing to note."""
    file = tmp_path / "auditor.vkey"
    file.write_text("\n".join(log.vkeys))
    for key in (log.vkeys[0], str(file)):
        done = run_main("audit", "verify", str(log.path), "--key", key)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert run_main("audit", "verify", str(log.path), "--key", "nonsense").returncode == 2


def test_a_folder(log: SealedLog) -> None:
    """The log in a folder is found by its checkpoints."""
    assert run_main("audit", "verify", str(log.path.parent)).returncode == 0


def test_a_bad_log(log: SealedLog) -> None:
    """What is wrong stands in a line of its own, with the file and the line that it is about."""
    data = log.path.read_bytes()
    log.path.write_bytes(data.replace(b'"user-3"', b'"user-4"', 1))
    done = run_main("audit", "verify", str(log.path))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[:2] == [
        f"BAD: '{log.path}' was tampered with or is damaged (1 finding in 40 lines, 2 checkpoints)",
        f"  LINE_CHANGED: line 3 was changed ({log.path}, line 3)",
    ]


def test_what_cannot_be_told(log: SealedLog, tmp_path: Path) -> None:
    """It ends with 4: without a log, without checkpoints, and with a file that says nothing."""
    missing = run_main("audit", "verify", str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "there is no log" in missing.stderr
    held = tmp_path / "held"
    held.write_text("hello")
    done = run_main("audit", "verify", str(log.path), "--against", str(held))
    assert (done.returncode, f"note: '{held}' says nothing" in done.stdout) == (4, True)
    log.paths.checkpoints.unlink()
    done = run_main("audit", "verify", str(log.path))
    assert (done.returncode, "note: there are no checkpoints" in done.stdout) == (4, True)


def test_no_such_evidence(log: SealedLog, tmp_path: Path) -> None:
    """A file that is not there is misuse, and names the flag."""
    done = run_main("audit", "verify", str(log.path), "--against", str(tmp_path / "none"), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["field"] == "--against"


def test_json(log: SealedLog) -> None:
    """One object has all that was found out; programs find the line and the file in it."""
    done = run_main("audit", "verify", str(log.path), "--json")
    report = json.loads(done.stdout)
    expected = {
        "verdict": "good",
        "lines": 40,
        "checkpoints": 2,
        "covered_lines": 40,
        "log_id": LOG_ID,
        "keys": log.vkeys,
        "findings": [],
        "unlisted": {},
    }
    assert {name: report[name] for name in expected} == expected
    log.path.write_bytes(log.path.read_bytes().replace(b'"user-3"', b'"user-4"', 1))
    done = run_main("audit", "verify", str(log.path), "--json")
    assert json.loads(done.stdout)["findings"] == [
        {
            "kind": "LINE_CHANGED",
            "file": str(log.path),
            "message": "line 3 was changed",
            "index": 3,
            "offset": None,
        }
    ]


def test_an_id_that_stands_twice_is_a_note(tmp_path: Path) -> None:
    """An honest sender can cause it: the log is good, in words and in JSON."""
    log = SealedLog(tmp_path / "audit.json.log")
    log.append([make_line(1), make_line(2).replace(b"event-000002", b"event-000001")])
    log.checkpoint()
    note = "line 1 has the event_id 'event-000001' of line 0, and other content: its sender gave two events one id"
    done = run_main("audit", "verify", str(log.path))
    assert (done.returncode, f"note: {note}" in done.stdout.splitlines()) == (0, True)
    report = json.loads(run_main("audit", "verify", str(log.path), "--json").stdout)
    assert (report["verdict"], report["findings"], report["notes"][0]) == ("good", [], note)


def test_nothing_in_a_log_moves_the_cursor(tmp_path: Path) -> None:
    """What an attacker has put into a line or a checkpoint is shown escaped."""
    log = SealedLog(tmp_path / "audit.json.log")
    line = make_line(0).replace(b"event-000000", b"\\u001b[2J\\u0007")
    log.append([line, line])
    log.checkpoint()
    with log.paths.checkpoints.open("ab") as file:
        file.write("evil\x9b31m\n1\nAAAA\n\n— evil AAAAAAAA\n\n".encode())
    done = run_main("audit", "verify", str(log.path))
    assert done.returncode == 1
    assert r"\u001b[2J\u0007" in done.stdout
    assert all(letter.isprintable() for letter in done.stdout.replace("\n", ""))


def test_what_is_not_listed_is_counted(tmp_path: Path) -> None:
    """After twenty findings of a kind comes how many more there are."""
    log = SealedLog(tmp_path / "audit.json.log")
    log.append([b"{"] * 30)
    log.checkpoint()
    done = run_main("audit", "verify", str(log.path))
    assert "30 findings in 30 lines" in done.stdout
    assert "  NOT_JSON: and 10 more" in done.stdout.splitlines()


SCRIPT = """
import sys
from emitd_cli.audit import verify as audit_verify
from emitd_cli.main import main
audit_verify.MIN_BYTES_FOR_BAR = 0
sys.exit(main())
"""


@pytest.mark.parametrize("json_flag", [False, True])
def test_a_bar_on_a_terminal(log: SealedLog, json_flag: bool) -> None:
    """A large log has one on standard error, but not with --json."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", SCRIPT, "audit", "verify", str(log.path), *["--json"] * json_flag]
    environ = os.environ | {"TERM": "xterm"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environ, timeout=60, check=False
    )
    os.set_blocking(ours, False)
    try:
        shown = os.read(ours, 65_536)
    except BlockingIOError:
        shown = b""
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0
    assert (b"verifying" in shown) is not json_flag


def test_no_bar_for_a_small_log() -> None:
    """It would be gone before it is read."""
    assert audit_verify.MIN_BYTES_FOR_BAR > 10_000_000


def test_needs_no_server(log: SealedLog) -> None:
    """Nothing but the base install and `cryptography` is loaded, and no grpc."""
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['grpc', 'google', 'yaml', 'rich', 'emitd_server']))\n"
        "from emitd_cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", script, "audit", "verify", str(log.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
