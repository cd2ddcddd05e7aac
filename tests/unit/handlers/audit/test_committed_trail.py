"""Where the lines of a log stand, by number and by time, whatever its sparse index is worth."""

import bisect
from pathlib import Path

import pytest

from emitd_handlers.audit.format.files import Entry, pack_entry
from emitd_handlers.audit.format.line import MAX_LINE_BYTES, received_at
from emitd_handlers.audit.read.trail import CommittedTrail
from emitd_handlers.errors import AuditDamaged, HandlerUnavailable
from support.audit.sealed_log import TIME, SealedLog, make_line

SIZE = 100
#: Some lines were received at the same time, and long after those before.
TIMES = [TIME + (number // 7) * 1_000_000_000 for number in range(SIZE)]
INDEXES = ["good", "missing", "torn", "shifted", "of other lines", "beyond the end"]


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    log = SealedLog(tmp_path / "audit.json.log")
    log.append([make_line(number, time=time) for number, time in enumerate(TIMES)])
    return log


@pytest.fixture(params=INDEXES)
def index(request: pytest.FixtureRequest, log: SealedLog) -> str:
    """Make the log's index what the parameter says."""
    path, good = log.paths.index, log.paths.index.read_bytes()
    assert len(good) == 16 * 6
    match request.param:
        case "missing":
            path.unlink()
        case "torn":
            path.write_bytes(good[:-5])
        case "shifted":
            path.write_bytes(good[8:])
        case "of other lines":
            path.write_bytes(
                b"".join(pack_entry(Entry(number, start)) for number, start in enumerate(starts(log)[1:]))
            )
        case "beyond the end":
            path.write_bytes(b"".join(pack_entry(Entry(number, number * 10**6)) for number in range(1, 200)))
    return str(request.param)


def starts(log: SealedLog) -> list[int]:
    """Where each line begins, and where the next one will."""
    offsets = [0]
    for line in log.lines:
        offsets.append(offsets[-1] + len(line) + 1)
    return offsets


def end_of(log: SealedLog, count: int = SIZE) -> Entry:
    return Entry(count, starts(log)[count])


def test_each_line_is_found_by_its_number(log: SealedLog, index: str) -> None:
    """So is the place of the next line to come, and any beyond is that."""
    with CommittedTrail(log.path, end_of(log)) as trail:
        for number, offset in enumerate(starts(log)):
            assert trail.position_of(number) == (number, offset)
        assert trail.position_of(SIZE + 5) == end_of(log)


def test_each_line_gets_its_number_by_its_offset(log: SealedLog, index: str) -> None:
    """Counted from an entry of the index, or from either end of the log."""
    with CommittedTrail(log.path, end_of(log)) as trail:
        for number, offset in enumerate(starts(log)):
            assert trail.position_at(offset) == (number, offset)


def test_the_first_line_since_a_time_is_found(log: SealedLog) -> None:
    """At, just before and just after each time there is; the end where no line is so late."""
    offsets = starts(log)
    moments = {time + step for time in TIMES for step in (-1, 0, 1)} | {1, TIME * 2}
    with CommittedTrail(log.path, end_of(log)) as trail:
        for moment in moments:
            assert trail.first_received(moment) == offsets[bisect.bisect_left(TIMES, moment)], moment


def test_what_is_not_committed_is_not_there(log: SealedLog) -> None:
    """Neither by time nor by number does a line behind the end appear."""
    end = end_of(log, 40)
    with CommittedTrail(log.path, end) as trail:
        assert trail.first_received(TIMES[60]) == end.offset
        assert trail.position_of(60) == end
        assert trail.read_lines(10**6, 0).count(b"\n") == 40


def test_an_empty_log(tmp_path: Path) -> None:
    """Everything is at its end."""
    log = SealedLog(tmp_path / "audit.json.log")
    with CommittedTrail(log.path, Entry(0, 0)) as trail:
        assert trail.first_received(5) == 0
        assert trail.position_of(0) == trail.position_at(0) == (0, 0)


def test_damaged_lines_do_not_mislead_the_search(log: SealedLog) -> None:
    """Lines that cannot be read are passed over; those around them are found by their times."""
    offsets = starts(log)
    data = bytearray(log.path.read_bytes())
    for number in (0, 20, 21, 22, 50, 99):
        data[offsets[number] + 30] = 0xFF
    log.path.write_bytes(data)
    good = [number for number in range(SIZE) if number not in (0, 20, 21, 22, 50, 99)]
    with CommittedTrail(log.path, end_of(log)) as trail:
        for number in good:
            found = offsets.index(trail.first_received(TIMES[number]))
            # Up to the first readable one of that time, there may be damaged ones.
            first = next(n for n in good if TIMES[n] == TIMES[number])
            assert found <= first
            assert all(n not in good for n in range(found, first))


def test_the_longest_lines_are_found(tmp_path: Path) -> None:
    """A line may be as long as a line may be."""
    log = SealedLog(tmp_path / "audit.json.log")
    log.append([make_line(n).replace(b'{"n":', b'{"p":"' + b"x" * 65_000 + b'","n":') for n in range(8)])
    assert 65_000 < max(map(len, log.lines)) <= MAX_LINE_BYTES
    offsets = starts(log)
    with CommittedTrail(log.path, end_of(log, 8)) as trail:
        for number, line in enumerate(log.lines):
            assert trail.first_received(received_at(line)) == offsets[number]
            assert trail.position_of(number) == (number, offsets[number])


def test_blocks_are_whole_lines(log: SealedLog) -> None:
    """Forward and backward, the blocks of any size make up the lines, each once, and know their places."""
    end, whole = end_of(log), log.path.read_bytes()
    with CommittedTrail(log.path, end) as trail:
        for size in (1000, 1024, 5000, 10**6):
            position, read = Entry(0, 0), b""
            while position.offset < end.offset:
                block = trail.block_after(position, end.offset, size)
                assert len(block) <= size
                read += block
                position = Entry(position.leaf_index + block.count(b"\n"), position.offset + len(block))
            assert read == whole
            position, read = end, b""
            while position.offset > 0:
                position, block = trail.block_before(position, 0, size)
                assert position.offset == starts(log)[position.leaf_index]
                assert len(block) <= size
                read = block + read
            assert read == whole


def test_files_that_lack_committed_lines(log: SealedLog) -> None:
    """They cannot be read now: the log's writer may mend them."""
    end = end_of(log)
    with log.path.open("r+b") as file:
        file.truncate(end.offset - 1)
    with pytest.raises(HandlerUnavailable, match="fewer lines than were committed"):
        CommittedTrail(log.path, end)


def test_a_file_without_ends_of_lines_is_damaged(log: SealedLog) -> None:
    """What is longer than a line can be is no line, and the error says what to do."""
    end = end_of(log)
    log.path.write_bytes(b"x" * 300_000 + b"\n")
    with CommittedTrail(log.path, Entry(SIZE, 300_001)) as trail:
        for call in (
            lambda: trail.first_received(TIME),
            lambda: trail.position_of(50),
            lambda: trail.block_after(Entry(0, 0), 300_001, 100_000),
            lambda: trail.block_before(Entry(SIZE, 300_001), 0, 100_000),
        ):
            with pytest.raises(AuditDamaged, match="`emitd audit verify` says more"):
                call()
    assert end.offset < 300_000
