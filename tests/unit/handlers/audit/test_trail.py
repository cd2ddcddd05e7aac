"""A log's files opened for reading: whole, torn, missing, growing, and with an index that lies."""

from pathlib import Path

import pytest

from emitd_handlers.audit.format.files import Entry, pack_entry
from emitd_handlers.audit.read import trail as audit_trail
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.tlog.merkle import leaf_hash, root_hash, stored_count, stored_index
from support.audit.sealed_log import SealedLog, make_line


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    """A log of a hundred lines, an index entry for each sixteen, and three checkpoints."""
    return SealedLog.make(tmp_path / "audit.json.log", 10, 60, 100)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is read at once than a line has, or a checkpoint."""
    monkeypatch.setattr(audit_trail, "BLOCK_BYTES", 100)
    monkeypatch.setattr(audit_trail, "NOTES_BLOCK_BYTES", 40)


def offset_of(log: SealedLog, index: int) -> int:
    return sum(len(line) + 1 for line in log.lines[:index])


def test_all_lines_with_their_numbers(log: SealedLog) -> None:
    """From the first, from any other, and none after the last."""
    with AuditTrail(log.path) as trail:
        assert list(trail.lines()) == list(enumerate(log.lines))
        for first in (1, 15, 16, 17, 60, 99):
            assert list(trail.lines(first)) == list(enumerate(log.lines))[first:]
        assert list(trail.lines(100)) == []
        assert (trail.line(42), trail.size, trail.torn_bytes) == (log.lines[42], log.path.stat().st_size, 0)
        with pytest.raises(IndexError, match="has no line 100"):
            trail.line(100)


@pytest.mark.usefixtures("small_blocks")
def test_lines_longer_than_what_is_read_at_once(log: SealedLog) -> None:
    """They come whole, and so do checkpoints in both directions."""
    with AuditTrail(log.path) as trail:
        assert list(trail.lines(40)) == list(enumerate(log.lines))[40:]
        assert trail.find_end() == (100, log.path.stat().st_size)
        assert [note for _, note in trail.checkpoints()] == log.notes
        assert list(trail.checkpoints_backward()) == list(trail.checkpoints())[::-1]


def test_a_line_is_reached_by_the_index(log: SealedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before the entry is not read."""
    with AuditTrail(log.path) as trail:
        read: list[int] = []
        plain = trail.read_lines
        monkeypatch.setattr(
            trail, "read_lines", lambda size, offset: read.append(offset) or plain(size, offset)
        )
        assert next(trail.lines(50)) == (50, log.lines[50])
    assert min(read) == offset_of(log, 48) - 1


@pytest.mark.parametrize(
    "entry",
    [
        lambda log: Entry(48, offset_of(log, 48) + 1),
        lambda log: Entry(48, offset_of(log, 47)),
        lambda log: Entry(47, offset_of(log, 48)),
        lambda log: Entry(48, 10**9),
        lambda log: Entry(0, offset_of(log, 48)),
        lambda log: Entry(48, 0),
    ],
)
def test_an_index_that_lies_is_not_believed(log: SealedLog, entry: object) -> None:
    """An entry must lead to the line whose hash is stored; else all lines are counted."""
    assert callable(entry)
    data = log.paths.index.read_bytes()
    log.paths.index.write_bytes(data[:32] + pack_entry(entry(log)))
    with AuditTrail(log.path) as trail:
        assert not trail.is_good_entry(entry(log))
        assert list(trail.lines(70)) == list(enumerate(log.lines))[70:]
        assert trail.find_end() == (100, log.path.stat().st_size)


def test_entries_of_the_index(log: SealedLog) -> None:
    """All whole ones, in order; what is torn after them is told."""
    with log.paths.index.open("ab") as file:
        file.write(bytes(5))
    with AuditTrail(log.path) as trail:
        assert list(trail.entries()) == [
            Entry(number, offset_of(log, number)) for number in range(16, 100, 16)
        ]
        assert all(map(trail.is_good_entry, trail.entries()))
        assert trail.torn_index_bytes == 5


def test_stored_hashes(log: SealedLog) -> None:
    """One, or several at once, as far as they are stored; they lead to the root that was signed."""
    with AuditTrail(log.path) as trail:
        assert trail.has_hashes
        assert (trail.hash_count, trail.leaf_count) == (stored_count(100), 100)
        assert trail.read_hash(stored_index(0, 42)) == leaf_hash(log.lines[42])
        assert trail.read_hashes(0, 2) == leaf_hash(log.lines[0]) + leaf_hash(log.lines[1])
        assert trail.read_stored(40, 16) == trail.read_hashes(0, 2)[16:56]
        assert root_hash(100, trail.read_hash) == log.root()
        with pytest.raises(EOFError, match=f"has {stored_count(100)} hashes, not {stored_count(100) + 1}"):
            trail.read_hash(stored_count(100))


@pytest.mark.parametrize("cut", [1, 31, 32, 33, 100])
def test_torn_hashes(log: SealedLog, cut: int) -> None:
    """Part of a hash is none; leaves count as far as all hashes that they complete are stored."""
    data = log.paths.hashes.read_bytes()[:-cut]
    log.paths.hashes.write_bytes(data)
    with AuditTrail(log.path) as trail:
        assert trail.hash_count == len(data) // 32
        assert trail.torn_hash_bytes == len(data) % 32
        assert stored_count(trail.leaf_count) <= trail.hash_count < stored_count(trail.leaf_count + 1)
        assert len(trail.read_stored(10**9, 0)) == len(data)


def test_a_torn_line_is_none(log: SealedLog) -> None:
    """What stands after the last newline is left out, and counted."""
    with log.path.open("ab") as file:
        file.write(b'{"torn')
    with AuditTrail(log.path) as trail:
        assert list(trail.lines()) == list(enumerate(log.lines))
        assert (trail.torn_bytes, trail.find_end()) == (6, (100, offset_of(log, 100)))


@pytest.mark.usefixtures("small_blocks")
def test_a_log_with_nothing_but_a_torn_line(tmp_path: Path) -> None:
    """It has no lines."""
    path = tmp_path / "audit.json.log"
    path.write_bytes(b"x" * 250)
    with AuditTrail(path) as trail:
        assert (list(trail.lines()), trail.torn_bytes, trail.find_end()) == ([], 250, (0, 0))


def test_what_is_written_later_is_not_seen(log: SealedLog) -> None:
    """A trail is the log as it stood when it was opened."""
    with AuditTrail(log.path) as trail:
        log.append([make_line(100)])
        log.checkpoint()
        assert len(list(trail.lines())) == 100
        assert trail.leaf_count == 100
        assert [note for _, note in trail.checkpoints()] == log.notes[:-1]
        assert next(trail.checkpoints_backward())[1] == log.notes[-2]


def test_the_lines_alone_are_enough_to_be_read(log: SealedLog) -> None:
    """Without the other files there are no hashes, checkpoints, keys and id."""
    for path in (log.paths.hashes, log.paths.checkpoints, log.paths.index, log.paths.vkey, log.paths.log_id):
        path.unlink()
    with AuditTrail(log.path) as trail:
        assert list(trail.lines(50)) == list(enumerate(log.lines))[50:]
        assert not trail.has_hashes
        assert (trail.leaf_count, trail.checkpoint_bytes) == (0, 0)
        assert list(trail.checkpoints()) == list(trail.checkpoints_backward()) == []
        assert (trail.verifiers(), list(trail.entries())) == ([], [])
        with pytest.raises(EOFError):
            trail.read_hash(0)


def test_without_the_lines_there_is_no_trail(log: SealedLog) -> None:
    """It says which file is missing."""
    log.path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        AuditTrail(log.path)
    assert caught.value.filename == str(log.path)


def test_id_and_keys(log: SealedLog) -> None:
    """As they stand in the files beside the lines."""
    log.rotate_key()
    with AuditTrail(log.path) as trail:
        assert [key.vkey for key in trail.verifiers()] == log.vkeys


def test_what_cannot_be_a_checkpoint_comes_in_its_place(log: SealedLog) -> None:
    """Torn or foreign, forward and backward alike: nothing is passed over."""
    with log.paths.checkpoints.open("ab") as file:
        file.write(b"foreign\n\n" + log.notes[0] + b"\nemitd.test/log\n7")
    with AuditTrail(log.path) as trail:
        notes = [note for _, note in trail.checkpoints()]
        assert notes == [*log.notes, b"foreign\n\n" + log.notes[0], b"emitd.test/log\n7"]
        assert list(trail.checkpoints_backward()) == list(trail.checkpoints())[::-1]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", range(30, 400, 23))
def test_checkpoints_backward_are_those_forward_wherever_blocks_end(
    log: SealedLog, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than a note, more than one, and all of them."""
    monkeypatch.setattr(audit_trail, "NOTES_BLOCK_BYTES", size)
    with AuditTrail(log.path) as trail:
        assert [note for _, note in trail.checkpoints_backward()] == log.notes[::-1]
