"""What a start makes of a log's files: it goes on, mends what can be made anew, and refuses the rest with words."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from emitd_handlers.audit.format.files import AuditPaths, read_key_file, split_notes
from emitd_handlers.audit.handler import JsonAuditHandler, JsonAuditSettings
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.audit.write import tree
from emitd_handlers.audit.write.identity import new_key_pem, rotate_key
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.outcome import Refused
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.key_list import ListedKey, read_statement
from emitd_handlers.tlog.merkle import Frontier, leaf_hash
from emitd_handlers.tlog.note import Signer
from support.audit.log_reader import open_note
from support.audit.sealed_log import make_line


class CountingDisk(Disk):
    """Counts what is read of the lines, and fails the operations that it is told to, once each."""

    def __init__(self) -> None:
        self.read_bytes = 0
        #: Pairs of an operation and the end of a file's name.
        self.failing: list[tuple[str, str]] = []

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        if self._name(fd).endswith(".log"):
            self.read_bytes += len(data)
        return data

    def write(self, fd: int, data: memoryview) -> int:
        self._perhaps_fail("write", fd)
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._perhaps_fail("sync", fd)
        super().sync(fd)

    def _perhaps_fail(self, operation: str, fd: int) -> None:
        for failing in self.failing:
            if failing[0] == operation and self._name(fd).endswith(failing[1]):
                self.failing.remove(failing)
                raise OSError(5, "Input/output error")

    def _name(self, fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.json.log"


@contextmanager
def opened(
    path: Path,
    disk: Disk | None = None,
    report: Callable[[str], None] = lambda line: None,
    *,
    log_id: str = "",
    key: Path | None = None,
) -> Iterator[AuditLog]:
    log = AuditLog(path, disk or Disk(), report, log_id=log_id, key=key)
    log.open()
    try:
        yield log
    finally:
        log.close()


def append(log: AuditLog, first: int, count: int) -> None:
    # Received now, as the event of a change of key is.
    lines = [make_line(number, time=time.time_ns()) for number in range(first, first + count)]
    log.append(b"".join(line + b"\n" for line in lines), list(map(leaf_hash, lines)))


def make(path: Path, *sizes: int) -> None:
    """Write a log with a checkpoint at each of the sizes."""
    with opened(path) as log:
        for size in sizes:
            append(log, log.file.line_count, size - log.file.line_count)
            log.write_checkpoint()


def checkpoints(path: Path) -> list[Checkpoint]:
    """Return all checkpoints, each verified by the keys beside the log and held against the lines."""
    paths = AuditPaths.of(path)
    verifiers = [key.verifier for key in read_key_file(paths.vkey)]
    notes = split_notes(paths.checkpoints.read_bytes())
    found = [Checkpoint.parse(open_note(note, verifiers)) for _, note in notes]
    leaves = list(map(leaf_hash, path.read_bytes().split(b"\n")[:-1]))
    for checkpoint in found:
        frontier = Frontier()
        frontier.extend(leaves[: checkpoint.size])
        assert frontier.root() == checkpoint.root
    return found


def refusal(path: Path, **settings: object) -> str:
    with pytest.raises(HandlerUnavailable) as caught, opened(path, **settings):  # type: ignore[arg-type]
        pass
    return str(caught.value)


def test_a_log_goes_on_under_the_same_tree(path: Path) -> None:
    """Over restarts there is one log id, one key and one tree, and nothing is signed twice."""
    make(path, 5)
    make(path, 12)
    make(path)
    assert [each.size for each in checkpoints(path)] == [5, 12]
    assert len({each.origin for each in checkpoints(path)}) == 1
    assert verify_log(path).verdict is Verdict.GOOD
    assert stat.S_IMODE(AuditPaths.of(path).key.stat().st_mode) == 0o600


def test_lines_behind_the_last_checkpoint_are_signed_at_the_start(path: Path) -> None:
    """Where the process ended between lines and checkpoint, the next start covers the lines."""
    make(path, 5)
    with opened(path) as log:
        append(log, 5, 4)
    assert [each.size for each in checkpoints(path)] == [5]
    make(path)
    assert [each.size for each in checkpoints(path)] == [5, 9]


def test_a_start_reads_what_comes_behind_the_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the log, a start reads no more of its lines than of a short one; without an index, it reads all."""
    monkeypatch.setattr(tree, "INDEX_INTERVAL_BYTES", 4096)
    monkeypatch.setattr("emitd_handlers.audit.write.recovery.MAX_GROUP_BYTES", 4096)
    read = []
    for size in (8_000, 40_000):
        long = path.with_name(f"{size}.log")
        with opened(long) as log:
            for first in range(0, size, 500):
                append(log, first, 500)
                log.write_checkpoint()
        disk = CountingDisk()
        with opened(long, disk) as log:
            assert log.file.line_count == size
        read.append(disk.read_bytes)
    assert read[1] < read[0] * 1.2
    assert read[1] < long.stat().st_size / 5


def cut_hashes(paths: AuditPaths) -> None:
    os.truncate(paths.hashes, 100)


def spoil_hashes(paths: AuditPaths) -> None:
    data = bytearray(paths.hashes.read_bytes())
    data[-32:] = bytes(32)
    paths.hashes.write_bytes(data)


def add_hashes(paths: AuditPaths) -> None:
    with paths.hashes.open("ab") as file:
        file.write(b"stored, and never signed" * 5)


@pytest.mark.parametrize(
    "harm",
    [
        lambda paths: paths.hashes.unlink(),
        lambda paths: paths.index.unlink(),
        lambda paths: paths.index.write_bytes(b"\0" * 7 + b"\x04" + b"\0" * 7 + b"\x09" + b"torn"),
        cut_hashes,
        spoil_hashes,
        add_hashes,
    ],
    ids=["no hashes", "no index", "bad index", "cut hashes", "spoilt hashes", "surplus hashes"],
)
def test_what_can_be_made_anew_is(path: Path, harm: Callable[[AuditPaths], None]) -> None:
    """Hashes and index come from the lines again, and the log goes on."""
    make(path, 5, 30)
    good = AuditPaths.of(path).hashes.read_bytes()
    harm(AuditPaths.of(path))
    make(path, 40)
    assert AuditPaths.of(path).hashes.read_bytes().startswith(good)
    assert verify_log(path).verdict is Verdict.GOOD
    assert [each.size for each in checkpoints(path)] == [5, 30, 40]


def test_lines_that_lack_stop_the_start(path: Path) -> None:
    """A log with fewer lines than were signed is not taken for shorter, nor one that is gone for new."""
    make(path, 5, 30)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "fewer lines than the 30" in refusal(path)
    path.unlink()
    assert "is not there, but files next to it are" in refusal(path)
    assert not path.exists()
    path.write_bytes(whole)
    make(path, 31)


def test_changed_lines_stop_a_start_that_reads_them(path: Path) -> None:
    """Where the hashes have to be made anew, lines that are not those signed are found, and nothing is signed."""
    make(path, 30)
    path.write_bytes(path.read_bytes().replace(b"user-3", b"user-4", 1))
    AuditPaths.of(path).hashes.unlink()
    assert "its first 30 lines are not those" in refusal(path)
    assert len(list(split_notes(AuditPaths.of(path).checkpoints.read_bytes()))) == 1


@pytest.mark.parametrize(
    "torn", [b"emitd", b"emitd.local/x\n31\n", b"a\n31\nAAAA\n\n" + "— a AAAA\n\n".encode()]
)
def test_a_torn_checkpoint_is_cut_off(path: Path, torn: bytes) -> None:
    """What a crash left of a checkpoint that nobody was told of goes, and the log goes on."""
    make(path, 5, 30)
    with AuditPaths.of(path).checkpoints.open("ab") as file:
        file.write(torn)
    make(path, 31)
    assert [each.size for each in checkpoints(path)] == [5, 30, 31]


def test_a_checkpoint_damaged_further_back_stops_the_start(path: Path) -> None:
    """No crash damages two of them."""
    make(path, 5, 30)
    file = AuditPaths.of(path).checkpoints
    file.write_bytes(file.read_bytes().replace(b"\n5\n", b"\n6\n").replace(b"\n30\n", b"\n31\n"))
    before = file.read_bytes()
    assert "no crash does that" in refusal(path)
    assert file.read_bytes() == before


def test_checkpoints_without_their_keys_stop_the_start(path: Path) -> None:
    """A list of keys that is gone, or another's, is not taken for that of this log; nothing is cut."""
    make(path, 5)
    paths = AuditPaths.of(path)
    vkey, before = paths.vkey.read_text(), paths.checkpoints.read_bytes()
    paths.vkey.unlink()
    assert "a key is missing" in refusal(path)
    assert paths.checkpoints.read_bytes() == before
    paths.vkey.write_text(vkey)
    make(path, 6)


def test_another_logs_checkpoints_stop_the_start(path: Path) -> None:
    """One log id has one tree."""
    make(path, 5)
    assert "has checkpoints of the log" in refusal(path, log_id="example.com/other")


def test_a_log_of_an_earlier_version_is_signed(path: Path) -> None:
    """Lines and an id are enough: the first start hashes and signs all of them."""
    path.write_bytes(b"".join(make_line(number) + b"\n" for number in range(20)))
    path.with_name("audit.json.log.log_id").write_text("emitd.local/old\n")
    make(path)
    assert [(each.origin, each.size) for each in checkpoints(path)] == [("emitd.local/old", 20)]


def test_the_key_can_be_another(path: Path, tmp_path: Path) -> None:
    """A key of one's own signs from its first start on, and old checkpoints verify by the list."""
    make(path, 5)
    key = tmp_path / "mine.pem"
    assert "there is no key" in refusal(path, key=key)
    key.write_bytes(new_key_pem())
    with opened(path, key=key) as log:
        append(log, 5, 1)
        log.write_checkpoint()
    assert [each.size for each in checkpoints(path)] == [5, 6, 7]
    first, second = read_key_file(AuditPaths.of(path).vkey)
    assert second.before is None
    assert verify_log(path, keys=[first.verifier]).findings[0].kind == "KEY_UNKNOWN"
    assert verify_log(path).verdict is Verdict.GOOD


def rotate(path: Path) -> ListedKey:
    paths = AuditPaths.of(path)
    return rotate_key(paths, paths.key, paths.log_id.read_text().strip())


def events(path: Path) -> list[dict[str, object]]:
    """Return the details of the events of a change of key."""
    lines = map(json.loads, path.read_bytes().splitlines())
    return [line["details"] for line in lines if line["event_name"] == "emitd.audit.key_rotated"]


def test_a_change_of_key_is_an_event(path: Path) -> None:
    """Each is written once, at the next start, with the keys' ids and the statement; the newest key signs them."""
    make(path, 5)
    first = read_key_file(AuditPaths.of(path).vkey)[0].verifier
    second, third = rotate(path), rotate(path)
    make(path, 8)
    make(path, 9)
    assert events(path) == [
        {
            "old_key_id": old.key_id.hex(),
            "new_key_id": new.verifier.key_id.hex(),
            "statement": new.statement.decode(),
        }
        for old, new in ((first, second), (second.verifier, third))
    ]
    assert [each.size for each in checkpoints(path)] == [5, 7, 8, 9]
    line = json.loads(path.read_bytes().splitlines()[5])
    assert (line["source"], line["user_id"], line["source_ip"]) == ("emitd", "emitd", "unknown")
    report = verify_log(path, keys=[first])
    assert (report.verdict, report.covered_lines) == (Verdict.GOOD, 9)
    fourth = rotate(path)
    make(path, 10)
    assert events(path)[2]["statement"] == fourth.statement.decode()


@pytest.mark.parametrize("held", [0, 1, 2])
def test_a_copy_without_the_list_of_keys(path: Path, held: int) -> None:
    """The trail has the statements too: a holder of one of the keys gets the same verdict."""
    make(path, 5)
    rotate(path)
    rotate(path)
    make(path, 9)
    keys = [key.verifier for key in read_key_file(AuditPaths.of(path).vkey)]
    AuditPaths.of(path).vkey.unlink()
    report = verify_log(path, keys=[keys[held]])
    assert (report.verdict, report.covered_lines) == (Verdict.GOOD, 9)
    assert [note.rpartition(" ")[2] for note in report.notes if "vouches" in note] == [
        key.vkey for key in keys[held + 1 :]
    ]
    stranger = Signer(keys[0].name, Ed25519PrivateKey.generate())
    assert verify_log(path, keys=[stranger.verifier]).findings[0].kind == "KEY_UNKNOWN"


def test_an_event_that_says_it_vouches_for_a_key(path: Path) -> None:
    """Of any sender: without the signatures of both keys it says nothing."""
    make(path, 5)
    rotate(path)
    make(path, 7)
    key = read_key_file(AuditPaths.of(path).vkey)[0].verifier
    statement = str(events(path)[0]["statement"])
    other = Signer(key.name, Ed25519PrivateKey.generate()).verifier.vkey
    for text in ("", "\n\n", "a\nb\nc\n\nd", statement[:-9], statement.replace(key.vkey, other)):
        with pytest.raises(ValueError):  # noqa: PT011
            read_statement(text)
    assert read_statement(statement.partition("\n\n")[0]).before is None


def test_a_start_that_crashed_behind_the_event_writes_it_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is there, and no checkpoint covers it yet."""
    make(path, 5)
    rotate(path)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tree.AuditTree, "begin", crash)
        with pytest.raises(KeyboardInterrupt):
            make(path, 5)
    assert len(events(path)) == 1
    first = read_key_file(AuditPaths.of(path).vkey)[0].verifier
    assert verify_log(path, keys=[first]).verdict is Verdict.GOOD
    make(path, 6)
    assert len(events(path)) == 1
    assert verify_log(path, keys=[first]).verdict is Verdict.GOOD


def test_the_event_is_not_received_before_the_lines_above_it(path: Path) -> None:
    """Though the machine's clock was set back."""
    make(path, 5)
    with opened(path) as log:
        line = make_line(5, time=2 * time.time_ns())
        log.append(line + b"\n", [leaf_hash(line)])
        log.write_checkpoint()
    rotate(path)
    make(path, 7)
    report = verify_log(path)
    assert (report.lines, report.verdict) == (7, Verdict.GOOD)


def test_a_lost_key_is_not_replaced(path: Path) -> None:
    """A log that was signed has had a key: somebody has to say that a new one is meant."""
    make(path, 5)
    AuditPaths.of(path).key.unlink()
    assert "emitd audit key --rotate" in refusal(path)
    assert not AuditPaths.of(path).key.exists()


def test_a_key_of_another_kind_is_refused(path: Path, tmp_path: Path) -> None:
    """It is said what is wrong with it."""
    key = tmp_path / "rsa.pem"
    rsa = generate_private_key(65537, 2048)
    key.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "another kind than Ed25519" in refusal(path, key=key)


FAILURES = [
    (operation, end) for end in (".hashes", ".checkpoints", ".index") for operation in ("write", "sync")
]


@pytest.mark.parametrize("failing", FAILURES, ids=" of ".join)
def test_a_cover_that_fails_is_made_up_for(
    path: Path, failing: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is signed, it is said once, and the next one signs all."""
    monkeypatch.setattr(tree, "INDEX_INTERVAL_BYTES", 1)
    disk, reports = CountingDisk(), list[str]()
    with opened(path, disk, reports.append) as log:
        append(log, 0, 5)
        log.write_checkpoint()
        append(log, 5, 5)
        disk.failing = [failing, failing]
        for _ in range(2):
            log.write_checkpoint()
            assert log.tree.covered == 5
            assert "cannot be signed: Input/output error" in log.problem
        assert len([line for line in reports if "cannot be signed" in line]) == 1
        log.write_checkpoint()
        assert (log.tree.covered, log.problem) == (10, "")
    assert [each.size for each in checkpoints(path)] == [5, 10]
    assert verify_log(path).verdict is Verdict.GOOD


def test_a_cut_log_is_not_taken_back_without_a_line_that_was_acknowledged(path: Path) -> None:
    """Also where no checkpoint covers that line yet; with it, the log goes on."""
    with opened(path) as log:
        append(log, 0, 3)
        log.write_checkpoint()
        append(log, 3, 1)
        whole = path.read_bytes()
        os.truncate(path, whole.rindex(b"\n", 0, -1) + 1)
        for _ in range(5):
            log.check()
            with pytest.raises(HandlerUnavailable, match="something else cut it"):
                log.open()
        with pytest.raises(HandlerUnavailable):
            append(log, 4, 1)
        path.write_bytes(whole)
        log.open()
        assert log.problem == ""
        append(log, 4, 1)
    assert path.read_bytes().count(b"\n") == 5
    make(path)
    assert verify_log(path).verdict is Verdict.GOOD


async def test_too_many_unsigned_lines_stop_the_trail(path: Path) -> None:
    """While no checkpoint can be written, events are taken only up to `max_uncovered_lines`."""

    def event(number: int) -> LogRecord:
        return LogRecord(
            Level.AUDIT, payload=AuditEvent(f"e-{number}", "user.login", "u1", "192.0.2.1", "{}")
        )

    disk = CountingDisk()
    settings = JsonAuditSettings(path=path, max_uncovered_lines=3, checkpoint_seconds=60)
    handler = JsonAuditHandler(settings, disk=disk, report=lambda line: None)
    await handler.start()
    disk.failing = [("write", ".checkpoints")] * 2
    assert not isinstance((await handler.emit_batch([event(number) for number in range(4)]))[0], Refused)
    await handler.write_checkpoint()
    (refused,) = await handler.emit_batch([event(4)])
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, HandlerUnavailable)
    assert "4 lines wait for a checkpoint" in str(refused.error)
    disk.failing = []
    await handler.write_checkpoint()
    assert not isinstance((await handler.emit_batch([event(5)]))[0], Refused)
    await handler.stop()
    assert verify_log(path).verdict is Verdict.GOOD


def test_a_start_on_a_changed_line_leaves_what_shows_which(path: Path) -> None:
    """The hashes are those that were signed: `verify` names the line after a start as before."""
    make(path, 5, 9)
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    before = verify_log(path).findings
    for _ in range(2):
        with pytest.raises(HandlerUnavailable, match="its first 9 lines are not those that"), opened(path):
            pass
    assert [finding.kind for finding in before] == ["LINE_CHANGED"]
    assert verify_log(path).findings == before
