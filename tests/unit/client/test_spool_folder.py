"""Where spools are, and what their files are called."""

import os
from pathlib import Path

import pytest

from emitd.spool.files import SpoolError, default_folder, new_path, spool_paths


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_STATE_HOME": "/state", "HOME": "/home/u"}, "/state/emitd/spool"),
        ({"XDG_STATE_HOME": "state", "HOME": "/home/u"}, "/home/u/.local/state/emitd/spool"),
        ({"XDG_STATE_HOME": "", "HOME": "/home/u"}, "/home/u/.local/state/emitd/spool"),
    ],
)
def test_the_folder_is_the_users_own(environ: dict[str, str], folder: str) -> None:
    """By the XDG base directory specification; a relative state home is none."""
    assert default_folder(environ) == Path(folder)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one in a container whose number has no name."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(SpoolError, match="set EMITD_SPOOL"):
        default_folder({})


@pytest.mark.parametrize(
    ("target", "beginning"),
    [
        ("localhost:50051", "localhost-50051-"),
        ("dns:///logs.example.org:443", "dns-logs.example.org-443-"),
        ("10.0.0.1:50051,[::1]:50051", "10.0.0.1-50051-1-50051-"),
        ("unix:/run/../emitd.sock", "unix-run-..-emitd.sock-"),
        ("../\0/\ud800ü", "server-"),
        ("", "server-"),
        ("a" * 5000, "a" * 60 + "-"),
    ],
)
def test_a_file_bears_its_target_and_its_process(target: str, beginning: str) -> None:
    """In characters that every file system takes, and within the length that it takes."""
    name = new_path(Path("/spool"), target).name
    assert name.startswith(beginning)
    assert name.isascii()
    assert f"-{os.getpid()}-" in name
    assert len(name) < 120
    assert new_path(Path("/spool"), target).name != name


def test_only_spools_of_the_same_target_are_listed(tmp_path: Path) -> None:
    """Each once, also where only a lock is left; names that read the same differ by the hash of the target."""
    targets = ("a:1", "a/1", "a:1:2", "a")
    paths = {target: new_path(tmp_path, target) for target in targets}
    for path in paths.values():
        for suffix in (".db", ".lock", ".db-wal", ".db.damaged"):
            path.with_suffix(suffix).touch()
    orphaned_lock = new_path(tmp_path, "a:1").with_suffix(".lock")
    orphaned_lock.touch()
    (tmp_path / "notes.db").touch()
    assert spool_paths(tmp_path, "a:1") == sorted([paths["a:1"], orphaned_lock.with_suffix(".db")])
    assert spool_paths(tmp_path / "missing", "a:1") == []
