"""A copy of a log that was taken file by file while the service wrote is never called tampered with."""

import os
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.audit.format.files import ENTRY_BYTES, frame_note
from emitd_handlers.audit.verify.findings import Verdict, VerifyReport
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.tlog.merkle import HASH_BYTES, stored_count
from support.audit.sealed_log import TIME, SealedLog, make_line

SIZES = (5, 10, 15, 20, 25)
LINES = SIZES[-1]
_folder = tempfile.TemporaryDirectory()

#: How far the log was when a file was copied: in lines, or in checkpoints.
moments = st.integers(0, LINES)
checkpoints = st.integers(0, len(SIZES))


@cache
def log() -> SealedLog:
    log = SealedLog(Path(_folder.name, "audit.json.log"), index_every=2)
    for size in SIZES:
        log.append([make_line(number) for number in range(len(log.lines), size)])
        log.checkpoint()
    return log


def verify_copy(
    lines: int, hashes: int, signed: int, *, torn: bool = False, in_place: bool = False
) -> VerifyReport:
    """Verify a copy, each of whose files is from a moment of its own; a torn one has part of a line more."""
    log()
    with tempfile.TemporaryDirectory() as folder:
        copy = SealedLog(Path(folder, "audit.json.log"))
        copy.paths.vkey.write_bytes(log().paths.vkey.read_bytes())
        data = log().path.read_bytes().split(b"\n")
        whole = b"".join(line + b"\n" for line in data[:lines])
        files = {
            copy.paths.checkpoints: (
                b"".join(map(frame_note, log().notes[:signed])),
                SIZES[signed - 1] if signed else 0,
            ),
            copy.paths.hashes: (log().paths.hashes.read_bytes()[: stored_count(hashes) * HASH_BYTES], hashes),
            copy.paths.index: (
                log().paths.index.read_bytes()[: max(0, (hashes - 1) // 2) * ENTRY_BYTES],
                hashes,
            ),
            copy.path: (whole + data[lines][:40] * torn, lines),
        }
        for path, (content, moment) in files.items():
            path.write_bytes(content)
            if not in_place:  # the service writes lines, then hashes, then a checkpoint
                seconds = 1_000_000_000 + 10 * moment + len(path.suffix)
                os.utime(path, (seconds, seconds))
        return verify_log(copy.path)


@given(moments, moments, checkpoints, st.booleans())
def test_a_copy_accuses_nobody(lines: int, hashes: int, signed: int, torn: bool) -> None:
    """If signed lines are missing, it says how many, and that it cannot tell; else the copy is good if it is signed."""
    report = verify_copy(lines, hashes, signed, torn=torn)
    missing = (SIZES[signed - 1] if signed else 0) - lines
    assert report.findings == []
    if missing > 0:
        assert report.verdict is Verdict.CANNOT_TELL
        them = (
            "line that the checkpoints sign is"
            if missing == 1
            else f"{missing} lines that the checkpoints sign are"
        )
        assert report.notes[0].startswith(f"the last {them} missing: this is a copy that took ")
        assert "Copy again, the checkpoints first and the lines last" in report.notes[0]
    elif signed and hashes <= lines:
        assert report.verdict is Verdict.GOOD


@given(st.integers(0, LINES - 1), st.booleans())
def test_a_log_that_was_cut_is_bad(lines: int, torn: bool) -> None:
    """Its file is then younger than the checkpoints, which no copy's is."""
    report = verify_copy(lines, LINES, len(SIZES), torn=torn, in_place=True)
    assert report.verdict is Verdict.BAD
    assert [(finding.kind, finding.index) for finding in report.findings] == [("LOG_CUT", lines)]


def test_a_copy_of_a_busy_log_by_rsync() -> None:
    """It has the times that the files had when rsync listed them: the lines' may be the younger one."""
    with tempfile.TemporaryDirectory() as folder:
        copy = SealedLog.make(Path(folder, "audit.json.log"), *SIZES)
        copy.path.write_bytes(b"".join(line + b"\n" for line in copy.lines[:22]))
        last = TIME + 21 * 1_000_000
        os.utime(copy.paths.checkpoints, ns=(last - 800_000_000, last - 800_000_000))
        os.utime(copy.path, ns=(last + 5_000_000, last + 5_000_000))
        assert (
            verify_log(copy.path)
            .notes[0]
            .startswith("the last 3 lines that the checkpoints sign are missing")
        )
        os.utime(copy.path, ns=(last + 1_000_000_000, last + 1_000_000_000))  # written to after its last line
        assert verify_log(copy.path).verdict is Verdict.BAD


def test_a_change_in_a_copy_is_found() -> None:
    """That lines are missing at its end excuses nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        copy = SealedLog.make(Path(folder, "audit.json.log"), *SIZES)
        lines = [*copy.lines[:3], copy.lines[3].replace(b"user-3", b"user-4"), *copy.lines[4:20]]
        copy.path.write_bytes(b"".join(line + b"\n" for line in lines))
        os.utime(copy.path, (1_000_000_000, 1_000_000_000))
        assert "LINE_CHANGED" in {finding.kind.value for finding in verify_log(copy.path).findings}
        hashes = copy.paths.hashes.read_bytes()
        copy.path.write_bytes(b"".join(line + b"\n" for line in copy.lines[:20]))
        os.utime(copy.path, (1_000_000_000, 1_000_000_000))
        assert verify_log(copy.path).verdict is Verdict.CANNOT_TELL
        copy.paths.hashes.write_bytes(
            hashes[:-32] + bytes(32)
        )  # not those that were signed with the missing lines
        assert verify_log(copy.path).verdict is Verdict.BAD
