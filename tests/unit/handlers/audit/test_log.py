"""A log that another process touches while it is open: what is saved, what is taken back, and what is said."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitd_handlers.audit.format.files import AuditPaths, split_notes
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_handlers.tlog.note import Verifier
from support.audit.sealed_log import make_line
from support.audit.simulated_disk import SimulatedDisk


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


def check(log: AuditLog, times: int = 2) -> str:
    """Look at the log, and try to open it again if it is down, as the service does; return why that failed."""
    refusal = ""
    for _ in range(times):
        log.check()
        if log.is_down:
            try:
                log.open()
            except HandlerUnavailable as error:
                refusal = str(error)
    return refusal


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
    with pytest.raises(HandlerUnavailable, match="takes no records"):
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
    """Each line is held against the last checkpoint; the refusal says why, and nothing is signed over it."""
    with opened(path, reports) as log:
        append(log, 40)
        log.write_checkpoint()
        whole, signed = path.read_bytes(), notes(path)
        overwrite(path, b"")
        check(log)
        assert_refuses(log)
        changed = whole.replace(b'"user-3"', b'"user-4"', 1) + made(40, 1)
        overwrite(path, changed)
        assert "has 40 acknowledged lines, and these are 40, or others" in check(log)
        assert_refuses(log)
        assert path.read_bytes() == changed
        assert notes(path) == signed
        overwrite(path, whole)
        check(log)
        assert log.problem == ""
        append(log, 1)
    assert path.read_bytes() == made(0, 41)


def test_a_copy_that_still_comes_is_waited_for(path: Path, reports: list[str]) -> None:
    """While another process copies the whole file back, what is there so far is neither taken nor changed."""
    with opened(path, reports) as log:
        append(log, 20)
        whole = path.read_bytes()
        overwrite(path, b"")
        check(log)
        with path.open("ab", buffering=0) as file:
            for start in range(0, len(whole), 700):
                check(log, 1)
                assert path.read_bytes() == whole[:start]
                file.write(whole[start : start + 700])
        check(log, 1)
        assert log.problem == ""
        append(log, 1)
    assert path.read_bytes() == made(0, 21)


def test_lines_that_were_never_signed_are_still_known(path: Path, reports: list[str]) -> None:
    """While no checkpoint can be written, the hashes in memory are all that knows the last lines."""
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
            check(log, 1)
        assert log.problem == ""
        assert (log.file.line_count, log.tree.covered) == (0, 0)
        assert log.file.log_id != old_id
        append(log, 2)
        log.write_checkpoint()
    assert path.read_bytes() == made(0, 2)
    assert verify_log(path).verdict is Verdict.GOOD


def test_one_log_id_never_gets_two_trees(path: Path, reports: list[str]) -> None:
    """Where the configuration gives the id, a log that was cut is not begun again while the service runs."""
    with opened(path, reports, log_id="example.com/log") as log:
        append(log, 3)
        os.truncate(path, 5)
        check(log)
        evidence = path.parent.parent / "evidence"
        move_away(files_of(path), evidence)
        assert "'example.com/log' has 3 acknowledged lines, and these are 0" in check(log)
        assert_refuses(log)
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
        check(log, 1)
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


def remove(path: Path) -> None:
    path.unlink()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def rename_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def put_file_for_folder(path: Path) -> None:
    rename_folder(path)
    path.parent.symlink_to("nowhere")
    path.parent.unlink()
    path.parent.mkdir()
    path.mkdir()


def rotate(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.1"))


def copy_and_cut(path: Path) -> None:
    shutil.copy(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"mine\n")


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("copy")
    shutil.copy(path.with_name("moved"), path.with_name("copy"))


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"foreign\n")


KINDS = ("index", "hashes", "checkpoints", "key", "vkey", "log_id")
HARMS: dict[str, Callable[[Path], None]] = {
    **{each.__name__: each for each in (remove, remove_folder, rename_folder, put_file_for_folder)},
    **{each.__name__: each for each in (rotate, copy_and_cut, replace, replace_by_link, put_folder, grow)},
    **{f"{kind} removed": lambda path, kind=kind: remove(companion(path, kind)) for kind in KINDS},
    **{f"{kind} grown": lambda path, kind=kind: grow(companion(path, kind)) for kind in KINDS},
    **{
        f"{kind} cut": lambda path, kind=kind: os.truncate(companion(path, kind), 0)
        for kind in KINDS
        if kind != "index"
    },
}


def companion(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}")


def run_advice(line: str) -> None:
    subprocess.run(line.split("run: ")[1], shell=True, check=True)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("is_written_to", [True, False], ids=["written to", "idle"])
def test_a_displaced_log_is_saved_and_never_put_back(
    path: Path, reports: list[str], harm: str, is_written_to: bool
) -> None:
    """It goes down at once, is said once, and goes on when the operator has run the command, with all its lines."""
    with opened(path, reports) as log:
        append(log, 30)
        log.write_checkpoint()
        append(log, 5)  # not signed yet
        log_id, vkey = log.file.log_id, log.vkey
        HARMS[harm](path)
        if is_written_to and "removed" not in harm and "cut" not in harm and " grown" not in harm:
            with pytest.raises(HandlerUnavailable):
                append(log, 1)
        before = path.parent.exists() and sorted(path.parent.glob(f"{path.name}*"))
        check(log, 1)
        said = log.problem
        assert "takes no records" in said
        check(log, 2)
        with pytest.raises(HandlerUnavailable) as again:
            log.open()
        assert str(again.value) == log.problem == said
        assert_refuses(log)
        after = [each for each in files_of(path) if ".recovery-" not in each.name]
        assert after == (before or []), "something was put back"
        run_advice(said)
        check(log, 1)
        assert log.problem == ""
        assert (log.file.line_count, log.file.log_id, log.vkey) == (35, log_id, vkey)
        append(log, 1)
        log.write_checkpoint()
    assert path.read_bytes() == made(0, 36)
    assert verify_log(path, keys=[Verifier.from_vkey(vkey)]).verdict is Verdict.GOOD


def test_a_log_is_not_begun_while_another_one_waits_to_be_put_back(path: Path, reports: list[str]) -> None:
    """Neither by a start after a kill, nor by another process; each of them names the command."""
    with opened(path, reports) as log:
        append(log, 3)
        remove_folder(path)
        check(log)
    other = AuditLog(path, Disk(), reports.append)
    with pytest.raises(
        HandlerUnavailable, match=r"was displaced\. All of it is in .* To put it back, run: "
    ) as caught:
        other.open()
    assert not path.exists()
    run_advice(str(caught.value))
    with opened(path, reports) as log:
        assert log.file.line_count == 3


def test_a_displaced_log_never_fights_the_holder_of_the_lock(path: Path, reports: list[str]) -> None:
    """A log that another process has begun in its place goes on; this one waits, also after the command."""
    with opened(path, reports) as log:
        append(log, 3)
        remove_folder(path)
        rival_reports: list[str] = []
        with opened(path, rival_reports) as rival:
            append(rival, 1)
            check(log, 3)
            assert_refuses(log)
            append(rival, 1)
            check(rival, 1)
            assert rival.problem == ""
            run_advice(log.problem)
            check(rival, 1)
            assert "takes no records" in rival.problem
        check(log, 1)
        assert_refuses(log)  # the rival's lines wait to be put back now
    saved = [each.read_bytes() for each in path.parent.glob("*.recovery-*/audit.json.log")]
    assert saved == [made(0, 2)]
    assert path.read_bytes() == made(0, 3)


def test_a_recovery_that_cannot_be_written_is_said_once(path: Path, reports: list[str]) -> None:
    """It is tried again at each check, without a word to the operator, until it works; no halves pile up."""
    disk = FailingDisk()
    with opened(path, reports, disk) as log:
        append(log, 3)
        disk.failing = ".recovery-"
        path.unlink()
        check(log, 5)
        assert "its recovery cannot be written: No space left" in log.problem
        assert len([line for line in reports if "takes no records" in line]) == 1
        assert len(list(path.parent.glob("*.recovery-*"))) == 1
        disk.failing = ""
        check(log)
        run_advice(log.problem)
        check(log, 1)
        assert log.problem == ""
    assert path.read_bytes() == made(0, 3)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_said_to_be_saved_survives_a_power_cut(seed: int) -> None:
    """The folder, its names and their content are on the medium before the operator hears of them."""
    path = Path("/logs/audit.json.log")
    disk = SimulatedDisk(random.Random(seed))
    log = AuditLog(path, disk, lambda line: None)  # type: ignore[arg-type]
    log.open()
    append(log, 40)
    for name in disk.names(path.parent):
        disk.remove(path.with_name(name))
    check(log, 1)
    assert "All of it is in" in log.problem
    disk.power_cut()
    (folder,) = [name for name in disk.names(path.parent) if ".recovery-" in name]
    assert disk.content(path.parent / folder / path.name) == made(0, 40)
    assert len(disk.names(path.parent / folder)) == len(AuditPaths.__struct_fields__)


def test_a_late_copy_is_named_and_not_taken(path: Path, reports: list[str]) -> None:
    """Lines that came between copy and cut are lost; the command begins a new log, and keeps all that is left."""
    with opened(path, reports) as log:
        append(log, 3)
        shutil.copy(path, path.with_name("audit.json.log.1"))
        append(log, 1)
        old_id = log.file.log_id
        os.truncate(path, 0)
        check(log)
        assert f"The likely copy is '{path}.1'" in log.problem
        assert f"lines of {len(made(3, 1))} bytes that came between copy and cut are lost" in log.problem
        run_advice(log.problem)
        check(log, 1)
        assert (log.problem, log.file.line_count) == ("", 0)
        assert log.file.log_id != old_id
    (kept,) = path.parent.glob("*.displaced-*")
    assert (kept / "audit.json.log.1").read_bytes() == made(0, 3)


@pytest.mark.parametrize("kind", ["hashes", "checkpoints"])
def test_a_companion_that_may_not_be_written_is_waited_for(path: Path, reports: list[str], kind: str) -> None:
    """Lines are committed and not signed, that is said, and they are signed as soon as that may be."""
    with opened(path, reports) as log:
        append(log, 3)
        log.write_checkpoint()
        companion(path, kind).chmod(0o400)
        append(log, 2)
        for _ in range(2):
            log.write_checkpoint()
            check(log, 1)
        assert log.problem.endswith("cannot be signed: its file may no longer be written")
        assert len([line for line in reports if "cannot be signed" in line]) == 1
        companion(path, kind).chmod(0o600)
        log.write_checkpoint()
        assert (log.problem, log.tree.covered) == ("", 5)
