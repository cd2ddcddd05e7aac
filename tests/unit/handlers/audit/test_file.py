"""The file of an audit log: what a group costs, what is refused, and what a start repairs or will not touch."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitd_handlers.audit.format.files import FIRST, Entry
from emitd_handlers.audit.format.line import encode_line
from emitd_handlers.audit.write import file as audit_file
from emitd_handlers.audit.write import recovery as audit_recovery
from emitd_handlers.audit.write.file import AuditFile
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.durable.disk import Disk, FileState
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.record import AuditEvent, Level, LogRecord
from support.processes.open_files import open_under

TIME = 1_795_405_140_000_000_000


class FailingDisk(Disk):
    """Fails the calls that it is told to, once each, and notes all that count."""

    def __init__(self) -> None:
        self.failing: list[str] = []
        self.calls: list[str] = []

    def write(self, fd: int, data: memoryview) -> int:
        if "short write" in self.failing:
            self.failing.remove("short write")
            return super().write(fd, data[: len(data) // 2])
        self._note("write")
        return super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._note("truncate")
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        self._note("sync")
        super().sync(fd)

    def ensure_synced(self, fd: int, offset: int) -> None:
        self.calls.append(f"ensure_synced from {offset}")
        super().ensure_synced(fd, offset)

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.failing:
            self.failing.remove(call)
            raise OSError(5, "Input/output error")


def open_file(file: AuditFile, covered: Entry = FIRST) -> None:
    """Open a log's file as the log does."""
    file.open()
    file.recover(covered)
    if file.line_count == 0:
        file.sync_names()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.json.log"


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


def line(number: int) -> bytes:
    """A line of its own, always of the same length, with its newline."""
    event = AuditEvent(f"e-{number:06}", "user.login", "u1", "192.0.2.1", "{}")
    record = LogRecord(Level.AUDIT, time_unix_nano=TIME, received_unix_nano=TIME + number, payload=event)
    return encode_line(record) + b"\n"


def lines(*numbers: int) -> bytes:
    return b"".join(map(line, numbers))


@contextmanager
def opened(
    path: Path, disk: Disk | None = None, report: Callable[[str], None] = print
) -> Iterator[AuditFile]:
    file = AuditFile(path, disk or Disk(), report)
    open_file(file)
    try:
        yield file
    finally:
        file.close()


def refusal(path: Path) -> str:
    """Return why the log cannot be opened, in one line; nothing may be left open or locked."""
    before = open_under(path.parent)
    with pytest.raises(HandlerUnavailable) as caught:
        AuditLog(path, Disk(), print).open()
    assert open_under(path.parent) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def asides(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.damaged-*"))


def test_a_new_log_is_for_its_owner_only(tmp_path: Path) -> None:
    """Folders that are missing are made with mode 0700, the log and its id with 0600."""
    path = tmp_path / "a" / "b" / "audit.json.log"
    with opened(path) as file:
        assert (file.line_count, file.size, file.last_received_unix_nano) == (0, 0, 0)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("audit.json.log.log_id").stat().st_mode) == 0o600


def test_a_group_is_one_write_and_one_sync(path: Path, disk: FailingDisk) -> None:
    """However many lines come together, they cost one write and one sync; indexes count lines."""
    with opened(path, disk) as file:
        disk.calls.clear()
        assert file.append(lines(0, 1, 2), 3) == 0
        assert disk.calls == ["write", "sync"]
        assert file.append(lines(3), 1) == 3
        assert file.append(lines(4, 5), 2) == 4
    assert path.read_bytes() == lines(0, 1, 2, 3, 4, 5)
    stats = file.stats
    assert (stats.lines, stats.groups, stats.bytes) == (6, 3, len(lines(0, 1, 2, 3, 4, 5)))


def test_a_log_goes_on_where_it_ended(path: Path) -> None:
    """After a restart, count, size, last time and id are those of before."""
    with opened(path) as file:
        file.append(lines(0, 1), 2)
        log_id = file.log_id
    with opened(path) as file:
        assert (file.line_count, file.size) == (2, len(lines(0, 1)))
        assert file.last_received_unix_nano == TIME + 1
        assert file.log_id == log_id
        assert file.append(line(2), 1) == 2
    assert path.read_bytes() == lines(0, 1, 2)


def test_two_processes_cannot_share_a_log(path: Path) -> None:
    """While a log is open nobody else can open it, and is told so; afterwards they can."""
    with opened(path):
        assert refusal(path) == f"audit log '{path}' is in use by another process"
    with opened(path):
        pass


@pytest.mark.parametrize(
    ("good", "tail"),
    [
        ((), b'{"timestamp":"2026'),
        ((0, 1), line(2)[:-1]),
        ((0, 1), line(2)[:40]),
        ((0, 1), bytes(300)),
        ((0, 1), b"\n"),
        ((0, 1), bytes(40) + line(2)[40:]),
        ((0, 1), line(2)[:40] + bytes(20) + line(2)[60:] + line(3)),
        ((0, 1), b"{}\n" + line(2)),
        ((0, 1), line(2)[:50] + line(3)),
    ],
)
def test_what_a_crash_damaged_is_moved_aside(path: Path, good: tuple[int, ...], tail: bytes) -> None:
    """From the first damaged line on everything goes into a file beside the log; the next line stands alone."""
    path.write_bytes(lines(*good) + tail)
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    reports: list[str] = []
    with opened(path, report=reports.append) as file:
        assert (file.line_count, file.size) == (len(good), len(lines(*good)))
        assert file.stats.damaged_bytes_moved == len(tail)
        assert file.append(line(9), 1) == len(good)
    assert path.read_bytes() == lines(*good, 9)
    (aside,) = asides(path)
    assert aside.read_bytes() == tail
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert re.fullmatch(r"audit\.json\.log\.damaged-\d{8}T\d{6}Z-1", aside.name)
    assert reports == [
        f"audit log '{path}': its last {len(tail)} bytes, from a damaged line on, were moved into '{aside}'"
    ]


def test_every_damage_gets_a_file_of_its_own(path: Path) -> None:
    """Two repairs within one second do not overwrite each other's bytes."""
    for number in range(3):
        path.write_bytes(f"torn {number}".encode())
        with opened(path, report=lambda line: None):
            pass
    assert sorted(aside.read_bytes() for aside in asides(path)) == [b"torn 0", b"torn 1", b"torn 2"]


def test_a_whole_log_is_not_touched(path: Path) -> None:
    """Without damage nothing is moved and nothing is said."""
    path.write_bytes(lines(0, 1, 2))
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    reports: list[str] = []
    with opened(path, report=reports.append):
        pass
    assert path.read_bytes() == lines(0, 1, 2)
    assert (asides(path), reports) == ([], [])


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a crash reach three lines back."""
    reach = 3 * len(line(0))
    for module in (audit_recovery, audit_file):
        monkeypatch.setattr(module, "MAX_GROUP_BYTES", reach)
    return reach


def test_what_a_crash_can_have_left_is_settled_first(
    path: Path, disk: FailingDisk, small_groups: int
) -> None:
    """Before the last lines are trusted, those of one group are read from the medium itself."""
    path.write_bytes(lines(0, 1, 2, 3, 4))
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    with opened(path, disk):
        assert disk.calls == [f"ensure_synced from {len(lines(0, 1))}", "sync"]


def test_damage_is_cut_up_to_the_reach_of_a_crash(path: Path, small_groups: int) -> None:
    """A damaged line that starts exactly as far back as one group reaches is moved aside."""
    torn = bytes(10) + line(5)[10:]
    path.write_bytes(lines(0, 1, 2, 3, 4) + torn + lines(6, 7))
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    with opened(path, report=lambda line: None) as file:
        assert file.line_count == 5
    assert asides(path)[0].read_bytes() == torn + lines(6, 7)


def test_damage_further_back_is_never_cut(path: Path, small_groups: int) -> None:
    """Where no line ends within reach, the start fails with the offset and changes nothing."""
    content = line(0) + bytes(small_groups + 1)
    path.write_bytes(content)
    assert f"is damaged at byte {len(content) - small_groups - 1}, further back than" in refusal(path)
    assert path.read_bytes() == content
    assert asides(path) == []


def test_a_damaged_line_before_the_reach_is_never_cut(path: Path, small_groups: int) -> None:
    """A last line that starts before the reach, and cannot be read, makes the start fail with its offset."""
    before = line(0) + line(1)[:-2] + b"\n"
    path.write_bytes(before + bytes(small_groups - 1))
    assert f"is damaged at byte {len(line(0))}, further back than" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "failing", [["write"], ["short write", "write"], ["sync"], ["short write", "sync"]], ids=" then ".join
)
def test_a_group_that_fails_leaves_nothing(path: Path, disk: FailingDisk, failing: list[str]) -> None:
    """After a failed write or sync the file ends where it did, that group is refused, and the next one is not."""
    reports: list[str] = []
    with opened(path, disk, reports.append) as file:
        file.append(lines(0, 1), 2)
        for _ in range(2):
            disk.failing = list(failing)
            with pytest.raises(HandlerUnavailable, match=r"cannot be written: Input/output error$"):
                file.append(lines(2, 3), 2)
            assert path.read_bytes() == lines(0, 1)
            assert disk.calls[-2:] == ["truncate", "sync"]
        assert len(reports) == 1, "the operator is told once, not for each group"
        assert file.append(lines(4, 5), 2) == 2
        disk.failing = ["sync"]
        with pytest.raises(HandlerUnavailable):
            file.append(line(6), 1)
        assert len(reports) == 2
    assert path.read_bytes() == lines(0, 1, 4, 5)
    assert (file.stats.lines, file.stats.groups, file.stats.failed_groups) == (4, 2, 3)


def test_short_writes_are_made_up_for(path: Path, disk: FailingDisk) -> None:
    """A write that takes only half is followed by another, and the group is whole."""
    with opened(path, disk) as file:
        disk.failing = ["short write", "short write"]
        file.append(lines(0, 1), 2)
    assert path.read_bytes() == lines(0, 1)


@pytest.mark.parametrize("failing", [["sync", "truncate"], ["sync", "sync"]], ids=" and ".join)
def test_nothing_is_written_behind_pages_whose_sync_failed(
    path: Path, disk: FailingDisk, failing: list[str]
) -> None:
    """If the cut fails too, or is not sure, it is made up for before the next group is written, or that is refused."""
    with opened(path, disk, lambda line: None) as file:
        file.append(line(0), 1)
        disk.failing = list(failing)
        with pytest.raises(HandlerUnavailable):
            file.append(line(1), 1)
        disk.failing = ["truncate"]
        disk.calls.clear()
        with pytest.raises(HandlerUnavailable):
            file.append(line(2), 1)
        assert "write" not in disk.calls
        disk.calls.clear()
        assert file.append(line(3), 1) == 1
        assert (disk.calls[-2:], file.line_count) == (["write", "sync"], 2)
    assert path.read_bytes() == lines(0, 3)


def delete(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def put_a_copy_in_its_place(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, len(line(0)))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def append_a_line(path: Path) -> None:
    with path.open("ab") as file:
        file.write(line(8))


def protect(path: Path) -> None:
    path.chmod(0o400)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (delete, "its file was deleted or renamed"),
        (rename, "its file was deleted or renamed"),
        (put_a_copy_in_its_place, "another file was put in its place"),
        (cut, "something else cut its file"),
        (empty, "something else cut its file"),
        (append_a_line, "something else wrote to its file"),
        (protect, "its file may no longer be written"),
    ],
)
def test_a_file_that_somebody_touched_takes_nothing(
    path: Path, change: Callable[[Path], None], reason: str
) -> None:
    """Nothing is acknowledged once the file is not where it was, or not as it was, also not later."""
    with opened(path, report=lambda line: None) as file:
        file.append(lines(0, 1), 2)
        change(path)
        for number in range(2, 5):
            with pytest.raises(HandlerUnavailable, match=re.escape(reason)):
                file.append(line(number), 1)
        assert (file.line_count, file.stats.lines) == (2, 2)


def test_a_file_that_somebody_cut_is_not_filled_up(path: Path, disk: FailingDisk) -> None:
    """When a write fails after somebody else has cut the file, it is not made longer with zeros."""
    with opened(path, disk, lambda line: None) as file:
        file.append(lines(0, 1), 2)
        empty(path)
        disk.failing = ["write"]
        with pytest.raises(HandlerUnavailable):
            file.append(line(2), 1)
        with pytest.raises(HandlerUnavailable, match=r"something else cut its file"):
            file.append(line(3), 1)
    assert path.read_bytes() == b""


def test_a_protected_log_waits(path: Path) -> None:
    """Nothing is taken while the file must not be written; as soon as it may, all goes on."""
    with opened(path, report=lambda line: None) as file:
        file.append(line(0), 1)
        protect(path)
        for _ in range(3):
            file.check()
            assert "may no longer be written" in file.problem
        with pytest.raises(HandlerUnavailable):
            file.append(line(1), 1)
        path.chmod(0o600)
        file.check()
        assert file.append(line(2), 1) == 1
    assert path.read_bytes() == lines(0, 2)


def test_a_full_disk_is_tried_again(path: Path, disk: FailingDisk) -> None:
    """While writing fails the log says so; a look finds out by itself when it works again, and leaves no trace."""
    reports: list[str] = []
    with opened(path, disk, reports.append) as file:
        file.append(line(0), 1)
        disk.failing = ["write"]
        with pytest.raises(HandlerUnavailable):
            file.append(line(1), 1)
        for _ in range(2):
            disk.failing = ["write"]
            with pytest.raises(OSError, match="Input/output error"):
                file.check()
        file.check()
        assert file.problem == ""
        assert reports[-1].endswith("can be written again")
        assert path.read_bytes() == line(0)
        assert file.append(line(2), 1) == 1


def test_covered_lines_are_never_cut(path: Path) -> None:
    """Damage before the end of what a checkpoint covers is no crash's; only what comes behind it is looked at."""
    path.write_bytes(line(0) + b"damaged\n" + line(2) + b"torn")
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    covered = Entry(2, len(line(0)) + len(b"damaged\n"))
    file = AuditFile(path, Disk(), lambda line: None)
    open_file(file, covered)
    assert file.line_count == 3
    file.close()
    assert path.read_bytes() == line(0) + b"damaged\n" + line(2)


def test_last_lines_come_backward(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines come with their indexes and offsets, however they lie over the blocks read."""
    path.write_bytes(lines(*range(40)))
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    expected = [(number, number * len(line(0)), line(number)[:-1]) for number in range(39, -1, -1)]
    with opened(path) as file:
        for block in range(len(line(0)) + 1, 5 * len(line(0))):
            monkeypatch.setattr(audit_recovery, "BLOCK_BYTES", block)
            assert list(file.last_lines(100)) == expected
        for limit in (0, 1, 39, 40):
            assert list(file.last_lines(limit)) == expected[:limit]


def test_last_lines_stop_at_what_cannot_be_a_line(path: Path, small_groups: int) -> None:
    """A megabyte without the end of a line, far back, is named and not searched further."""
    path.write_bytes(line(0) + bytes(3 * audit_recovery.BLOCK_BYTES) + b"\n" + lines(1, 2, 3, 4))
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    with opened(path) as file:
        found = file.last_lines(10)
        assert [index for index, _, _ in [next(found) for _ in range(4)]] == [5, 4, 3, 2]
        with pytest.raises(HandlerUnavailable, match=r"is damaged at byte \d+, further back"):
            next(found)


def test_lines_are_counted_over_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is right wherever the blocks of the count end."""
    monkeypatch.setattr(audit_file, "COUNT_BLOCK_BYTES", 100)
    path.write_bytes(lines(*range(25)))
    path.with_name("audit.json.log.log_id").write_bytes(b"log\n")
    with opened(path) as file:
        assert file.line_count == 25


def test_the_id_is_made_once(path: Path) -> None:
    """A log keeps the id of its first start, which no other log has."""
    ids = set()
    for name in ("a", "b"):
        for _ in range(2):
            with opened(path.with_name(name)) as file:
                ids.add(file.log_id)
    assert len(ids) == 2
    assert all(re.fullmatch(r"emitd\.local/[0-9a-f-]{36}", log_id) for log_id in ids)


def test_a_configured_id_is_taken(path: Path) -> None:
    """With an id from the configuration none is made and none is kept."""
    file = AuditFile(path, Disk(), print, log_id="example.com/audit")
    open_file(file)
    file.append(line(0), 1)
    file.close()
    assert file.log_id == "example.com/audit"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kept", [None, b"", b"emitd.local/0190", b"\0\0\0\n", b"two words\n"])
def test_a_log_with_lines_needs_its_id(path: Path, kept: bytes | None) -> None:
    """A log that has lost its id does not start under another one."""
    path.write_bytes(line(0))
    id_path = path.with_name("audit.json.log.log_id")
    if kept is not None:
        id_path.write_bytes(kept)
    assert refusal(path).startswith(f"audit log '{path}' has lines, but its id is not in '{id_path}'")
    assert id_path.exists() == (kept is not None)


@pytest.mark.parametrize("kept", [b"", b"emitd.local/0190", b"\0\0\0\n"])
def test_a_torn_id_of_an_empty_log_is_made_anew(path: Path, kept: bytes) -> None:
    """A crash while the id was written, before there was any line, does no harm."""
    path.touch()
    path.with_name("audit.json.log.log_id").write_bytes(kept)
    with opened(path) as file:
        first = file.log_id
    with opened(path) as file:
        assert file.log_id == first


def test_a_new_log_is_not_taken_for_one_that_was_deleted(path: Path) -> None:
    """A log begun where another one was gets an id of its own, and the operator is told both."""
    with opened(path) as file:
        file.append(line(0), 1)
        old = file.log_id
    path.unlink()
    reports: list[str] = []
    with opened(path, report=reports.append) as file:
        assert file.log_id != old
        assert file.line_count == 0
    assert len(reports) == 1
    assert old in reports[0]
    assert file.log_id in reports[0]


def test_errors_at_start_name_the_log_and_the_cause(tmp_path: Path) -> None:
    """A path that cannot be opened gives one line with both."""
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "audit.json.log"
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    assert refusal(inside).startswith(f"audit log '{inside}' cannot be opened: Not a directory: '")
    assert refusal(folder) == f"audit log '{folder}' cannot be opened: Is a directory: '{folder}'"
    assert refusal(pipe) == f"audit log '{pipe}' cannot be opened: not a regular file: '{pipe}'"
    with pytest.raises(
        HandlerUnavailable,
        match=r"^audit log '/dev/null' cannot be opened: not a regular file: '/dev/null'$",
    ):
        AuditLog(Path("/dev/null"), Disk(), print).open()


class FoldersDisk(Disk):
    """Has a mount point or a forbidden folder somewhere, and notes which folders are synced."""

    def __init__(self, *, mount: Path | None = None, forbidden: Path | None = None) -> None:
        self.mount = mount
        self.forbidden = forbidden
        self.synced: list[Path] = []

    def state_at(self, path: Path) -> FileState | None:
        state = super().state_at(path)
        is_above = self.mount is not None and path in self.mount.parents
        return state._replace(device=state.device + 1) if state and is_above else state

    def sync_directory(self, path: Path) -> None:
        if path == self.forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        self.synced.append(path)


def test_all_folders_of_an_empty_log_are_synced(tmp_path: Path) -> None:
    """Until it has a line, a log's name and those of its folders are made sure of at each start."""
    path = tmp_path / "a" / "b" / "audit.json.log"
    for _ in range(2):
        disk = FoldersDisk(mount=tmp_path)
        with opened(path, disk):
            pass
        assert disk.synced == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
    with opened(path) as file:
        file.append(line(0), 1)
    with opened(path, disk := FoldersDisk()):
        assert disk.synced == []


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    """A folder further up that may not be opened is not one in which emitd has made anything."""
    path = tmp_path / "a" / "audit.json.log"
    with opened(path, disk := FoldersDisk(forbidden=tmp_path)):
        assert disk.synced == [tmp_path / "a"]
    with pytest.raises(HandlerUnavailable, match=r"cannot be opened: Permission denied"):
        AuditLog(path, FoldersDisk(forbidden=tmp_path / "a"), print).open()


def test_close_without_open(path: Path) -> None:
    """`close` is harmless before `open`, and twice."""
    file = AuditFile(path, Disk(), print)
    file.close()
    open_file(file)
    file.close()
    file.close()


class SmallDisk(FailingDisk):
    """Has `free` bytes left of `total`."""

    free, total = 0, 0

    def room(self, fd: int) -> tuple[int, int]:
        return self.free, self.total


@pytest.mark.parametrize("total", [2**40, 16_000_000], ids=["large", "small"])
def test_the_last_bytes_of_a_disk_are_not_for_the_log(tmp_path: Path, total: int) -> None:
    """It takes lines again when there is room; of a small disk the reserve is a sixteenth."""
    said: list[str] = []
    disk = SmallDisk()
    file = AuditFile(tmp_path / "a", disk, said.append)
    disk.free, disk.total = total, total
    open_file(file)
    file.min_free_bytes = 64_000_000
    reserve = min(64_000_000, total // 16)
    disk.free = reserve + 10
    assert file.append(b"1234567890"[:-1] + b"\n", 1) == 0
    disk.free = reserve + 9
    with pytest.raises(HandlerUnavailable, match=r"less than server\.limits\.min_free_bytes would be free"):
        file.append(b"123456789\n", 1)
    with pytest.raises(OSError, match="No space left"):
        file.check()
    assert file.line_count == 1
    assert file.problem
    disk.free = reserve + 10**6
    file.check()
    assert not file.problem
    assert file.append(b"x\n", 1) == 1
    assert [line.split("/")[-1] for line in said] == [
        "a' cannot be written: No space left on device: less than server.limits.min_free_bytes would be free",
        "a' can be written again",
    ]
    file.close()
