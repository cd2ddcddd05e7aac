"""Whatever is done to the files of a log that is signed to its last line, wherever it is done, `verify` finds it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hypothesis import assume, given
from hypothesis import strategies as st

from emitd_handlers.audit.format.files import AuditPaths
from emitd_handlers.audit.verify.findings import Verdict, VerifyReport
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.tlog.merkle import HASH_BYTES, Frontier, leaf_hash
from support.audit.sealed_log import TIME, SealedLog, make_line

NAME = "audit.json.log"
LINES = 70
FILES = ("lines", "hashes", "checkpoints", "vkey", "log_id", "index")
#: What says where a line was touched; the id and the time of one may be told beside it.
LOCATED = {
    "LINE_CHANGED",
    "LINE_DELETED",
    "LINE_INSERTED",
    "LINE_DUPLICATED",
    "LINES_SWAPPED",
    "LOG_CUT",
}

indexes = st.integers(0, LINES - 1)


class Original(NamedTuple):
    """The log that all examples start from a copy of."""

    lines: list[bytes]
    #: What is in its files, by their names.
    files: dict[str, bytes]


@cache
def sealed() -> Original:
    """Make it, with two keys, one after the other, and with checkpoints near and far from each other."""
    with tempfile.TemporaryDirectory() as folder:
        log = SealedLog(Path(folder, NAME))
        for size in (1, 8, 20, 21, 40, 64, LINES):
            log.append([make_line(number) for number in range(len(log.lines), size)])
            log.checkpoint()
            if size == 20:
                log.rotate_key()
        return Original(log.lines, {path.name: path.read_bytes() for path in log.path.parent.iterdir()})


@contextmanager
def copied() -> Iterator[AuditPaths]:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in sealed().files.items():
            Path(folder, name).write_bytes(data)
        yield AuditPaths.of(Path(folder, NAME))


def verify(paths: AuditPaths, lines: list[bytes] | None = None) -> VerifyReport:
    if lines is not None:
        paths.lines.write_bytes(b"".join(line + b"\n" for line in lines))
    return verify_log(paths.lines)


def located(report: VerifyReport) -> set[tuple[str, int | None]]:
    assert report.verdict is Verdict.BAD
    return {(finding.kind.value, finding.index) for finding in report.findings if finding.kind in LOCATED}


def test_nothing_done() -> None:
    """The log that the others touch is good."""
    with copied() as paths:
        report = verify(paths)
    assert (report.verdict, report.findings, report.covered_lines) == (Verdict.GOOD, [], LINES)


@given(st.sampled_from(FILES), st.integers(0), st.integers(0, 7))
def test_a_flipped_bit(where: str, at: int, bit: int) -> None:
    """There is no bit in any of the files that does not matter."""
    with copied() as paths:
        path: Path = getattr(paths, where)
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= 1 << bit
        path.write_bytes(data)
        assert verify(paths).verdict is Verdict.BAD


@given(st.sampled_from(FILES), st.integers(0), st.binary(min_size=1, max_size=40))
def test_overwritten_bytes(where: str, at: int, new: bytes) -> None:
    """Nor does it help to write several other bytes in the place of some."""
    with copied() as paths:
        path: Path = getattr(paths, where)
        data = path.read_bytes()
        at %= len(data)
        changed = data[:at] + new[: len(data) - at] + data[at + len(new) :]
        assume(changed != data)
        path.write_bytes(changed)
        assert verify(paths).verdict is Verdict.BAD


@given(indexes, st.integers(0), st.integers(32, 126))
def test_an_edited_line(index: int, at: int, letter: int) -> None:
    """It is named."""
    lines = [*sealed().lines]
    at %= len(lines[index])
    assume(lines[index][at] != letter)
    lines[index] = lines[index][:at] + bytes([letter]) + lines[index][at + 1 :]
    with copied() as paths:
        assert located(verify(paths, lines)) == {("LINE_CHANGED", index)}


@given(indexes, indexes)
def test_a_deleted_stretch(one: int, other: int) -> None:
    """Its first line is named; at the end it is a log that was cut."""
    first, last = min(one, other), max(one, other)
    assume((first, last) != (0, LINES - 1))
    kind = "LOG_CUT" if last == LINES - 1 else "LINE_DELETED"
    with copied() as paths:
        assert located(verify(paths, sealed().lines[:first] + sealed().lines[last + 1 :])) == {(kind, first)}


@given(indexes, st.integers(1, 5))
def test_inserted_lines(index: int, count: int) -> None:
    """The first of them is named."""
    new = [make_line(1000 + number, time=TIME + index * 1_000_000) for number in range(count)]
    with copied() as paths:
        report = verify(paths, sealed().lines[:index] + new + sealed().lines[index:])
        assert located(report) == {("LINE_INSERTED", index)}


@given(indexes, indexes)
def test_a_duplicated_line(index: int, place: int) -> None:
    """Both of its places are named."""
    lines = [*sealed().lines[:place], sealed().lines[index], *sealed().lines[place:]]
    places = {at for at, line in enumerate(lines) if line == sealed().lines[index]}
    with copied() as paths:
        report = verify(paths, lines)
        if places == {
            LINES - 1,
            LINES,
        }:  # behind the last checkpoint it is a line like others but for its ids
            assert (report.verdict, report.findings) == (Verdict.GOOD, [])
            assert report.notes[0].startswith(f"line {LINES} has the event_id ")
            return
        ((kind, at),) = located(report)
        assert (kind, at in places) == ("LINE_DUPLICATED", True)
        message = report.findings[0].message
        assert all(str(one) in message for one in places)


@given(indexes, indexes)
def test_swapped_lines(one: int, other: int) -> None:
    """The first of them is named."""
    assume(one != other)
    lines = [*sealed().lines]
    lines[one], lines[other] = lines[other], lines[one]
    with copied() as paths:
        assert located(verify(paths, lines)) == {("LINES_SWAPPED", min(one, other))}


@given(st.lists(indexes, min_size=2, max_size=6, unique=True))
def test_several_edited_lines(touched: list[int]) -> None:
    """All of them are told, those that stand side by side together."""
    lines = [*sealed().lines]
    for index in touched:
        lines[index] = lines[index].replace(b'"source":"test"', b'"source":"tent"')
    firsts = {index for index in touched if index - 1 not in touched}
    with copied() as paths:
        assert located(verify(paths, lines)) == {("LINE_CHANGED", index) for index in firsts}


@given(st.lists(indexes, min_size=1, max_size=4, unique=True), st.sampled_from(["edited", "deleted"]))
def test_hashes_made_anew(touched: list[int], how: str) -> None:
    """Whoever changes lines and stores hashes to match is found by the checkpoints, between two of them."""
    lines = [
        line if index not in touched else line.replace(b"test", b"tent")
        for index, line in enumerate(sealed().lines)
        if how == "edited" or index not in touched
    ]
    with copied() as paths:
        paths.hashes.write_bytes(b"".join(Frontier().extend([leaf_hash(line) for line in lines])))
        report = verify(paths, lines)
    assert report.verdict is Verdict.BAD
    assert report.covered_lines <= min(touched)
    assert {finding.kind.value for finding in report.findings} <= {
        "CHECKPOINT_MISMATCH",
        "LOG_CUT",
        "INDEX_WRONG",
    }


@given(st.integers(0), st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES))
def test_an_edited_hash(number: int, new: bytes) -> None:
    """Its place is named, and no line is suspected."""
    with copied() as paths:
        hashes = bytearray(paths.hashes.read_bytes())
        at = number % (len(hashes) // HASH_BYTES) * HASH_BYTES
        hashes[at : at + HASH_BYTES] = new
        paths.hashes.write_bytes(hashes)
        (finding,) = verify(paths).findings
    assert (finding.kind, finding.offset) == ("HASHES_CHANGED", at)


@given(st.integers(1))
def test_cut_lines_and_hashes(size: int) -> None:
    """Wherever lines and hashes are cut, while the checkpoints stand, the first line that is gone is named."""
    data = sealed().files[NAME]
    data = data[: size % len(data)]
    with copied() as paths:
        paths.lines.write_bytes(data)
        count = data.count(b"\n")
        paths.hashes.write_bytes(
            b"".join(Frontier().extend([leaf_hash(line) for line in sealed().lines[:count]]))
        )
        assert located(verify(paths)) == {("LOG_CUT", count)}
