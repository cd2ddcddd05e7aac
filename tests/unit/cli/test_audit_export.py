"""`emitd audit export`: what it prints, and how it ends."""

import json
from pathlib import Path

from support.audit.sealed_log import LOG_ID, SealedLog, make_line
from support.processes.run_main import run_main


def test_it_says_what_it_wrote_and_by_which_key_to_check_it(tmp_path: Path) -> None:
    """And how many lines are new, the second time."""
    log, folder = SealedLog.make(tmp_path / "audit.json.log", 300), tmp_path / "www"
    done = run_main("audit", "export", str(folder), "--log", str(log.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{folder}: 300 lines of the log {LOG_ID}, 300 of them new; wrote 3 tiles and 2 bundles of lines. "
        "Readers check it by this key:",
        log.vkeys[0],
    ]
    log.append([make_line(300)])
    log.checkpoint()
    done = run_main("audit", "export", str(folder), "--log", str(log.path))
    assert "301 lines of the log emitd.test/log, 1 of them new; wrote 1 tiles and 1 bundles" in done.stdout


def test_as_json(tmp_path: Path) -> None:
    """One object, also for programs that keep the root."""
    log = SealedLog.make(tmp_path / "audit.json.log", 300)
    done = run_main("audit", "export", str(tmp_path / "www"), "--log", str(log.path), "--json")
    assert json.loads(done.stdout) == {
        "log_id": LOG_ID,
        "tree_size": 300,
        "old_tree_size": 0,
        "root": log.root().hex(),
        "tiles_written": 3,
        "bundles_written": 2,
        "signed_by": log.vkeys,
    }


def test_the_folder_of_another_log_ends_with_4(tmp_path: Path) -> None:
    """With the reason and the command that decides, and in JSON with a word for it: an export accuses nobody."""
    folder = str(tmp_path / "www")
    log = SealedLog.make(tmp_path / "audit.json.log", 3)
    run_main("audit", "export", folder, "--log", str(log.path))
    rebuilt = SealedLog(tmp_path / "rebuilt.log")
    rebuilt.append([make_line(number, user="eve") for number in range(3)])
    rebuilt.checkpoint()
    done = run_main("audit", "export", folder, "--log", str(rebuilt.path))
    assert (done.returncode, done.stdout) == (4, "")
    assert "are not those that the folder" in done.stderr
    assert f"`emitd audit verify --against {folder}/checkpoint` decides" in done.stderr
    done = run_main("audit", "export", folder, "--log", str(rebuilt.path), "--json")
    assert json.loads(done.stderr)["error"]["code"] == "FOLDER_MISMATCH"


def test_a_damaged_log_ends_with_1(tmp_path: Path) -> None:
    """And says to verify it."""
    log = SealedLog.make(tmp_path / "audit.json.log", 3)
    log.paths.hashes.write_bytes(bytes(log.paths.hashes.stat().st_size))
    done = run_main("audit", "export", str(tmp_path / "www"), "--log", str(log.path), "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (1, "DAMAGED")
    assert "emitd audit verify" in done.stderr


def test_what_cannot_be_told_ends_with_4(tmp_path: Path) -> None:
    """No log, no checkpoint yet, a place that cannot be written to."""
    (tmp_path / "file").touch()
    log = SealedLog(tmp_path / "audit.json.log")
    for path, folder, words in (
        (tmp_path / "missing", "www", "there is no log"),
        (log.path, "www", "is not signed yet"),
    ):
        done = run_main("audit", "export", str(tmp_path / folder), "--log", str(path))
        assert (done.returncode, done.stdout) == (4, "")
        assert words in done.stderr
    log.append([make_line(0)])
    log.checkpoint()
    done = run_main("audit", "export", str(tmp_path / "file"), "--log", str(log.path))
    assert (done.returncode, done.stderr) == (4, f"emitd: File exists: '{tmp_path / 'file'}'\n")
