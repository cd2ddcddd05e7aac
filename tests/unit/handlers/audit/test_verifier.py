"""`verify_log`: how much it can tell, and what it takes for an accident or for a service at work."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emitd_handlers.audit.format.files import Entry, pack_entry
from emitd_handlers.audit.verify.evidence import HeldElsewhere
from emitd_handlers.audit.verify.findings import Kind, Verdict, VerifyReport
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.tlog.key_list import vouch
from emitd_handlers.tlog.merkle import HASH_BYTES, stored_count
from emitd_handlers.tlog.note import Signer, Verifier
from support.audit.sealed_log import LOG_ID, TIME, SealedLog, make_line


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "audit.json.log", 10, 40)


def kinds(report: VerifyReport) -> list[str]:
    return [finding.kind.value for finding in report.findings]


def has_note(report: VerifyReport, part: str) -> bool:
    return any(part in note for note in report.notes)


def test_a_good_log(log: SealedLog) -> None:
    """The report says how much was read, how much is covered, whose log it is, and by which keys."""
    report = verify_log(log.path)
    assert (report.verdict, report.lines, report.checkpoints, report.covered_lines) == (
        Verdict.GOOD,
        40,
        2,
        40,
    )
    assert (report.log_id, report.keys, report.findings, report.unlisted) == (LOG_ID, log.vkeys, [], {})
    assert report.signed_by == ["+".join(log.vkeys[0].split("+")[:2])]


def test_a_key_held_elsewhere_proves_more(log: SealedLog) -> None:
    """With the key that lies beside the log the report says that this proves less; with another it does not."""
    assert has_note(verify_log(log.path), "proves less")
    assert not verify_log(log.path, keys=[Verifier.from_vkey(log.vkeys[0])]).notes


def test_a_copied_folder(log: SealedLog, tmp_path: Path) -> None:
    """Lines, hashes, checkpoints and the key are enough; so are lines and checkpoints, as the report says."""
    copy = tmp_path / "copy" / "audit.json.log"
    copy.parent.mkdir()
    for path in (log.paths.lines, log.paths.checkpoints):
        shutil.copy(path, copy.parent)
    report = verify_log(copy, keys=[Verifier.from_vkey(log.vkeys[0])])
    assert (report.verdict, report.log_id) == (Verdict.GOOD, LOG_ID)
    assert has_note(report, "no file of stored hashes")


def test_without_a_key(log: SealedLog) -> None:
    """It cannot be told whether a log is good; that its lines do not fit the checkpoints can."""
    log.paths.vkey.unlink()
    report = verify_log(log.path)
    assert (report.verdict, has_note(report, "no public key")) == (Verdict.CANNOT_TELL, True)
    log.path.write_bytes(log.path.read_bytes().replace(b'"user-1"', b'"user-2"', 1))
    assert kinds(verify_log(log.path)) == [Kind.LINE_CHANGED]


def test_without_checkpoints(log: SealedLog) -> None:
    """It cannot be told; that a line and its hash do not fit is found all the same."""
    log.paths.checkpoints.unlink()
    report = verify_log(log.path)
    assert (report.verdict, has_note(report, "no checkpoints")) == (Verdict.CANNOT_TELL, True)
    log.path.write_bytes(log.path.read_bytes().replace(b'"user-1"', b'"user-2"', 1))
    assert kinds(verify_log(log.path)) == [Kind.HASH_MISMATCH]


def test_an_empty_log(tmp_path: Path) -> None:
    """There is nothing in it that could be told of; there is no log, and OSError says so."""
    log = SealedLog(tmp_path / "audit.json.log")
    assert verify_log(log.path).verdict is Verdict.CANNOT_TELL
    with pytest.raises(FileNotFoundError):
        verify_log(tmp_path / "other.log")


def grow(log: SealedLog, *, signed_by: int = -1) -> None:
    """Add a line, and a checkpoint signed by one of the log's keys, by default the newest."""
    log.append([make_line(len(log.lines))])
    newest, log.signers = log.signers, [*log.signers, log.signers[signed_by]]
    log.checkpoint()
    log.signers = newest


def verify_by(log: SealedLog, *places: int, held: bytes = b"") -> VerifyReport:
    """Verify by some of the log's keys alone."""
    against = [HeldElsewhere("held", held)] if held else []
    return verify_log(log.path, keys=[log.signers[place].verifier for place in places], against=against)


@pytest.mark.parametrize("held", range(3))
def test_one_key_is_enough_after_changes_of_key(log: SealedLog, held: int) -> None:
    """Any of three; the report names the newer ones, and an old checkpoint still says something."""
    for _ in range(2):
        log.rotate_key()
        grow(log)
    report = verify_by(log, held, held=log.notes[0])
    assert (report.verdict, report.covered_lines, report.keys) == (Verdict.GOOD, 42, log.vkeys[held:])
    assert report.signed_by == [log.signers[2].verifier.short_name]
    assert [note.rpartition(" ")[2] for note in report.notes if "vouches" in note] == log.vkeys[held + 1 :]
    assert has_note(report, "the log begins with the 10 lines")
    assert verify_log(log.path).verdict is Verdict.GOOD


def test_a_key_that_nothing_vouches_for(log: SealedLog) -> None:
    """Made after the key before it was lost, by an earlier version, or by an attacker: it must be given too."""
    log.rotate_key(is_vouched=False)
    grow(log)
    assert verify_log(log.path).verdict is Verdict.GOOD
    report = verify_by(log, 0)
    assert (kinds(report), report.covered_lines) == ([Kind.KEY_UNKNOWN], 40)
    assert "no key that is known here vouches for it" in report.findings[0].message
    assert kinds(verify_by(log, 1)) == [Kind.KEY_UNKNOWN] * 2
    assert verify_by(log, 0, 1).verdict is Verdict.GOOD


def test_a_statement_without_the_key_before_is_forged(log: SealedLog) -> None:
    """Found by the holder of the old key and by all others: nothing but the key before can sign it."""
    new, thief = (Signer(LOG_ID, Ed25519PrivateKey.generate()) for _ in range(2))
    forged = vouch(thief, new).line
    log.signers.append(new)
    grow(log)
    log.paths.vkey.write_text(f"{log.vkeys[0]}\n{forged}\n")
    assert kinds(verify_by(log, 0)) == [Kind.KEY_FILE_WRONG, Kind.KEY_UNKNOWN]
    assert kinds(verify_log(log.path))[0] == Kind.KEY_FILE_WRONG
    log.paths.vkey.write_text(f"{log.vkeys[0]}\n{thief.verifier.vkey}\n{forged}\n")
    assert kinds(verify_by(log, 0)) == [Kind.KEY_UNKNOWN]


def test_a_key_that_was_replaced_covers_nothing_for_the_holder_of_the_new_one(log: SealedLog) -> None:
    """A thief of the old key can sign further lines with it, or vouch for a key of his own."""
    log.rotate_key()
    report = verify_by(log, 1)
    assert (report.verdict, report.covered_lines, report.findings) == (Verdict.CANNOT_TELL, 0, [])
    assert has_note(report, "the key given has signed no checkpoint")
    grow(log)
    assert verify_by(log, 1).verdict is Verdict.GOOD
    grow(log, signed_by=0)
    report = verify_by(log, 1)
    assert (report.verdict, report.lines, report.covered_lines) == (Verdict.GOOD, 42, 41)
    assert has_note(report, "no checkpoint covers line 41 yet")
    thief = Signer(LOG_ID, Ed25519PrivateKey.generate())
    with log.paths.vkey.open("a") as file:
        file.write(f"{vouch(log.signers[0], thief).line}\n")
    log.signers.append(thief)
    grow(log)
    assert kinds(verify_by(log, 1)) == [Kind.KEY_UNKNOWN]
    assert verify_by(log, 0).verdict is Verdict.GOOD  # who has only the stolen key cannot know


def test_a_line_of_the_keys_that_is_none_is_named(log: SealedLog) -> None:
    """By its number, also if it is empty."""
    log.paths.vkey.write_text(f"{log.vkeys[0]}\n\nnonsense\n")
    said = [finding.message for finding in verify_log(log.path).findings]
    assert [message.partition(": ")[2] for message in said] == [
        f"'{line}' is not the vkey of an Ed25519 key: NAME+HHHHHHHH+BASE64" for line in ("", "nonsense")
    ]


@pytest.mark.parametrize("cut", [1, 20, 100, 200, 280, 320])
def test_a_torn_line_of_the_keys_is_no_tampering(log: SealedLog, cut: int) -> None:
    """A crash leaves it, of a key that has signed nothing."""
    log.rotate_key()
    data = log.paths.vkey.read_bytes()
    log.paths.vkey.write_bytes(data[:-cut])
    report = verify_by(log, 0)
    assert (report.verdict, report.findings) == (Verdict.GOOD, [])


def test_the_key_of_another_log(log: SealedLog) -> None:
    """That is told once, and not for each checkpoint."""
    other = Signer("emitd.test/other", Ed25519PrivateKey.generate())
    assert kinds(verify_log(log.path, keys=[other.verifier])) == [Kind.LOG_ID_WRONG]


@pytest.mark.parametrize("tear", [1, 2, 60, 93, 94, 130, 170])
def test_a_torn_checkpoint(log: SealedLog, tear: int) -> None:
    """What a crash leaves of the last one is no finding, wherever it tore it; the lines behind are not covered then."""
    data = log.paths.checkpoints.read_bytes()
    log.paths.checkpoints.write_bytes(data[:-tear])
    report = verify_log(log.path)
    assert (report.verdict, report.findings) == (Verdict.GOOD, [])
    assert (report.covered_lines, has_note(report, "part of a checkpoint")) == (
        (40, False) if tear < 3 else (10, True)
    )


@pytest.mark.parametrize(
    "junk", [b"emitd.test/lag\n", b"emitd.test/log\n4x", b"\n", b"x", b"emitd.test/log\n41\n====\n\n"]
)
def test_what_is_no_torn_checkpoint(log: SealedLog, junk: bytes) -> None:
    """What no crash can leave of a checkpoint is damage."""
    with log.paths.checkpoints.open("ab") as file:
        file.write(junk)
    assert kinds(verify_log(log.path)) == [Kind.CHECKPOINT_DAMAGED]


def test_torn_lines_hashes_and_index(log: SealedLog) -> None:
    """What a crash leaves at the ends of files is noted, and is no finding."""
    log.append([make_line(40)])
    for path, size in ((log.path, 7), (log.paths.index, 5)):
        with path.open("ab") as file:
            file.write(b'{"timestamp"'[:size])
    log.paths.hashes.write_bytes(log.paths.hashes.read_bytes()[:-3])
    report = verify_log(log.path)
    assert (report.verdict, report.findings, report.lines) == (Verdict.GOOD, [], 41)
    assert has_note(report, "part of a line, stored hash, entry of the index")


def test_while_the_service_writes(log: SealedLog) -> None:
    """A line that is being written is none: the service has locked the file."""
    with log.path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b'{"timestamp"')
        file.flush()
        report = verify_log(log.path)
    assert (report.verdict, has_note(report, "part of a line")) == (Verdict.GOOD, False)


def test_beside_a_writer(log: SealedLog) -> None:
    """However often a log is verified while lines, hashes and checkpoints come, it is good."""

    def write() -> None:
        for first in range(40, 400, 6):
            log.append([make_line(number) for number in range(first, first + 6)])
            log.checkpoint()

    writer = Thread(target=write)
    writer.start()
    reports = []
    while writer.is_alive():
        reports.append(verify_log(log.path))
    writer.join()
    assert {(report.verdict, *report.findings) for report in reports} == {(Verdict.GOOD,)}
    assert verify_log(log.path).covered_lines == 400


def test_cut_while_it_is_read(log: SealedLog) -> None:
    """A start that cuts hashes off behind the last checkpoint is no finding: the log must be verified again."""
    log.append([make_line(40)])

    def cut(size: int, total: int) -> None:
        os.truncate(log.paths.hashes, stored_count(40) * HASH_BYTES)

    log.path.write_bytes(log.path.read_bytes().replace(b'"user-5"', b'"user-4"'))
    assert verify_log(log.path).findings
    with pytest.raises(OSError, match="verify it again"):
        verify_log(log.path, advance=cut)


@pytest.mark.parametrize(
    "text", ["# emitd\n\nA logging service.\n", "[1]\n", '{"a":1}\n{"b":2}\n', "\x00\xff\n"]
)
def test_a_file_that_is_no_log_is_not_called_tampered(tmp_path: Path, text: str) -> None:
    """Without a line that is an event, and nothing signed next to it, there is no evidence of a log at all."""
    path = tmp_path / "README.md"
    path.write_text(text)
    report = verify_log(path)
    assert report.verdict is Verdict.CANNOT_TELL
    assert not report.findings
    assert has_note(report, "is no audit log: none of its lines is an event")
    path.write_bytes(make_line(0) + b"\n" + text.encode())
    assert verify_log(path).verdict is Verdict.BAD


def test_lines_that_no_checkpoint_covers(log: SealedLog) -> None:
    """They are named, with or without hashes."""
    log.append([make_line(40)])
    log.append([make_line(41)], hashes=False)
    report = verify_log(log.path)
    assert (report.verdict, report.covered_lines) == (Verdict.GOOD, 40)
    assert has_note(report, "no checkpoint covers lines 40 to 41 yet")


@pytest.mark.parametrize("entry", [Entry(16, 1), Entry(17, 0), Entry(5, 10**9), Entry(0, 4097)])
def test_a_wrong_entry_of_the_index(log: SealedLog, entry: Entry) -> None:
    """It is named by the line that it is about, and by its place."""
    index = log.paths.index.read_bytes()
    log.paths.index.write_bytes(index[:16] + pack_entry(entry))
    found = verify_log(log.path).findings
    assert {(one.kind, one.index) for one in found} == {(Kind.INDEX_WRONG, entry.leaf_index)}
    assert {one.offset for one in found} == {16}


def test_an_index_out_of_order(log: SealedLog) -> None:
    """Entries that are right one by one must come in order."""
    index = log.paths.index.read_bytes()
    log.paths.index.write_bytes(index[16:32] + index[:16])
    assert kinds(verify_log(log.path)) == [Kind.INDEX_WRONG]


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        ("log_id", lambda text: text.rstrip("\n"), Kind.LOG_ID_WRONG),
        ("log_id", lambda text: "", Kind.LOG_ID_WRONG),
        ("log_id", lambda text: "emitd.test/other\n", Kind.LOG_ID_WRONG),
        ("vkey", lambda text: text + "x\n", Kind.KEY_FILE_WRONG),
        ("vkey", lambda text: text.replace("+", " ", 1), Kind.KEY_FILE_WRONG),
        ("vkey", lambda text: text + "\n", Kind.KEY_FILE_WRONG),
    ],
)
def test_the_small_files(log: SealedLog, name: str, change: Callable[[str], str], kind: Kind) -> None:
    """What they hold is judged as well."""
    path: Path = getattr(log.paths, name)
    path.write_text(change(path.read_text()))
    found = verify_log(log.path).findings
    assert (found[0].kind, found[0].file) == (kind, str(path))


def test_a_torn_list_of_keys(log: SealedLog) -> None:
    """What a crash leaves of a key that was just added is noted; a list without its last newline is a list."""
    log.paths.vkey.write_text(log.vkeys[0])
    assert verify_log(log.path).findings == []
    log.paths.vkey.write_text(f"{log.vkeys[0]}\n{log.vkeys[0][:40]}")
    report = verify_log(log.path)
    assert (report.verdict, has_note(report, "last line is not whole")) == (Verdict.GOOD, True)


def test_repeated_ids(tmp_path: Path) -> None:
    """An id in two lines is noted with both, for events and for records, and the log is good: it was signed so."""
    log = SealedLog(tmp_path / "audit.json.log")
    lines = [make_line(number) for number in range(5)]
    lines.append(make_line(5).replace(b"event-000005", b"event-000001"))
    lines.append(make_line(6).replace(b"record-000006", b"record-000002"))
    lines.append(_received_later(make_line(3), 7))
    for number in (8, 9):
        stranger = make_line(number).replace(b'"test"', b'"other"')
        lines.append(stranger.replace(f"event-{number:06}".encode(), b"event-000001"))
    log.append(lines)
    log.checkpoint()
    report = verify_log(log.path)
    assert (report.verdict, report.findings) == (Verdict.GOOD, [])
    assert report.notes[:-1] == [
        "line 5 has the event_id 'event-000001' of line 1, and other content: its sender gave two events one id",
        "line 6 has the record_id 'record-000002' of line 2, and other content: its sender gave two events one id",
        "line 7 has the event_id 'event-000003' of line 3, and equal content: its sender sent it again when the "
        "service no longer remembered it",
        "line 9 has the event_id 'event-000001' of line 8, and other content: its sender gave two events one id",
    ]


def test_many_repeated_ids_are_counted(tmp_path: Path) -> None:
    """A spool that came home late does not fill the report."""
    log = SealedLog(tmp_path / "audit.json.log")
    log.append([make_line(number) for number in range(50)])
    log.append([_received_later(make_line(number), 50 + number) for number in range(50)])
    log.checkpoint()
    report = verify_log(log.path)
    assert (report.verdict, len(report.notes)) == (Verdict.GOOD, 22)
    assert report.notes[20] == "30 more lines have an id of an earlier line"


def _received_later(line: bytes, number: int) -> bytes:
    """The line as the service writes it when the same event comes once more."""
    head, received, tail = line.rpartition(b'"received_at":"')
    return head + received + make_line(number).rpartition(received)[2][:30] + tail[30:]


def test_time_goes_back_between_chunks(log: SealedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not matter where a log is cut into pieces to be looked at."""
    monkeypatch.setattr("emitd_handlers.audit.verify.lines.CHUNK_BYTES", 100)
    assert verify_log(log.path).verdict is Verdict.GOOD
    log.append([make_line(40, time=TIME)])
    log.checkpoint()
    assert [(one.kind, one.index) for one in verify_log(log.path).findings] == [(Kind.TIME_WENT_BACK, 40)]


def test_many_findings_are_counted(tmp_path: Path) -> None:
    """Twenty of a kind are listed, and how many more there are is told."""
    log = SealedLog(tmp_path / "audit.json.log")
    log.append([b"{}"] * 50)
    log.checkpoint()
    report = verify_log(log.path)
    assert kinds(report) == [Kind.FIELD_MISSING] * 20
    assert report.unlisted == {"FIELD_MISSING": 30}


def test_progress(log: SealedLog) -> None:
    """All bytes of the lines are told of, in the end."""
    told: list[tuple[int, int]] = []
    verify_log(log.path, advance=lambda size, total: told.append((size, total)))
    size = log.path.stat().st_size
    assert (sum(one for one, _ in told), told[-1][1]) == (size, size)


def test_evidence_that_says_nothing(log: SealedLog) -> None:
    """It does not make a log bad: it cannot be told whether the log is what somebody holds."""
    report = verify_log(log.path, against=[HeldElsewhere("kept", b"hello")])
    assert (report.verdict, has_note(report, "'kept' says nothing")) == (Verdict.CANNOT_TELL, True)


def test_with_several_processes(log: SealedLog) -> None:
    """They find what one finds."""
    lines = log.path.read_bytes().split(b"\n")[:-1]
    log.path.write_bytes(
        b"".join(line + b"\n" for line in [*lines[:17], *lines[18:20], lines[3], *lines[20:]])
    )
    script = (
        "import sys; from pathlib import Path; from emitd_handlers.audit.verify import lines\n"
        "from emitd_handlers.audit.verify.verifier import verify_log\n"
        "lines.CHUNK_BYTES = 1000\n"
        "one, two = (verify_log(Path(sys.argv[1]), workers=count) for count in (1, 2))\n"
        "assert one == two and len(one.findings) == 3, (one, two)\n"
        "print(sorted({finding.kind.value for finding in two.findings}))"
    )
    # In a process of its own: this one may have threads, beside which forking is not safe.
    command = [sys.executable, "-W", "error", "-c", script, str(log.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout == "['LINE_DELETED', 'LINE_DUPLICATED', 'TIME_WENT_BACK']\n"
