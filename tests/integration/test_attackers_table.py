"""The attacker's table: what somebody can do to the files of a log, and who finds it.

| what is done                                             | who finds it                              |
|----------------------------------------------------------|-------------------------------------------|
| one bit flipped, in any file but the private key         | `verify`                                  |
| a line edited, its length kept                           | `verify`, with the line                   |
| a line deleted, inserted, duplicated; two swapped        | `verify`, with the line or lines          |
| a line edited, and the stored hashes made anew           | `verify`, between two checkpoints         |
| the tail cut: lines; lines and hashes                    | `verify`, with the first line that is gone |
| the same, and the file's time set back                   | `verify` cannot tell it from a copy       |
| the tail cut: lines, hashes and checkpoints              | a later checkpoint; a receipt doubts it   |
| the whole log rebuilt, signed with the same key          | an older checkpoint; a receipt doubts it  |
| the whole log rebuilt, signed with another key           | the key, held elsewhere                   |
| a key put on the list without the old one                | the key, held elsewhere                   |
| a key that the stolen old key vouches for                | the newer key, or an older checkpoint     |
| a forged checkpoint                                      | `verify`                                  |
| the file of stored hashes edited                         | `verify`, with the hash                   |
| the lines, or the checkpoints, of another log            | `verify`                                  |
| another log, whole, with its key                         | the key, the log's id; a checkpoint, a receipt doubt it |
| a line that no checkpoint covers yet, with its hash      | its receipt doubts it                     |

In the rows that only another party can find, `verify` alone says that the log is good: that is the truth about it. What
doubts it makes the verdict "cannot tell": it is not signed by a key of the log, and proves nothing.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emitd_handlers.audit.format.files import frame_note
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.key_list import ListedKey, vouch
from emitd_handlers.tlog.merkle import HASH_BYTES, Frontier, leaf_hash, stored_index
from emitd_handlers.tlog.note import Signer
from support.audit.sealed_log import TIME, SealedLog, make_line
from support.processes.run_main import run_main

SIZES = (10, 33, 50)
#: The line that most attacks are about: the second checkpoint is the first that covers it.
LINE = 17


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    """A log of 50 lines, with a checkpoint at each of SIZES."""
    return SealedLog.make(tmp_path / "audit.json.log", *SIZES)


def verify(log: SealedLog, *flags: str) -> tuple[int, dict[str, Any]]:
    done = run_main("audit", "verify", str(log.path), "--json", *flags)
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert {"good": 0, "bad": 1, "cannot_tell": 4}[report["verdict"]] == done.returncode
    return done.returncode, report


def found(log: SealedLog, *flags: str) -> list[tuple[str, int | None, str]]:
    """Kind, line and file of each finding; the log is bad."""
    code, report = verify(log, *flags)
    assert code == 1
    return [(one["kind"], one["index"], Path(one["file"]).name) for one in report["findings"]]


def write_lines(log: SealedLog, lines: Sequence[bytes]) -> None:
    log.path.write_bytes(b"".join(line + b"\n" for line in lines))


def write_hashes(log: SealedLog, lines: Sequence[bytes]) -> None:
    log.paths.hashes.write_bytes(b"".join(Frontier().extend([leaf_hash(line) for line in lines])))


def keep(log: SealedLog, name: str, data: bytes | str) -> str:
    """Keep a file elsewhere; return its path."""
    path = log.path.parent.parent / "elsewhere" / log.path.parent.name / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def receipt(log: SealedLog, index: int) -> str:
    """What `emitd emit --json` printed for a line."""
    audit = {
        "log_id": log.log_id,
        "event_id": json.loads(log.lines[index])["event_id"],
        "leaf_index": str(index),
        "leaf_hash": b64encode(leaf_hash(log.lines[index])).decode(),
    }
    whole = {"record_id": "r", "duplicate": False, "handlers": [], "audit": audit}
    return keep(log, f"receipt-{index}.json", json.dumps(whole))


def doubted(log: SealedLog, *flags: str) -> str:
    """The first note; it cannot be told whether the log is good."""
    code, report = verify(log, *flags)
    assert (code, report["findings"]) == (4, [])
    return str(report["notes"][0])


def edited(line: bytes) -> bytes:
    other = line.replace(b'"user_id":"user-', b'"user_id":"evil-')
    assert len(other) == len(line)
    assert other != line
    return other


def test_an_untouched_log_is_good(log: SealedLog) -> None:
    """Nothing is found in it, also by who holds its key, an older checkpoint and a receipt."""
    assert verify(log)[0] == 0
    held = [keep(log, "checkpoint", log.notes[0]), receipt(log, LINE)]
    code, report = verify(log, "--key", log.vkeys[0], "--against", held[0], "--against", held[1])
    assert (code, report["findings"], report["covered_lines"]) == (0, [], 50)
    assert sum("by '" in note for note in report["notes"]) == 2


@pytest.mark.parametrize("where", ["lines", "hashes", "checkpoints", "vkey", "log_id", "index"])
def test_one_bit_flipped(log: SealedLog, where: str) -> None:
    """It is found in each file but the private key, at every tenth byte and at the last, whichever bit it is."""
    path = getattr(log.paths, where)
    good = path.read_bytes()
    for at in {*range(0, len(good), max(1, len(good) // 40)), len(good) - 1}:
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        files = [file for _, _, file in found(log)]
        assert path.name in files or where == "vkey", (at, files)
    path.write_bytes(good)
    assert verify(log)[0] == 0


def test_a_flipped_bit_is_located(log: SealedLog) -> None:
    """In the lines by the line, in the hashes by the hash's place, in a checkpoint by its place in the file."""
    good = log.path.read_bytes()
    at = good.index(log.lines[LINE]) + 20
    log.path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert found(log)[0] == ("LINE_CHANGED", LINE, log.path.name)
    log.path.write_bytes(good)
    notes = log.paths.checkpoints.read_bytes()
    start = len(frame_note(log.notes[0]))
    at = start + len(log.notes[1]) - 40
    log.paths.checkpoints.write_bytes(notes[:at] + (b"A" if notes[at] != 65 else b"B") + notes[at + 1 :])
    report = verify(log)[1]
    assert [(one["kind"], one["offset"]) for one in report["findings"]] == [("SIGNATURE_WRONG", start)]


def test_a_line_edited_with_the_same_length(log: SealedLog) -> None:
    """It is found and named."""
    lines = [*log.lines]
    lines[LINE] = edited(lines[LINE])
    write_lines(log, lines)
    assert found(log) == [("LINE_CHANGED", LINE, log.path.name)]


def test_a_line_edited_and_all_hashes_made_anew(log: SealedLog) -> None:
    """The checkpoints tell between which lines it is: those that the last good one and the next one cover."""
    lines = [*log.lines]
    lines[LINE] = edited(lines[LINE])
    write_lines(log, lines)
    write_hashes(log, lines)
    code, report = verify(log)
    (finding,) = report["findings"]
    assert (code, finding["kind"], finding["index"]) == (1, "CHECKPOINT_MISMATCH", 10)
    assert finding["message"].startswith("lines 10 to 32: not as they were signed.")


def test_a_line_edited_with_its_own_hash(log: SealedLog) -> None:
    """The hashes above it were signed: they tell it within two lines."""
    lines = [*log.lines]
    lines[LINE] = edited(lines[LINE])
    write_lines(log, lines)
    _write_hash(log, stored_index(0, LINE), leaf_hash(lines[LINE]))
    assert found(log) == [("LINE_CHANGED", LINE - 1, log.path.name)]
    assert "one of lines 16 to 17 was changed" in verify(log)[1]["findings"][0]["message"]


@pytest.mark.parametrize("index", [0, LINE, 48])
def test_a_line_deleted(log: SealedLog, index: int) -> None:
    """It is found, and named by the number that it had."""
    write_lines(log, log.lines[:index] + log.lines[index + 1 :])
    assert found(log) == [("LINE_DELETED", index, log.path.name)]


@pytest.mark.parametrize("index", [0, LINE, 49])
def test_a_line_inserted(log: SealedLog, index: int) -> None:
    """It is found, and named by the number that it has now."""
    new = make_line(900, time=TIME + index * 1_000_000)
    write_lines(log, [*log.lines[:index], new, *log.lines[index:]])
    assert found(log) == [("LINE_INSERTED", index, log.path.name)]


@pytest.mark.parametrize("index", [LINE + 1, 30])
def test_a_line_duplicated(log: SealedLog, index: int) -> None:
    """Both places are named; that its id stands there twice is only noted."""
    write_lines(log, [*log.lines[:index], log.lines[LINE], *log.lines[index:]])
    all_found = found(log)
    assert all_found[0] == ("LINE_DUPLICATED", index, log.path.name)
    twice = "line {} has the event_id 'event-000017' of line 17, and equal content"
    assert any(note.startswith(twice.format(index)) for note in verify(log)[1]["notes"])
    assert f"line {LINE} stands once more, as line {index}" in verify(log)[1]["findings"][0]["message"]


@pytest.mark.parametrize("other", [LINE + 1, LINE + 6, 49])
def test_two_lines_swapped(log: SealedLog, other: int) -> None:
    """Both are named, whether they stood side by side or not; and that time went back."""
    lines = [*log.lines]
    lines[LINE], lines[other] = lines[other], lines[LINE]
    write_lines(log, lines)
    all_found = found(log)
    assert all_found[0] == ("LINES_SWAPPED", LINE, log.path.name)
    assert f"lines {LINE} and {other} were swapped" in verify(log)[1]["findings"][0]["message"]
    assert "TIME_WENT_BACK" in {kind for kind, _, _ in all_found}


@pytest.mark.parametrize("with_hashes", [False, True])
def test_the_tail_cut(log: SealedLog, with_hashes: bool) -> None:
    """The first line that is gone is named, whether or not the hashes were cut to match."""
    write_lines(log, log.lines[:40])
    if with_hashes:
        write_hashes(log, log.lines[:40])
    assert found(log)[0] == ("LOG_CUT", 40, log.path.name)


def _set_back(path: Path) -> None:
    """Make a file older than those that the service writes after it."""
    os.utime(path, (1_000_000_000, 1_000_000_000))


def test_the_tail_cut_as_a_copy_would_be(log: SealedLog) -> None:
    """With the file's time set back, nothing tells it from a copy; a start refuses it, and a checkpoint proves it."""
    held = keep(log, "checkpoint", log.notes[2])
    write_lines(log, log.lines[:40])
    _set_back(log.path)
    assert doubted(log).startswith(
        "the last 10 lines that the checkpoints sign are missing: this is a copy that took"
    )
    assert found(log, "--against", held) == [("LOG_CUT", 40, log.path.name)]


def test_the_tail_cut_while_the_service_has_the_log(log: SealedLog) -> None:
    """A log that is in use is no copy, whatever the time of its file is."""
    write_lines(log, log.lines[:40])
    _set_back(log.path)
    with log.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert found(log) == [("LOG_CUT", 40, log.path.name)]


def test_the_tail_cut_within_a_line(log: SealedLog) -> None:
    """What is left of the line does not count: it is gone."""
    log.path.write_bytes(log.path.read_bytes()[:-1])
    assert found(log) == [("LOG_CUT", 49, log.path.name)]


def test_the_tail_cut_with_all_that_proves_it(log: SealedLog) -> None:
    """`verify` alone cannot find that; a later checkpoint proves it, and a receipt of what is gone doubts it."""
    held, kept = keep(log, "checkpoint", log.notes[2]), receipt(log, 45)
    write_lines(log, log.lines[:33])
    write_hashes(log, log.lines[:33])
    log.paths.checkpoints.write_bytes(b"".join(map(frame_note, log.notes[:2])))
    log.paths.index.write_bytes(log.paths.index.read_bytes()[:32])
    assert verify(log)[0] == 0
    assert verify(log, "--against", receipt(log, LINE))[0] == 0
    assert found(log, "--against", held) == [("LOG_CUT", 33, log.path.name)]
    assert "it is for line 45, and the log has 33 lines. A receipt is not signed" in doubted(
        log, "--against", kept
    )
    message = verify(log, "--against", held)[1]["findings"][0]["message"]
    assert "the checkpoint was signed over 50 lines, the log has 33" in message


def test_only_the_checkpoints_cut(log: SealedLog) -> None:
    """The lines that are no longer covered are named: they are there, and nothing says that they are as they were."""
    log.paths.checkpoints.write_bytes(b"".join(map(frame_note, log.notes[:2])))
    code, report = verify(log)
    assert (code, report["covered_lines"]) == (0, 33)
    assert any("no checkpoint covers lines 33 to 49" in note for note in report["notes"])


def rebuild(log: SealedLog, *, with_same_key: bool) -> SealedLog:
    """Build the log anew with one line changed; the attacker has the key, or makes one."""
    signers = log.signers
    for path in log.path.parent.glob(f"{log.path.name}*"):
        path.unlink()
    new = SealedLog(log.path)
    if with_same_key:
        new.signers = signers
        new.paths.vkey.write_text("".join(f"{vkey}\n" for vkey in new.vkeys))
    lines = [*log.lines]
    lines[LINE] = edited(lines[LINE])
    for first, end in zip((0, *SIZES), SIZES, strict=False):
        new.append(lines[first:end])
        new.checkpoint()
    return new


def test_the_log_rebuilt_with_the_same_key(log: SealedLog) -> None:
    """`verify` alone cannot find that; a checkpoint over the changed line proves it, and its receipt doubts it."""
    old, later = keep(log, "old", log.notes[0]), keep(log, "later", log.notes[1])
    kept = receipt(log, LINE)
    vkey = log.vkeys[0]
    new = rebuild(log, with_same_key=True)
    assert verify(new)[0] == 0
    assert verify(new, "--key", vkey)[0] == 0
    assert verify(new, "--against", old)[0] == 0  # its ten lines are as they were
    assert found(new, "--against", later) == [("LOG_REBUILT", None, log.path.name)]
    assert f"line {LINE} is not the one that it was given for" in doubted(new, "--against", kept)
    assert "LOG_REBUILT" in {kind for kind, _, _ in found(new, "--against", kept, "--against", later)}
    message = verify(new, "--against", later)[1]["findings"][0]["message"]
    assert "the first 33 lines are not those that were signed" in message


def test_the_log_rebuilt_with_another_key(log: SealedLog) -> None:
    """Who has nothing but the folder cannot find that; who holds the key can, with each checkpoint."""
    vkey, held = log.vkeys[0], keep(log, "later", log.notes[1])
    new = rebuild(log, with_same_key=False)
    code, report = verify(new)
    assert (code, any("which proves less" in note for note in report["notes"])) == (0, True)
    assert [kind for kind, _, _ in found(new, "--key", vkey)] == ["KEY_UNKNOWN"] * 3
    assert verify(new, "--against", held)[0] == 4
    assert "LOG_REBUILT" in {kind for kind, _, _ in found(new, "--key", vkey, "--against", held)}


def test_a_new_key_without_the_old_one(log: SealedLog) -> None:
    """An attacker puts his key on the list, with a statement that the old key did not sign, or with none."""
    vkey = log.vkeys[0]
    thief, new = (Signer(log.log_id, Ed25519PrivateKey.generate()) for _ in range(2))
    for added in (ListedKey(new.verifier), vouch(thief, new), vouch(new, new)):
        log.paths.vkey.write_text(f"{vkey}\n{added.line}\n")
        forge(log, Checkpoint(log.log_id, len(log.lines), log.root()), new)
        assert "KEY_UNKNOWN" in {kind for kind, _, _ in found(log, "--key", vkey)}


def test_a_new_key_that_the_stolen_old_one_vouches_for(log: SealedLog) -> None:
    """Who has only the stolen key follows the thief; who has the newer one, or an old checkpoint, does not."""
    old = log.signers[0]
    log.rotate_key()
    newer = log.vkeys[1]
    held = keep(log, "held", log.checkpoint())
    new = rebuild(log, with_same_key=True)
    thief = Signer(log.log_id, Ed25519PrivateKey.generate())
    keys = [ListedKey(old.verifier), vouch(old, log.signers[1]), vouch(old, thief)]
    new.paths.vkey.write_text("".join(f"{key.line}\n" for key in keys))
    new.paths.checkpoints.write_bytes(b"")
    forge(new, Checkpoint(new.log_id, len(new.lines), new.root()), thief)
    assert verify(new, "--key", old.verifier.vkey)[0] == 0
    assert "KEY_UNKNOWN" in {kind for kind, _, _ in found(new, "--key", newer)}
    assert "LOG_REBUILT" in {kind for kind, _, _ in found(new, "--key", old.verifier.vkey, "--against", held)}


def forge(log: SealedLog, checkpoint: Checkpoint, signer: Signer) -> None:
    with log.paths.checkpoints.open("ab") as file:
        file.write(frame_note(signer.sign(checkpoint.text())))


def test_a_forged_checkpoint_of_another_key(log: SealedLog) -> None:
    """A key that is not on the list signs nothing, though it bears the log's name."""
    start = log.paths.checkpoints.stat().st_size
    forge(log, Checkpoint(log.log_id, 60, b"x" * 32), Signer(log.log_id, Ed25519PrivateKey.generate()))
    code, report = verify(log)
    (finding,) = report["findings"]
    assert (code, finding["kind"], finding["offset"]) == (1, "KEY_UNKNOWN", start)
    assert report["covered_lines"] == 50


def test_a_forged_checkpoint_under_the_known_key(log: SealedLog) -> None:
    """A signature that is not the key's is found."""
    start = log.paths.checkpoints.stat().st_size
    note = log.notes[2].replace(b"\n50\n", b"\n60\n")
    with log.paths.checkpoints.open("ab") as file:
        file.write(frame_note(note))
    finding = verify(log)[1]["findings"][0]
    assert (finding["kind"], finding["offset"]) == ("SIGNATURE_WRONG", start)


def test_a_forged_checkpoint_of_the_stolen_key(log: SealedLog) -> None:
    """A good signature over other lines is found by the lines; one over fewer than before by its place."""
    forge(log, Checkpoint(log.log_id, 50, b"x" * 32), log.signers[0])
    assert [kind for kind, _, _ in found(log)] == ["CHECKPOINT_MISMATCH"]
    root = Frontier()
    root.extend([leaf_hash(line) for line in log.lines[:5]])
    log.paths.checkpoints.write_bytes(b"".join(map(frame_note, log.notes)))
    forge(log, Checkpoint(log.log_id, 5, root.root()), log.signers[0])
    assert [kind for kind, _, _ in found(log)] == ["CHECKPOINT_ORDER"]


def _write_hash(log: SealedLog, number: int, data: bytes) -> None:
    hashes = bytearray(log.paths.hashes.read_bytes())
    hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES] = data
    log.paths.hashes.write_bytes(hashes)


@pytest.mark.parametrize(("level", "node"), [(0, LINE), (1, 8), (4, 0), (5, 0)])
def test_an_edited_hash_file(log: SealedLog, level: int, node: int) -> None:
    """The hash is named by its place, whether it is a line's or one above; and that the lines are as they were."""
    number = stored_index(level, node)
    _write_hash(log, number, b"x" * HASH_BYTES)
    code, report = verify(log)
    (finding,) = report["findings"]
    assert (code, finding["kind"], finding["offset"]) == (1, "HASHES_CHANGED", number * HASH_BYTES)
    assert finding["index"] == (LINE if level == 0 else None)
    assert "the lines are as they were signed" in finding["message"]


@pytest.mark.parametrize("change", [-5 * HASH_BYTES, -5])
def test_a_hash_file_that_was_cut(log: SealedLog, change: int) -> None:
    """It is found whether hashes, or part of one, are missing."""
    log.paths.hashes.write_bytes(log.paths.hashes.read_bytes()[:change])
    assert found(log) == [("HASHES_CUT", None, log.paths.hashes.name)]


def test_a_hash_file_that_is_too_long(log: SealedLog) -> None:
    """Bytes that no line gives are found; a whole hash may be that of a line, of which a copy came too early."""
    hashes = log.paths.hashes.read_bytes()
    log.paths.hashes.write_bytes(hashes + b"x" * 5)
    assert found(log) == [("HASHES_CHANGED", None, log.paths.hashes.name)]
    log.paths.hashes.write_bytes(hashes + b"x" * HASH_BYTES)
    _set_back(log.path)
    assert doubted(log).startswith(
        "the last line is missing: this is a copy that took 'audit.json.log' before"
    )


@pytest.fixture
def other(tmp_path: Path) -> SealedLog:
    """Another log."""
    log = SealedLog(tmp_path / "other" / "audit.json.log", log_id="emitd.test/other")
    log.append([make_line(number, user="somebody") for number in range(50)])
    log.checkpoint()
    return log


def test_the_lines_of_another_log(log: SealedLog, other: SealedLog) -> None:
    """The first line that is another is named."""
    shutil.copy(other.path, log.path)
    kind, index, file = found(log)[0]
    assert (kind, index, file) == ("LINE_CHANGED", 0, log.path.name)


def test_the_checkpoints_of_another_log(log: SealedLog, other: SealedLog) -> None:
    """They are those of another id than the log has."""
    shutil.copy(other.paths.checkpoints, log.paths.checkpoints)
    assert found(log)[0] == ("LOG_ID_WRONG", None, log.paths.log_id.name)


def test_another_log_in_its_place(log: SealedLog, other: SealedLog) -> None:
    """All of it replaced, `verify` alone finds nothing; the key does. Files of the log that was there doubt it."""
    held, kept = keep(log, "checkpoint", log.notes[0]), receipt(log, LINE)
    for path in other.path.parent.iterdir():
        shutil.copy(path, log.path.parent)
    assert verify(log)[0] == 0
    assert {kind for kind, _, _ in found(log, "--key", log.vkeys[0])} == {"LOG_ID_WRONG"}
    for file in (held, kept):
        assert "it is of the log 'emitd.test/log', and this is 'emitd.test/other'" in doubted(
            log, "--against", file
        )


def test_another_log_in_the_place_of_a_configured_one(log: SealedLog, other: SealedLog) -> None:
    """Where the configuration names the log's id, `verify` finds that it is another."""
    config = log.path.parent / "logging_config.yml"
    audit = f"{{type: json_audit, levels: [AUDIT], path: {log.path.name}, log_id: {log.log_id}}}"
    config.write_text(f"handlers:\n  audit: {audit}\n")
    assert run_main("audit", "verify", "--config", str(config)).returncode == 0
    for path in other.path.parent.iterdir():
        shutil.copy(path, log.path.parent)
    done = run_main("audit", "verify", "--config", str(config))
    assert done.returncode == 1
    assert "another log was put in its place" in done.stdout


def test_the_window_behind_the_last_checkpoint(log: SealedLog) -> None:
    """A line that no checkpoint covers yet can be changed with its hash; only its receipt doubts it."""
    log.append([make_line(number) for number in range(50, 53)])
    kept = receipt(log, 51)
    lines = [*log.lines]
    lines[51] = edited(lines[51])
    write_lines(log, lines)
    assert found(log) == [("HASH_MISMATCH", 51, log.path.name)]
    write_hashes(log, lines)
    code, report = verify(log)
    assert code == 0
    assert any("no checkpoint covers lines 50 to 52" in note for note in report["notes"])
    assert "line 51 is not the one that it was given for" in doubted(log, "--against", kept)


def test_as_a_process(log: SealedLog) -> None:
    """The command as it is installed says the same, in words."""
    lines = [*log.lines]
    lines[LINE] = edited(lines[LINE])
    write_lines(log, lines)
    command = [sys.executable, "-m", "emitd_cli", "audit", "verify", str(log.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[1].startswith(f"  LINE_CHANGED: line {LINE} was changed (")
