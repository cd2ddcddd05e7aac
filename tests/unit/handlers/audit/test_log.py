"""A log that somebody touches while it is open: what is mended, what is taken back, and what is said."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitd_handlers.audit.format.files import AuditPaths, split_notes
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.audit.write.file import CHECKS_BEFORE_MENDING
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_handlers.tlog.note import Verifier
from support.audit.sealed_log import make_line


class FailingDisk(Disk):
    """Fails each write of files whose name holds a text, and counts files that were made."""

    def __init__(self) -> None:
        self.failing = ""

    def write(self, fd: int, data: memoryview) -> int:
        if self.failing and self.failing in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(28, "No space left on device")
        return super().write(fd, data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "audit.json.log"


@pytest.fixture
def reports() -> list[str]:
    return []


@contextmanager
def opened(
    path: Path, reports: list[str], disk: Disk | None = None, *, log_id: str = ""
) -> Iterator[AuditLog]:
    log = AuditLog(path, disk or Disk(), reports.append, log_id=log_id)
    log.open()
    try:
        yield log
    finally:
        log.close()


def made(first: int, count: int, *, user: str = "") -> bytes:
    return b"".join(make_line(number, user=user) + b"\n" for number in range(first, first + count))


def append(log: AuditLog, count: int) -> None:
    lines = made(log.file.line_count, count)
    log.append(lines, list(map(leaf_hash, lines.splitlines())))


def check(log: AuditLog, times: int = CHECKS_BEFORE_MENDING + 2) -> None:
    for _ in range(times):
        log.check()


def overwrite(path: Path, content: bytes) -> None:
    """Change a file in place, as an editor or `cp` does."""
    os.truncate(path, 0)
    with path.open("ab") as file:
        file.write(content)


def move_away(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in files:
        file.rename(folder / file.name)


def files_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


def notes(path: Path) -> list[bytes]:
    return [note for _, note in split_notes(AuditPaths.of(path).checkpoints.read_bytes())]


def assert_refuses(log: AuditLog) -> None:
    with pytest.raises(HandlerUnavailable, match="acknowledged lines are lost"):
        log.append(b"x\n", [bytes(32)])


def test_other_lines_are_not_taken_for_those_acknowledged(path: Path, reports: list[str]) -> None:
    """Also where no checkpoint had covered them and there are as many: what was acknowledged is signed first."""
    with opened(path, reports) as log:
        append(log, 3)
        log.write_checkpoint()
        append(log, 2)
        whole = path.read_bytes()
        overwrite(path, made(0, 3) + made(3, 2, user="mallory"))
        check(log)
        assert_refuses(log)
        overwrite(path, whole)
        check(log)
        append(log, 1)
        log.write_checkpoint()
    assert path.read_bytes() == made(0, 6)
    assert verify_log(path).verdict is Verdict.GOOD
    assert len(notes(path)) == 3


def test_a_copy_that_was_changed_is_not_taken_back(path: Path, reports: list[str]) -> None:
    """Each line is held against the last checkpoint; why it will not do is said once, and nothing is signed over it."""
    with opened(path, reports) as log:
        append(log, 40)
        log.write_checkpoint()
        whole, signed = path.read_bytes(), notes(path)
        overwrite(path, b"")
        check(log)
        assert_refuses(log)
        reports.clear()
        changed = whole.replace(b'"user-3"', b'"user-4"', 1) + made(40, 1)
        overwrite(path, changed)
        check(log)
        assert_refuses(log)
        (said,) = reports
        assert "are not taken" in said
        assert "its first 40 lines are not those" in said
        assert path.read_bytes() == changed
        assert notes(path) == signed
        overwrite(path, whole)
        check(log)
        assert log.problem == ""
        append(log, 1)
    assert path.read_bytes() == made(0, 41)


def test_a_copy_that_still_comes_is_waited_for(path: Path, reports: list[str]) -> None:
    """While somebody copies the whole file back, what is there so far is neither taken nor changed."""
    with opened(path, reports) as log:
        append(log, 20)
        whole = path.read_bytes()
        overwrite(path, b"")
        check(log)
        with path.open("ab", buffering=0) as file:
            for start in range(0, len(whole), 700):
                log.check()
                assert path.read_bytes() == whole[:start]
                file.write(whole[start : start + 700])
        log.check()
        assert log.problem == ""
        append(log, 1)
    assert path.read_bytes() == made(0, 21)


def test_a_log_is_not_opened_again_before_all_of_it_is_signed(path: Path, reports: list[str]) -> None:
    """As long as that cannot be, the hashes in memory are all that knows the last lines."""
    disk = FailingDisk()
    with opened(path, reports, disk) as log:
        append(log, 3)
        log.write_checkpoint()
        append(log, 2)
        whole = path.read_bytes()
        disk.failing = ".checkpoints"
        overwrite(path, made(0, 3) + made(3, 2, user="mallory"))
        check(log)
        assert_refuses(log)
        disk.failing = ""
        check(log)
        assert_refuses(log)
        overwrite(path, whole)
        check(log)
        assert log.problem == ""


def test_a_log_that_was_cut_and_deleted_makes_room_for_a_new_one(path: Path, reports: list[str]) -> None:
    """As soon as all of its files are moved away, however slowly that is done, and not before."""
    with opened(path, reports) as log:
        append(log, 3)
        old_id = log.file.log_id
        os.truncate(path, 5)
        path.rename(path.with_name("elsewhere"))
        check(log)
        assert_refuses(log)
        for file in files_of(path):
            assert not path.exists()
            move_away([file], path.parent.parent / "evidence")
            log.check()
        assert log.problem == ""
        assert (log.file.line_count, log.tree.covered) == (0, 0)
        assert log.file.log_id != old_id
        append(log, 2)
        log.write_checkpoint()
    assert path.read_bytes() == made(0, 2)
    assert verify_log(path).verdict is Verdict.GOOD
    assert f"goes on as '{log.file.log_id}', with 0 lines" in reports[-1]


def test_one_log_id_never_gets_two_trees(path: Path, reports: list[str]) -> None:
    """Where the configuration gives the id, a log that was cut is not begun anew while the service runs."""
    with opened(path, reports, log_id="example.com/log") as log:
        append(log, 3)
        os.truncate(path, 5)
        check(log)
        evidence = path.parent.parent / "evidence"
        move_away(files_of(path), evidence)
        check(log)
        assert_refuses(log)
        assert "lacks 3 lines that were signed as 'example.com/log'" in reports[-1]
        path.write_bytes(made(0, 3, user="mallory"))
        check(log)
        assert_refuses(log)
        assert notes(path) == []
        for file in evidence.iterdir():
            file.rename(path.parent / file.name)
        overwrite(path, made(0, 3))
        check(log)
        assert log.problem == ""
        append(log, 1)
    assert path.read_bytes() == made(0, 4)
    assert verify_log(path).verdict is Verdict.GOOD


def test_nothing_is_signed_between_the_loss_and_the_return(path: Path, reports: list[str]) -> None:
    """A log without files has nothing to sign, and no reason of its own not to be healthy afterwards."""
    with opened(path, reports) as log:
        append(log, 3)
        os.truncate(path, 5)
        check(log)
        log.write_checkpoint()
        move_away(files_of(path), path.parent.parent / "evidence")
        log.write_checkpoint()
        log.check()
        log.write_checkpoint()
        assert log.problem == ""
    assert not [line for line in reports if "cannot be signed" in line]


def test_a_log_can_be_lost_twice(path: Path, reports: list[str]) -> None:
    """The second time goes like the first."""
    with opened(path, reports) as log:
        for count in (3, 4):
            append(log, count)
            whole = path.read_bytes()
            overwrite(path, whole[: len(whole) // 2])
            check(log)
            assert_refuses(log)
            overwrite(path, whole)
            check(log)
            assert log.problem == ""
    assert path.read_bytes() == made(0, 7)


def test_a_folder_that_was_removed_is_made_again(path: Path, reports: list[str]) -> None:
    """All lines come back into it, and so do hashes and checkpoints with the next line that is signed."""
    with opened(path, reports) as log:
        append(log, 3)
        log.write_checkpoint()
        vkey = log.vkey
        for file in files_of(path):
            file.unlink()
        path.parent.rmdir()
        check(log)
        assert log.problem == ""
        append(log, 2)
        log.write_checkpoint()
        assert log.problem == ""
    assert path.read_bytes() == made(0, 5)
    assert verify_log(path, keys=[Verifier.from_vkey(vkey)]).verdict is Verdict.GOOD


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "failing", "words"),
    [
        (Path.unlink, ".recovered-", "was deleted or renamed, and its copy cannot be written: No space left"),
        (put_folder, "", "was put in its place, and its copy cannot be written: Operation not permitted"),
    ],
    ids=["no room", "a folder"],
)
def test_what_cannot_be_mended_yet_is_said_once(
    path: Path, reports: list[str], harm: Callable[[Path], None], failing: str, words: str
) -> None:
    """Twice a second it is tried again, without a word to the operator, until it works."""
    disk = FailingDisk()
    with opened(path, reports, disk) as log:
        append(log, 3)
        disk.failing = failing
        harm(path)
        check(log, 8)
        assert [line for line in reports if words in line] == [log.problem]
        assert len([line for line in reports if "takes no records" in line]) == 2
        disk.failing = ""
        if path.is_dir():
            path.rmdir()
        log.check()
        assert log.problem == ""
        append(log, 1)
    assert path.read_bytes() == made(0, 4)


def test_foreign_bytes_are_not_copied_in_halves(path: Path, reports: list[str]) -> None:
    """While there is no room for what others wrote, it stays where it is, and no copies pile up."""
    disk = FailingDisk()
    with opened(path, reports, disk) as log:
        append(log, 3)
        with path.open("ab") as file:
            file.write(b"foreign\n")
        disk.failing = ".foreign-"
        check(log, 6)
        assert "its copy cannot be written" in log.problem
        assert list(path.parent.glob("*.foreign-*")) == []
        disk.failing = ""
        log.check()
        append(log, 1)
    assert path.read_bytes() == made(0, 4)
    assert [file.read_bytes() for file in path.parent.glob("*.foreign-*")] == [b"foreign\n"]


@pytest.mark.parametrize("kind", ["hashes", "checkpoints", "index"])
def test_what_others_wrote_to_a_companion_is_moved_out(
    path: Path, reports: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log goes on being signed, and the foreign bytes are kept."""
    monkeypatch.setattr("emitd_handlers.audit.write.tree.INDEX_INTERVAL_BYTES", 1)
    with opened(path, reports) as log:
        append(log, 3)
        log.write_checkpoint()
        companion: Path = getattr(log.paths, kind)
        with companion.open("ab") as file:
            file.write(b"foreign\n")
        append(log, 3)
        log.write_checkpoint()
        assert (log.problem, log.tree.covered) == ("", 6)
    assert [file.read_bytes() for file in path.parent.glob(f"*.{kind}.foreign-*")] == [b"foreign\n"]
    assert verify_log(path).verdict is Verdict.GOOD


@pytest.mark.parametrize("kind", ["hashes", "checkpoints"])
def test_a_companion_that_was_cut_waits_for_a_restart(path: Path, reports: list[str], kind: str) -> None:
    """Lines are committed and not signed, and that is said; the next start makes up for it."""
    with opened(path, reports) as log:
        append(log, 3)
        log.write_checkpoint()
        append(log, 2)
        log.write_checkpoint()
        companion: Path = getattr(log.paths, kind)
        os.truncate(companion, companion.stat().st_size // 2)
        append(log, 1)
        for _ in range(3):
            log.write_checkpoint()
        assert log.problem.endswith("cannot be signed: something else cut its file")
        assert log.tree.covered == 5
    assert len([line for line in reports if "cannot be signed" in line]) == 1
    with opened(path, reports) as log:
        assert (log.problem, log.tree.covered) == ("", 6)
    assert verify_log(path).verdict is Verdict.GOOD
