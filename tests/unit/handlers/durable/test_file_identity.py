"""Which file a name leads to, and the folder that saves its content: what is pending, and the command."""

import os
import subprocess
from pathlib import Path

import pytest

from emitd_handlers.durable.file_identity import Displacement, FileIdentity, Recovery
from emitd_handlers.errors import HandlerUnavailable

AWKWARD = "a folder; it's $HOME"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / AWKWARD / "data file.db"
    path.parent.mkdir()
    path.write_text("mine")
    return path


def recovery_of(path: Path) -> Recovery:
    return Recovery("store 'x'", [path, path.with_name(f"{path.name}-wal")])


def test_a_name_is_known_by_its_file(path: Path) -> None:
    """A link to the same file is the same; a copy is not, nor is a name below what is no folder."""
    identity = FileIdentity.of(path)
    assert identity is not None
    assert identity.displacement() is None
    path.rename(path.with_name("moved"))
    assert identity.displacement() is Displacement.GONE
    path.symlink_to("moved")
    assert identity.displacement() is None
    path.unlink()
    path.write_text("mine")
    assert identity.displacement() is Displacement.REPLACED
    path.unlink()
    path.with_name("moved").unlink()
    path.parent.rmdir()
    path.parent.touch()
    assert identity.displacement() is Displacement.GONE
    assert FileIdentity.of(path) is None


def test_nothing_is_pending_before_and_after(path: Path) -> None:
    """An empty folder is not; one with files is, and its command is one that a shell takes, whatever the names."""
    recovery = recovery_of(path)
    recovery.refuse_if_pending()
    folder = recovery.make()
    recovery.refuse_if_pending()
    (folder / path.name).write_text("saved")
    with pytest.raises(
        HandlerUnavailable, match=r"^store 'x' was displaced\. All of it is in '.*run: \("
    ) as caught:
        recovery.refuse_if_pending()
    subprocess.run(str(caught.value).split("run: ")[1], shell=True, check=True)
    recovery.refuse_if_pending()
    assert path.read_text() == "saved"
    (aside,) = path.parent.glob("*.displaced-*")
    assert (aside / path.name).read_text() == "mine"
    assert sorted(os.listdir(path.parent)) == sorted([path.name, aside.name])


def test_the_folders_above_are_made_again(path: Path) -> None:
    """If they were removed; and each recovery gets a folder of its own."""
    path.unlink()
    path.parent.rmdir()
    recovery = recovery_of(path)
    folders = {recovery.make() for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.parent == path.parent for folder in folders)


def test_what_lacks_its_first_file_is_put_away(path: Path) -> None:
    """So that a new one can be begun; all that is left is kept together."""
    recovery = recovery_of(path)
    folder = recovery.make()
    (folder / "other").touch()
    copy = path.with_name("copy")
    copy.touch()
    subprocess.run(recovery.advice(folder, [copy]).split("run: ")[1], shell=True, check=True)
    (aside,) = path.parent.iterdir()
    assert sorted(os.listdir(aside)) == sorted([path.name, folder.name, "copy"])
