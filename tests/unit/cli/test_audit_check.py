"""`emitd audit check`: what it says of a good proof, and of any other."""

import json
from pathlib import Path

import pytest

from emitd_handlers.audit.publish.prove import prove_event
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_handlers.tlog.proof_file import TlogProof
from support.audit.sealed_log import LOG_ID, SealedLog, make_line
from support.processes.run_main import Done, run_main

LESS = (
    "the key is the one next to the log on this machine, which proves less than one that was kept elsewhere"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where there is no configuration."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "trail" / "audit.json.log", 30)


@pytest.fixture
def proof(log: SealedLog, here: Path) -> Path:
    """A proof of line 12."""
    file = here / "p.tlog-proof"
    file.write_bytes(prove_event(log.path, "event-000012").proof.encode())
    return file


def check(proof: Path, *flags: str) -> Done:
    return run_main("audit", "check", str(proof), *flags)


def test_a_good_proof_is_told_in_words(log: SealedLog, proof: Path) -> None:
    """Which log, which line of it, by which key, and the whole event; the log itself is not needed."""
    for file in log.path.parent.iterdir():
        file.unlink()
    done = check(proof, "--key", log.vkeys[0])
    assert (done.returncode, done.stderr) == (0, "")
    verifier = log.signers[0].verifier
    assert done.stdout.splitlines() == [
        f"{proof}: good",
        "The log has this event as line 12, counted from 0. Its key has signed the log as it stood with 30 lines.",
        f"log          {LOG_ID}",
        "index        12",
        "tree size    30",
        f"leaf hash    {leaf_hash(log.lines[12]).hex()}",
        f"signed by    {LOG_ID}+{verifier.key_id.hex()}",
        "event        user.login.success",
        "event id     event-000012",
        "user         user-5",
        "source ip    192.0.2.12",
        'details      {"n":12}',
        "happened     2026-11-23T03:39:00.012000000Z",
        "received     2026-11-23T03:39:00.012000000Z",
        "source       test",
        "record id    record-000012",
    ]


def test_as_json(log: SealedLog, proof: Path) -> None:
    """The line as it is in the log, and what is proved of it."""
    done = check(proof, "--key", log.vkeys[0], "--json")
    assert json.loads(done.stdout) == {
        "log_id": LOG_ID,
        "leaf_index": 12,
        "leaf_hash": leaf_hash(log.lines[12]).hex(),
        "tree_size": 30,
        "root": log.root().hex(),
        "signed_by": log.vkeys,
        "line": log.lines[12].decode(),
    }


def test_the_key_of_the_configurations_log_proves_less(log: SealedLog, proof: Path, here: Path) -> None:
    """It is taken where the proof is of that log, and the words say so."""
    (here / "logging_config.yml").write_text(
        "handlers: {audit: {type: json_audit, path: ../trail/audit.json.log}}"
    )
    done = check(proof)
    assert done.returncode == 0
    assert LESS in done.stderr
    assert check(proof, "--config", "logging_config.yml").returncode == 0


def test_without_a_key_nothing_can_be_told(log: SealedLog, proof: Path, here: Path) -> None:
    """Where the configuration names no log, or another one: it says which key to give."""
    done = check(proof)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"give the public key of the log '{LOG_ID}' by --key" in done.stderr
    other = SealedLog(here / "audit.json.log", log_id="emitd.test/other")
    other.append([make_line(0)])
    (here / "logging_config.yml").write_text(f"handlers: {{audit: {{type: json_audit, path: {other.path}}}}}")
    done = check(proof)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"give the public key of the log '{LOG_ID}' by --key: '{other.path}' is another log" in done.stderr


def test_with_another_key_nothing_can_be_told(log: SealedLog, proof: Path, tmp_path: Path) -> None:
    """It says by which key the proof is signed."""
    done = check(proof, "--key", SealedLog(tmp_path / "other.log").vkeys[0], "--json")
    assert (done.returncode, done.stdout) == (4, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "UNKNOWN_KEY"
    assert f"signed by {LOG_ID}+{log.signers[0].verifier.key_id.hex()}" in error["message"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"index 12", b"index 13", "entry 13 of the tree that was signed is another one"),
        (b"\n30\n", b"\n31\n", "the signature of emitd.test/log+"),
        (b"extra ", b"extra x", "the line 'extra' is not in base64"),
        ("\n— ".encode(), b"\n- ", "malformed signature line"),
    ],
)
def test_a_proof_that_was_changed_ends_with_1(
    log: SealedLog, proof: Path, old: bytes, new: bytes, words: str
) -> None:
    """With the reason."""
    proof.write_bytes(proof.read_bytes().replace(old, new, 1))
    done = check(proof, "--key", log.vkeys[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert f"'{proof}' proves nothing: " in done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    "data", [b"", b"<html>\n", b"{}", b"c2sp.org/tlog-proof@v9\nindex 1\n\n", b"\xff\xfe"]
)
def test_what_is_no_proof_ends_with_4(log: SealedLog, proof: Path, data: bytes) -> None:
    """It is neither good nor bad."""
    for content in (data, log.notes[0]):
        proof.write_bytes(content)
        done = check(proof, "--key", log.vkeys[0], "--json")
        assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (4, "NO_PROOF")


def test_a_damaged_list_of_keys_is_not_the_proofs_fault(log: SealedLog, proof: Path, here: Path) -> None:
    """Without a key it cannot be told whether the proof is good."""
    (here / "logging_config.yml").write_text(f"handlers: {{audit: {{type: json_audit, path: {log.path}}}}}")
    log.paths.vkey.write_text("nonsense\n")
    done = check(proof)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"'{log.paths.vkey}' is damaged" in done.stderr


def test_a_line_that_was_changed_ends_with_1(log: SealedLog, proof: Path) -> None:
    """The event in the file is not the one that is in the log."""
    good = TlogProof.parse(proof.read_bytes())
    forged = TlogProof(good.index, good.hashes, good.note, good.extra.replace(b"user-5", b"user-6"))
    proof.write_bytes(forged.encode())
    done = check(proof, "--key", log.vkeys[0], "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (1, "BAD_PROOF")


def test_a_line_cannot_move_the_cursor(tmp_path: Path, here: Path) -> None:
    """What is no audit event is shown as it stands, escaped; what is one has its texts escaped."""
    log = SealedLog(tmp_path / "odd.log")
    log.append([b"\x1b[2J\xff", make_line(1).replace(b"user-1", b"\\u001b[2J\\n")])
    log.checkpoint()
    (here / "odd").write_bytes(prove_of(log, 0))
    done = check(here / "odd", "--key", log.vkeys[0])
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == r"line         \u001b[2J\xff"
    (here / "event").write_bytes(prove_of(log, 1))
    done = check(here / "event", "--key", log.vkeys[0])
    assert r"user         \u001b[2J\n" in done.stdout.splitlines()


def prove_of(log: SealedLog, index: int) -> bytes:
    """The proof of one of two lines."""
    return TlogProof(index, [leaf_hash(log.lines[1 - index])], log.notes[-1], log.lines[index]).encode()


def test_a_file_that_is_not_there_ends_with_4(here: Path) -> None:
    """It is named."""
    done = check(here / "missing")
    assert (done.returncode, done.stderr) == (4, f"emitd: No such file or directory: '{here / 'missing'}'\n")


def test_a_file_without_end_is_not_read_to_it() -> None:
    """Its beginning is no proof."""
    done = check(Path("/dev/zero"), "--key", "unused")
    assert (done.returncode, done.stderr) == (
        4,
        "emitd: '/dev/zero' is no proof: no line of it is 'c2sp.org/tlog-proof@v1'\n",
    )
