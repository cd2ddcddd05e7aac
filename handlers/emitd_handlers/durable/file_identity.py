"""Which file a name led to, and the folder that saves its content when another process takes the name away.

A displaced file is never put back here: the name may be another process's by now. `Recovery` saves the content next to
it, and names the shell command that puts it back. Nothing is opened or begun under the name until that was done.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from itertools import count
from pathlib import Path
from typing import NamedTuple

from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable


class Displacement(Enum):
    """What another process can do to a file that is open here."""

    GONE = "its file was deleted or renamed"
    REPLACED = "another file was put in its place"
    CUT = "something else cut its file"
    GROWN = "something else wrote to its file"
    PROTECTED = "its file may no longer be written"


class FileIdentity(NamedTuple):
    """The file that a path led to when it was opened."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path, disk: Disk | None = None) -> "FileIdentity | None":
        """Return which file has this name now; None: none has. Raises OSError."""
        state = (disk or Disk()).state_at(path)
        return None if state is None else cls(path, state.device, state.inode)

    def displacement(self, disk: Disk | None = None) -> Displacement | None:
        """Return what has become of the name; None: it still leads to the file. Raises OSError."""
        named = FileIdentity.of(self.path, disk)
        if named is None:
            return Displacement.GONE
        return None if named == self else Displacement.REPLACED


class Recovery:
    """Folders next to a file, `<name>.recovery-…`: each takes the content of that file and those that belong to it.

    One that is not empty is pending: the operator has not yet moved its files to their places. Methods block, and may
    raise OSError.
    """

    def __init__(self, what: str, paths: Sequence[Path], disk: Disk | None = None) -> None:
        """`what` names the store in errors; of its `paths`, the first is the one that the others belong to."""
        self._what = what
        self._paths = paths
        self._disk = disk or Disk()

    def make(self) -> Path:
        """Make a new folder, which is empty, and those above it."""
        for made in make_folders(self._disk, self._paths[0].parent):
            self._disk.sync_directory(made.parent)
        for folder in names_next_to(self._paths[0], "recovery"):
            with suppress(FileExistsError):
                self._disk.make_directory(folder)
                return folder
        raise AssertionError("there is always another name")

    def sync(self, folder: Path) -> None:
        """Return when the names in the folder, and its own, are on the medium."""
        self._disk.sync_directory(folder)
        self._disk.sync_directory(folder.parent)

    def pending(self) -> Path | None:
        """Return a folder that is not empty, the oldest first; None: there is none."""
        main = self._paths[0]
        for name in self._disk.names(main.parent):
            if name.startswith(f"{main.name}.recovery-") and self._disk.names(main.with_name(name)):
                return main.with_name(name)
        return None

    def refuse_if_pending(self) -> None:
        """Raise HandlerUnavailable, with the command, if a folder is pending."""
        folder = self.pending()
        if folder is not None:
            raise HandlerUnavailable(f"{self._what} was displaced. {self.advice(folder)}")

    def advice(self, folder: Path | None, also: Sequence[Path] = ()) -> str:
        """Return where the content is, and the command that puts it back.

        If there is no folder, or it lacks the first file, the command puts all away, `also` included, to begin again.
        """
        main = self._paths[0]
        names = [path.name for path in self._paths if self._disk.state_at(path) is not None]
        is_whole = folder is not None and main.name in self._disk.names(folder)
        if not is_whole:
            names += [path.name for path in (*also, *([folder] if folder else []))]
        aside = next(names_next_to(main, "displaced")).name
        if folder is not None:  # the same each time: it is in an error that is said once
            aside = f"{main.name}.displaced-{folder.name.removeprefix(f'{main.name}.recovery-')}"
        aside = shlex.quote(aside)
        steps = [f"cd {shlex.quote(str(main.parent))}"]
        if names:
            steps += [f"mkdir {aside}", f"mv {' '.join(map(shlex.quote, names))} {aside}"]
        if folder is None:
            return f"Put a whole copy in its place. Or, to begin a new one and keep what is left, run: {_chain(steps)}"
        if not is_whole:
            return f"What is left is in '{folder}'. To begin a new one and keep that, run: {_chain(steps)}"
        steps += [f"mv {shlex.quote(folder.name)}/* .", f"rmdir {shlex.quote(folder.name)}"]
        return f"All of it is in '{folder}'. To put it back, run: {_chain(steps)}"


def make_folders(disk: Disk, folder: Path) -> Sequence[Path]:
    """Make a folder and those above it, where they are missing, with mode 0700; return those made. Raises OSError."""
    made = []
    for each in [*reversed(folder.parents), folder]:
        if disk.state_at(each) is None:
            with suppress(FileExistsError):  # another process made it just now
                disk.make_directory(each)
                made.append(each)
    return made


def names_next_to(path: Path, kind: str) -> Iterator[Path]:
    """Yield names for new files next to a file, each with the purpose and the time in it."""
    stem = f"{path.name}.{kind}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    return (path.with_name(f"{stem}-{number}") for number in count(1))


def _chain(steps: Sequence[str]) -> str:
    """Return one shell command that stops at the first step that fails, and leaves the shell where it is."""
    return f"({' && '.join(steps)})"
