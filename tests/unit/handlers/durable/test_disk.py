"""`Disk`: the system's calls, with the modes and meanings that `Disk` promises."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from emitd_handlers.durable import disk as disk_module
from emitd_handlers.durable.disk import Disk, write_all
from support.processes.open_files import open_under
from support.processes.own_calls import with_own


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Modes are looked at below: let nothing but the code decide them."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`os` as the disk alone sees it."""
    system = with_own(os)
    monkeypatch.setattr(disk_module, "os", system)
    return system


@pytest.mark.parametrize("make", [Disk.open, Disk.create])
def test_files_are_made_for_their_owner_only(
    disk: Disk, tmp_path: Path, make: Callable[[Disk, Path], int]
) -> None:
    """A new file has mode 0600, and its descriptor is not inherited."""
    fd = make(disk, tmp_path / "a")
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    assert not os.get_inheritable(fd)
    disk.close(fd)


def test_folders_are_made_for_their_owner_only(disk: Disk, tmp_path: Path) -> None:
    """A new folder has mode 0700; one that is there is an error."""
    disk.make_directory(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        disk.make_directory(tmp_path / "a")


def test_create_never_opens_what_is_there(disk: Disk, tmp_path: Path) -> None:
    """Two creations of one name cannot both succeed."""
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        disk.create(tmp_path / "a")


def test_writes_append_wherever_the_end_is(disk: Disk, tmp_path: Path) -> None:
    """After a cut the next write goes to the new end; reads go anywhere."""
    fd = disk.open(tmp_path / "a")
    write_all(disk, fd, b"0123456789")
    assert disk.read(fd, 3, 8) == b"89"
    disk.truncate(fd, 4)
    write_all(disk, fd, b"ab")
    assert disk.read(fd, 100, 0) == b"0123ab"
    assert (tmp_path / "a").read_bytes() == b"0123ab"
    disk.close(fd)


def test_write_all_makes_up_for_short_writes(tmp_path: Path) -> None:
    """Bytes that a write did not take are written by the next."""

    class ShortDisk(Disk):
        def write(self, fd: int, data: memoryview) -> int:
            return super().write(fd, data[:3])

    disk = ShortDisk()
    fd = disk.open(tmp_path / "a")
    write_all(disk, fd, b"0123456789")
    assert disk.read(fd, 100, 0) == b"0123456789"
    disk.close(fd)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_only_regular_files_are_opened(disk: Disk, tmp_path: Path, kind: str) -> None:
    """What is no file raises OSError and leaves nothing open."""
    path = tmp_path / "a"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(OSError, match=r"directory|not a regular file"):
        disk.open(path)
    assert open_under(path) == []


def test_a_lock_is_exclusive_and_ends_with_its_file(disk: Disk, tmp_path: Path) -> None:
    """A second opener does not get the lock until the first has closed."""
    first, second = disk.open(tmp_path / "a"), disk.open(tmp_path / "a")
    assert disk.lock(first)
    assert not disk.lock(second)
    disk.close(first)
    assert disk.lock(second)
    disk.close(second)


def test_states_tell_files_apart(disk: Disk, tmp_path: Path) -> None:
    """An open file that lost its name to another differs from what has the name."""
    path = tmp_path / "a"
    fd = disk.open(path)
    write_all(disk, fd, b"123")
    assert disk.state(fd) == disk.state_at(path)
    assert disk.state(fd).size == 3
    path.rename(tmp_path / "b")
    assert disk.state_at(path) is None
    path.write_bytes(b"123")
    assert disk.state_at(path) != disk.state(fd)
    disk.close(fd)


def test_sync_asks_for_the_data(disk: Disk, tmp_path: Path, system: SimpleNamespace) -> None:
    """`sync` is one fdatasync of that file."""
    fd = disk.open(tmp_path / "a")
    calls: list[int] = []
    system.fdatasync = lambda fd: (calls.append(fd), os.fdatasync(fd))
    disk.sync(fd)
    assert calls == [fd]
    disk.close(fd)


def test_without_fdatasync_the_drive_is_told(
    disk: Disk, tmp_path: Path, system: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no fdatasync, as on macOS, `sync` is the system's full sync."""
    fd = disk.open(tmp_path / "a")
    calls: list[tuple[int, int]] = []
    del system.fdatasync
    own = with_own(fcntl, fcntl=lambda fd, command: calls.append((fd, command)))
    monkeypatch.setattr(disk_module, "fcntl", own)
    disk.sync(fd)
    assert calls == [(fd, 51)]
    disk.close(fd)


def test_settle_syncs_and_then_forgets(
    disk: Disk, tmp_path: Path, system: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ensure_synced` drops whole pages, from the one of the offset on, after they were written."""
    fd = disk.open(tmp_path / "a")
    write_all(disk, fd, bytes(10_000))
    order: list[str] = []
    system.fdatasync = lambda fd: order.append("sync")
    system.posix_fadvise = lambda *args: order.append(str(args[1:]))
    disk.ensure_synced(fd, os.sysconf("SC_PAGE_SIZE") + 7)
    assert order == ["sync", str((os.sysconf("SC_PAGE_SIZE"), 0, os.POSIX_FADV_DONTNEED))]
    del system.posix_fadvise
    disk.ensure_synced(fd, 0)
    assert order[2:] == ["sync"]
    monkeypatch.undo()
    disk.ensure_synced(fd, 0)
    assert disk.read(fd, 20_000, 0) == bytes(10_000)
    disk.close(fd)


def test_sync_directory_syncs_the_folder_itself(disk: Disk, tmp_path: Path, system: SimpleNamespace) -> None:
    """The descriptor that is synced is the folder's, and it is closed again."""
    synced: list[int] = []
    system.fsync = lambda fd: synced.append(os.fstat(fd).st_ino)
    disk.sync_directory(tmp_path)
    assert synced == [tmp_path.stat().st_ino]
    assert open_under(tmp_path) == []
