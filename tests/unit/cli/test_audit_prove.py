"""`emitd audit prove`: the file it writes, what it prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emitd_handlers.tlog.merkle import leaf_hash
from emitd_handlers.tlog.proof_file import TlogProof
from support.audit.sealed_log import LOG_ID, SealedLog, make_line
from support.processes.run_main import Done, run_main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "audit.json.log", 30)


def prove(log: SealedLog, event_id: str, *flags: str) -> Done:
    return run_main("audit", "prove", event_id, "--log", str(log.path), *flags)


def test_it_writes_a_proof_into_this_folder(log: SealedLog, here: Path) -> None:
    """Named by the event, and says how it is checked."""
    done = prove(log, "event-000012")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"wrote event-000012.tlog-proof: event event-000012 is line 12 of the log {LOG_ID}, in its tree of 30",
        "anyone who has the log's public key can check it: emitd audit check event-000012.tlog-proof --key VKEY",
    ]
    (file,) = here.iterdir()
    assert TlogProof.parse(file.read_bytes()).extra == log.lines[12]


def test_the_file_can_be_named_and_is_replaced(log: SealedLog, here: Path) -> None:
    """A newer proof of the same event takes the place of an older one."""
    file = here / "proof"
    prove(log, "event-000012", "--output", str(file))
    older = file.read_bytes()
    log.append([make_line(30)])
    log.checkpoint()
    assert prove(log, "event-000012", "--output", str(file)).returncode == 0
    assert file.read_bytes() != older
    assert list(here.iterdir()) == [file]


def test_as_json(log: SealedLog) -> None:
    """What was proved, and where it was written."""
    done = prove(log, "event-000012", "--json")
    assert json.loads(done.stdout) == {
        "file": "event-000012.tlog-proof",
        "log_id": LOG_ID,
        "event_id": "event-000012",
        "leaf_index": 12,
        "leaf_hash": leaf_hash(log.lines[12]).hex(),
        "tree_size": 30,
        "signed_by": log.vkeys,
    }


def test_an_id_with_slashes_stays_in_this_folder(log: SealedLog, here: Path) -> None:
    """What moves a terminal's cursor is escaped."""
    event_id = "../../\x1b[2Jetc"
    line = make_line(30).replace(b"event-000030", b"../../\\u001b[2Jetc")
    log.append([line])
    log.checkpoint()
    done = prove(log, event_id)
    assert done.returncode == 0
    assert "event ../../\\u001b[2Jetc is line 30" in done.stdout
    (file,) = here.iterdir()
    assert file.name.startswith("_._..___2Jetc-")


def test_an_event_that_is_not_there_ends_with_4(log: SealedLog, here: Path) -> None:
    """Nothing is written."""
    done = prove(log, "nobody", "--json")
    assert (done.returncode, done.stdout) == (4, "")
    assert json.loads(done.stderr)["error"]["code"] == "NOT_FOUND"
    assert list(here.iterdir()) == []


def test_an_event_that_is_not_covered_yet_ends_with_4(log: SealedLog, here: Path) -> None:
    """It says to try again."""
    log.append([make_line(30)])
    done = prove(log, "event-000030")
    assert (done.returncode, done.stdout, list(here.iterdir())) == (4, "", [])
    assert "try again in a second" in done.stderr


def test_an_event_that_was_changed_ends_with_1(log: SealedLog, here: Path) -> None:
    """Nothing is written: there is nothing to prove."""
    log.path.write_bytes(log.path.read_bytes().replace(b'{"n":12}', b'{"n":13}'))
    done = prove(log, "event-000012")
    assert (done.returncode, done.stdout, list(here.iterdir())) == (1, "", [])
    assert "line 12 is not what was signed; `emitd audit verify` says more" in done.stderr


def test_a_place_that_cannot_be_written_to_ends_with_4(log: SealedLog) -> None:
    """It is named."""
    done = prove(log, "event-000012", "--output", "missing/proof")
    assert done.returncode == 4
    assert "No such file or directory: 'missing/" in done.stderr


def test_an_id_of_several_sources(log: SealedLog, here: Path) -> None:
    """Without `--source` it is misuse that names them; with it, that source's event is proved."""
    log.append([make_line(12, source="b")])
    log.checkpoint()
    told = "--source: several sources have an event with this id, 'b', 'test': name one"
    assert prove(log, "event-000012") == (2, "", f"emitd: {told}\n")
    assert list(here.iterdir()) == []
    for source, index in (("b", 30), ("test", 12)):
        done = prove(log, "event-000012", "--source", source, "--json")
        assert json.loads(done.stdout)["leaf_index"] == index
    done = prove(log, "event-000012", "--source", "c")
    assert done.returncode == 4
    assert "no event 'event-000012' of the source 'c'" in done.stderr


def test_an_empty_id_is_misuse(log: SealedLog) -> None:
    """It would fit any event."""
    assert prove(log, "").returncode == 2


#: What the extras `server` and `cli` bring, but for cryptography.
NOT_INSTALLED = ("aiosqlite", "grpc_health", "grpc_reflection", "rich", "yaml")


def test_nothing_of_the_server_is_needed(log: SealedLog, here: Path) -> None:
    """Proofs are made and checked, and logs exported, where only cryptography came to the base install."""
    file, path = str(here / "p.tlog-proof"), str(log.path)
    commands = [
        ["prove", "event-000012", "--log", path, "--output", file],
        ["check", file, "--key", log.vkeys[0]],
        ["export", str(here / "www"), "--log", path],
        ["key", path],
    ]
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({NOT_INSTALLED}))\n"
        "from emitd_cli.main import main\n"
        f"print([main(['audit', *command]) for command in {commands}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.splitlines()[-1:]) == ("", ["[0, 0, 0, 0]"])
