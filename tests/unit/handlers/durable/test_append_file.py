"""The file under lines, hashes and checkpoints: what counts, and how it gets its name back."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from emitd_handlers.durable.append_file import (
    TAIL_BYTES,
    Displacement,
    DurableFile,
    FileDisplaced,
    create_next_to,
)
from emitd_handlers.durable.disk import Disk
from support.audit.simulated_disk import SimulatedDisk

CONTENT = b"".join(b"line %d\n" % number for number in range(20))
INTRUDER = b"not ours\n"


class FailingDisk(Disk):
    """Fails one operation, given as its name and how many times it succeeds before."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}

    def create(self, path: Path) -> int:
        self._pass("create")
        return super().create(path)

    def write(self, fd: int, data: memoryview) -> int:
        self._pass("write")
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._pass("sync")
        super().sync(fd)

    def link(self, source: Path, target: Path) -> None:
        self._pass("link")
        super().link(source, target)

    def remove(self, path: Path) -> None:
        self._pass("remove")
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self._pass("sync_directory")
        super().sync_directory(path)

    def _pass(self, operation: str) -> None:
        if operation not in self.failing:
            return
        self.failing[operation] -= 1
        if self.failing[operation] < 0:
            del self.failing[operation]
            raise OSError(5, "Input/output error")


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def file(tmp_path: Path, disk: FailingDisk) -> Iterator[DurableFile]:
    file = DurableFile(disk, tmp_path / "file")
    file.open()
    file.append(CONTENT)
    yield file
    file.close()


def names(folder: Path) -> list[str]:
    """The files in a folder, each by its name up to the time in it."""
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


def test_what_is_appended_counts_and_can_be_read(file: DurableFile, tmp_path: Path) -> None:
    """Up to the end and no further, also from where no file can reach."""
    file.append(b"more")
    assert file.size == len(CONTENT) + 4
    assert file.read(10, file.size - 4) == b"more"
    assert file.read(10, 0) == CONTENT[:10]
    for offset in (file.size, 2**40, 2**63, 2**64 - 1):
        assert file.read(10, offset) == b""
    assert (tmp_path / "file").read_bytes() == CONTENT + b"more"
    assert file.displacement() is None


@pytest.mark.parametrize("size", [10, TAIL_BYTES - 1, TAIL_BYTES, TAIL_BYTES + 1, 3 * TAIL_BYTES])
def test_a_cut_is_known_whatever_was_written_behind_it(tmp_path: Path, size: int) -> None:
    """Where the last bytes are not those that were written, the file was cut, and not written to."""
    path = tmp_path / "file"
    file = DurableFile(Disk(), path)
    file.open()
    file.append(random.Random(size).randbytes(size))
    os.truncate(path, size - 1)
    assert file.displacement() is Displacement.CUT
    with path.open("ab") as other:
        other.write(b"something longer than before")
    assert file.displacement() is Displacement.CUT
    file.close()


def test_a_probe_leaves_nothing(file: DurableFile, disk: FailingDisk, tmp_path: Path) -> None:
    """What is only tried is cut off again, whether it worked or not."""
    file.try_append(b"x" * 100)
    assert (tmp_path / "file").read_bytes() == CONTENT
    disk.failing = {"sync": 0}
    with pytest.raises(OSError, match="Input/output"):
        file.try_append(b"x" * 100)
    file.append(b"more")
    assert (tmp_path / "file").read_bytes() == CONTENT + b"more"


def test_leftovers_are_not_cut_from_a_file_that_lost_more(file: DurableFile, disk: FailingDisk) -> None:
    """Otherwise it would be made longer, with zeros."""
    disk.failing = {"sync": 0}
    with pytest.raises(OSError, match="Input/output"):
        file.append(b"more")
    os.truncate(file.path, 3)
    with pytest.raises(FileDisplaced, match="something else cut its file"):
        file.append(b"more")
    assert file.path.read_bytes() == CONTENT[:3]


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(INTRUDER)


def replace_by_a_link(path: Path) -> None:
    """A link that leads nowhere: the system says that no file is there, and makes none."""
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("harm", [delete, replace, replace_by_a_link])
def test_a_file_gets_its_name_back(file: DurableFile, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """All that counts is under the name again, whatever stood there is beside it, and appends go on."""
    harm(file.path)
    assert file.displacement() in (Displacement.GONE, Displacement.REPLACED)
    intruder = file.restore()
    assert names(tmp_path) == (["file"] if harm is delete else ["file", "file.displaced"])
    if harm is replace:
        assert intruder is not None
        assert intruder.read_bytes() == INTRUDER
    if harm is replace_by_a_link:
        assert intruder is not None
        assert intruder.is_symlink()
    assert file.displacement() is None
    file.append(b"more")
    assert file.path.read_bytes() == CONTENT + b"more"


def test_a_folder_in_its_place_is_left_alone(file: DurableFile, tmp_path: Path) -> None:
    """It cannot be moved by a second name; once somebody has moved it, the file is put back."""
    file.path.unlink()
    file.path.mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match="not permitted"):
            file.restore()
    assert names(tmp_path) == ["file"]
    file.path.rmdir()
    file.restore()
    assert file.path.read_bytes() == CONTENT


def test_leftovers_are_not_put_back(file: DurableFile, disk: FailingDisk) -> None:
    """Only what counts is copied."""
    disk.failing = {"sync": 0}
    with pytest.raises(OSError, match="Input/output"):
        file.append(b"refused")
    file.path.unlink()
    file.restore()
    assert file.path.read_bytes() == CONTENT


#: Each operation of putting a replaced file back.
STEPS = [
    *(("create", 0), ("write", 0), ("sync", 0), ("sync_directory", 0)),
    *(("link", 0), ("remove", 0), ("link", 1), ("remove", 1), ("sync_directory", 1)),
]


@pytest.mark.parametrize("step", STEPS, ids=[f"{name} {number}" for name, number in STEPS])
def test_a_failure_on_the_way_back_loses_nothing(
    file: DurableFile, disk: FailingDisk, tmp_path: Path, step: tuple[str, int]
) -> None:
    """The next try succeeds; no descriptor and no half of a copy stays, and the intruder is kept."""
    replace(file.path)
    before = os.listdir("/dev/fd")
    disk.failing = dict([step])
    with pytest.raises(OSError, match="Input/output"):
        file.restore()
    assert len(os.listdir("/dev/fd")) == len(before)
    # What may not be on the medium under the name does not pass for what is.
    assert file.displacement() is not None
    file.restore()
    assert file.displacement() is None
    assert file.path.read_bytes() == CONTENT
    assert not list(tmp_path.glob("*.recovered-*"))
    assert INTRUDER in [path.read_bytes() for path in tmp_path.glob("*.displaced-*")]
    assert len(os.listdir("/dev/fd")) == len(before)


@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "deleted"])
def test_a_power_cut_on_the_way_back_leaves_all_or_nothing(is_replaced: bool) -> None:
    """Under the name there is never a part; once it was put back all is there; an intruder is never lost."""
    path = Path("/folder/file")
    for moment in range(1, 20):
        for seed in range(20):
            disk = SimulatedDisk(random.Random(seed))
            file = displaced(disk, path, is_replaced=is_replaced)
            disk.plan(frozenset(), moment)
            is_back = False
            with suppress(OSError):
                file.restore()
                is_back = True
            was_reached = disk.had_trouble
            disk.power_cut()
            found = [disk.content(path.parent / name) for name in disk.names(path.parent)]
            assert disk.content(path) in ((CONTENT,) if is_back else (CONTENT, b"", INTRUDER))
            if is_replaced:
                assert INTRUDER in found, f"moment {moment}, seed {seed}"
            if is_back and not was_reached:
                break
    assert is_back, "the last moment was not reached"


def displaced(disk: SimulatedDisk, path: Path, *, is_replaced: bool) -> DurableFile:
    """Return a file that was written, and then deleted or replaced by somebody who synced that."""
    disk.make_directory(path.parent)
    file = DurableFile(disk, path)
    file.open()
    for start in range(0, len(CONTENT), 40):
        with suppress(FileDisplaced):
            file.append(CONTENT[start : start + 40])
    disk.remove(path)
    if is_replaced:
        other = DurableFile(disk, path)
        other.open()
        other.append(INTRUDER)
        other.close()
    disk.sync_directory(path.parent)
    disk.sync_directory(Path("/"))
    return file


def test_names_beside_do_not_collide(tmp_path: Path) -> None:
    """Within one second each file gets another name."""
    found = []
    for _ in range(3):
        path, fd = create_next_to(Disk(), tmp_path / "file", "kind")
        os.close(fd)
        found.append(path)
    assert len(set(found)) == 3
    assert all(path.name.startswith("file.kind-") for path in found)
