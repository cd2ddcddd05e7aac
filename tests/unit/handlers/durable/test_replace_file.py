"""Files that are replaced as a whole."""

import os
import stat
from pathlib import Path

import pytest

from emitd_handlers.durable import disk
from emitd_handlers.durable.disk import replace_file, sync_folder
from support.processes.own_calls import with_own


def test_a_file_is_made_or_replaced(tmp_path: Path) -> None:
    """It has the new content, and nothing else is left in the folder."""
    path = tmp_path / "file"
    for content in (b"one", b"", b"three"):
        replace_file(path, content)
        assert path.read_bytes() == content
    sync_folder(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def test_the_mode_is_as_asked_for(tmp_path: Path) -> None:
    """Also where the file that is replaced could be read by all."""
    path = tmp_path / "file"
    path.touch(0o644)
    replace_file(path, b"secret", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_owner_is_that_of_another_file(tmp_path: Path) -> None:
    """Where this process may give files away; one that is not there changes nothing."""
    like = tmp_path / "like"
    like.touch()
    if os.geteuid() == 0:
        os.chown(like, 12345, 23456)
    path = tmp_path / "file"
    replace_file(path, b"", like=like)
    assert (path.stat().st_uid, path.stat().st_gid) == (like.stat().st_uid, like.stat().st_gid)
    replace_file(path, b"again", like=tmp_path / "missing")
    assert path.read_bytes() == b"again"


def test_what_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old content stays, and no part of the new one."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "os", with_own(os, fsync=fail))
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_it_is_on_the_medium_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Synced first, renamed then."""
    calls: list[str] = []
    system = with_own(
        os,
        fsync=lambda fd: calls.append("fsync") or os.fsync(fd),
        rename=lambda a, b: calls.append("rename") or os.rename(a, b),
    )
    monkeypatch.setattr(disk, "os", system)
    replace_file(tmp_path / "file", b"new")
    assert calls == ["fsync", "rename"]
