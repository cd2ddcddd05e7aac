"""The file under lines, hashes and checkpoints: what counts, what others do to it, and how it is saved."""

import os
import random
from collections.abc import Callable, Iterator
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
from support.processes.open_files import open_under

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
def test_a_file_that_lost_its_name_can_be_saved(
    file: DurableFile, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """All that counts, and no leftovers; what has the name now is left alone."""
    file.disk.failing = {"sync": 0}  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="Input/output"):
        file.append(b"refused")
    harm(file.path)
    assert file.displacement() in (Displacement.GONE, Displacement.REPLACED)
    folder = tmp_path / "folder"
    folder.mkdir()
    file.save_into(folder)
    assert (folder / "file").read_bytes() == CONTENT
    if harm is replace:
        assert file.path.read_bytes() == INTRUDER


@pytest.mark.parametrize("size", [10, TAIL_BYTES + 1])
def test_a_small_file_is_saved_from_memory(tmp_path: Path, size: int) -> None:
    """Such as a key that something else has cut."""
    content = random.Random(size).randbytes(size)
    file = DurableFile(Disk(), tmp_path / "file")
    file.open()
    file.append(content)
    os.truncate(file.path, 3)
    folder = tmp_path / "folder"
    folder.mkdir()
    file.save_into(folder)
    file.close()
    assert (folder / "file").read_bytes() == (content if size <= TAIL_BYTES else content[:3])


@pytest.mark.parametrize("operation", ["create", "write", "sync", "sync_directory"])
def test_half_a_copy_is_not_left(
    file: DurableFile, disk: FailingDisk, tmp_path: Path, operation: str
) -> None:
    """The next try succeeds, and no descriptor stays open."""
    folder = tmp_path / "folder"
    folder.mkdir()
    before = open_under(tmp_path)
    disk.failing = {operation: 0}
    with pytest.raises(OSError, match="Input/output"):
        file.save_into(folder)
    assert list(folder.iterdir()) == []
    file.save_into(folder)
    assert (folder / "file").read_bytes() == CONTENT
    assert open_under(tmp_path) == before


def test_names_beside_do_not_collide(tmp_path: Path) -> None:
    """Within one second each file gets another name."""
    found = []
    for _ in range(3):
        path, fd = create_next_to(Disk(), tmp_path / "file", "kind")
        os.close(fd)
        found.append(path)
    assert len(set(found)) == 3
    assert all(path.name.startswith("file.kind-") for path in found)
