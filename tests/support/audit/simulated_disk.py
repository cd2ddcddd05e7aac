"""A disk in memory that loses what nobody synced, for code written against `emitd_handlers.durable.disk`.

Everything is kept twice: as processes see it (the page cache) and as it is on the medium. A power cut leaves
any part of what was not synced: each sector of a file as it was at one of two moments since its last sync,
with the size it had at one of them, and each new name in a folder or not. A kill leaves the page cache.

A sync that fails writes what it likes and takes the pages for clean, as Linux does: a later sync succeeds and
does not write them.
"""

import errno
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from emitd_handlers.durable.disk import FileState

#: Small, so that one line of a log has many.
SECTOR_BYTES = 64
ROOT = 1


class MachineDownError(OSError):
    """The machine is down: nothing happens any more until `power_cut` or `kill`."""


class _File:
    """One file's bytes; `images` are what the medium could hold by now, the first for sure."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cache = b""
        self.images = [b""]
        self.dirty: set[int] = set()

    def replace(self, content: bytes, first_changed: int) -> None:
        self.cache = content
        last = -(-len(content) // SECTOR_BYTES)
        self.dirty = {sector for sector in self.dirty if sector < last}
        self.dirty.update(range(first_changed // SECTOR_BYTES, last))
        self.images.append(self._image())

    def sync(self) -> None:
        self.images = [self._image()]
        self.dirty.clear()

    def fail_sync(self, chance: random.Random) -> None:
        self.images = [self._any_image(chance)]
        self.dirty.clear()

    def lose_power(self, chance: random.Random) -> None:
        self.fail_sync(chance)
        self.cache = self.images[0]

    def _image(self) -> bytes:
        """The medium's bytes if everything dirty were written now."""
        size = len(self.cache)
        image = bytearray(self.images[0][:size].ljust(size, b"\0"))
        for sector in self.dirty:
            start = sector * SECTOR_BYTES
            image[start : start + SECTOR_BYTES] = self.cache[start : start + SECTOR_BYTES]
        return bytes(image)

    def _any_image(self, chance: random.Random) -> bytes:
        older, newer = chance.choice([(self.images[0], self.images[-1]), chance.choices(self.images, k=2)])
        share_of_newer = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0, 1.0])
        size = len(newer if chance.random() < max(0.2, share_of_newer) else older)
        image = b""
        for start in range(0, size, SECTOR_BYTES):
            side = newer if chance.random() < share_of_newer else older
            image += side[start : start + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
        return image[:size]


class _Folder:
    """Names and what they stand for, as seen and as on the medium."""

    def __init__(self) -> None:
        self.cache: dict[str, int] = {}
        self.medium: dict[str, int] = {}

    def sync(self) -> None:
        self.medium = dict(self.cache)

    def lose_power(self, chance: random.Random) -> None:
        share = chance.choice([0.0, 0.5, 1.0])
        for name in sorted(self.cache):
            if name not in self.medium and chance.random() < share:
                self.medium[name] = self.cache[name]
        self.cache = dict(self.medium)


class SimulatedDisk:
    """A `Disk` with one volume. Operations that change something, or sync it, are counted as moments.

    `ignored` names syncs that are left out, and the forgetting after a sync in `ensure_synced`; `sites` has the names
    of all that were called: the calling function, and the file or folder.
    """

    def __init__(self, chance: random.Random, *, ignored: Iterable[str] = ()) -> None:
        #: Whether an operation has failed since the last plan.
        self.had_trouble = False
        self.sites: set[str] = set()
        self._ignored = frozenset(ignored)
        self._chance = chance
        self._moment = 0
        self._faults: frozenset[int] = frozenset()
        self._crash_at: int | None = None
        self._is_down = False
        self._nodes: dict[int, _File | _Folder] = {ROOT: _Folder()}
        self._open: dict[int, int] = {}
        self._locked: set[int] = set()
        self._last_fd = 0

    # What a test does to the machine.

    def plan(self, faults: frozenset[int], crash_at: int | None) -> None:
        """Let operations fail at some moments from now on, counted from 1, and the machine go down at one.

        It goes down before or after the operation of that moment took effect.
        """
        self._moment = 0
        self._faults = faults
        self._crash_at = crash_at
        self.had_trouble = self._is_down

    def power_cut(self) -> None:
        """Lose what was not synced, and start up again."""
        for node in self._nodes.values():
            node.lose_power(self._chance)
        self.kill()

    def kill(self) -> None:
        """End every process, and with it what it had open and locked."""
        self._open.clear()
        self._locked.clear()
        self._is_down = False
        self.plan(frozenset(), None)

    def content(self, path: Path) -> bytes:
        """Return a file's bytes as a process would see them; none where there is no file."""
        node = self._nodes.get(self._find(path) or 0)
        return node.cache if isinstance(node, _File) else b""

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder."""
        node = self._nodes.get(self._find(folder) or 0)
        return sorted(node.cache) if isinstance(node, _Folder) else []

    # What `Disk` asks for.

    def open(self, path: Path) -> int:
        self._refuse_if_down()
        node_id = self._find(path)
        return self.create(path) if node_id is None else self._opened(node_id)

    def create(self, path: Path) -> int:
        return self._opened(self._make(path, _File(path.name)))

    def lock(self, fd: int) -> bool:
        self._refuse_if_down()
        if self._open[fd] in self._locked:
            return False
        self._locked.add(self._open[fd])
        return True

    def state(self, fd: int) -> FileState:
        self._refuse_if_down()
        return FileState(1, self._open[fd], len(self._file(fd).cache))

    def state_at(self, path: Path) -> FileState | None:
        self._refuse_if_down()
        node_id = self._find(path)
        return None if node_id is None else FileState(1, node_id, len(self.content(path)))

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._refuse_if_down()
        return self._file(fd).cache[offset : offset + size]

    def write(self, fd: int, data: memoryview) -> int:
        """Take all or some of it; if it fails, perhaps some of it too."""
        file = self._file(fd)
        some = self._chance.randint(1, len(data))
        taken = self._chance.choice([len(data), len(data), len(data), some])

        def append(size: int) -> None:
            file.replace(file.cache + bytes(data[:size]), len(file.cache))

        def append_less() -> None:
            append(self._chance.randint(0, some - 1))

        self._act(lambda: append(taken), on_fault=append_less, on_crash=append_less)
        return taken

    def truncate(self, fd: int, size: int) -> None:
        file = self._file(fd)
        self._act(lambda: file.replace(file.cache[:size], size))

    def sync(self, fd: int) -> None:
        file = self._file(fd)
        if self._is_ignored(file.name):
            return
        self._act(file.sync, on_fault=lambda: file.fail_sync(self._chance))

    def ensure_synced(self, fd: int, offset: int) -> None:
        file = self._file(fd)
        if self._is_ignored(file.name):
            return
        self._act(file.sync, on_fault=lambda: file.fail_sync(self._chance))
        if not self._is_ignored(f"forget {file.name}"):
            file.cache = file.images[0]

    def close(self, fd: int) -> None:
        self._locked.discard(self._open.pop(fd, 0))

    def make_directory(self, path: Path) -> None:
        self._make(path, _Folder())

    def remove(self, path: Path) -> None:
        folder = self._nodes[self._find(path.parent) or 0]
        assert isinstance(folder, _Folder)
        self._act(lambda: folder.cache.pop(path.name))

    def is_writable(self, path: Path) -> bool:
        return True

    def sync_directory(self, path: Path) -> None:
        node = self._nodes[self._find(path) or 0]
        assert isinstance(node, _Folder)
        if not self._is_ignored(path.name or "/"):
            self._act(node.sync)

    def _act(
        self,
        effect: Callable[[], None],
        *,
        on_fault: Callable[[], None] = lambda: None,
        on_crash: Callable[[], None] = lambda: None,
    ) -> None:
        """Let `effect` happen at this moment, or what else happens at it."""
        self._refuse_if_down()
        self._moment += 1
        if self._moment == self._crash_at:
            self._chance.choice([effect, on_crash])()
            self._is_down = self.had_trouble = True
            self._refuse_if_down()
        if self._moment in self._faults:
            on_fault()
            self.had_trouble = True
            raise OSError(errno.EIO, "the disk failed")
        effect()

    def _refuse_if_down(self) -> None:
        if self._is_down:
            raise MachineDownError(errno.EIO, "the machine is down")

    def _is_ignored(self, name: str) -> bool:
        """Whether a sync of what has this name is left out where it is called from: two frames up."""
        site = f"{sys._getframe(2).f_code.co_name}: {name.split('-')[0]}"
        self.sites.add(site)
        return site in self._ignored

    def _make(self, path: Path, node: _File | _Folder) -> int:
        if self._find(path) is not None:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        folder = self._nodes[self._find(path.parent) or 0]
        assert isinstance(folder, _Folder)
        node_id = len(self._nodes) + 1

        def make() -> None:
            self._nodes[node_id] = node
            folder.cache[path.name] = node_id

        self._act(make)
        return node_id

    def _opened(self, node_id: int) -> int:
        self._last_fd += 1
        self._open[self._last_fd] = node_id
        return self._last_fd

    def _file(self, fd: int) -> _File:
        node = self._nodes[self._open[fd]]
        assert isinstance(node, _File)
        return node

    def _find(self, path: Path) -> int | None:
        node_id = ROOT
        for name in path.parts[1:]:
            node = self._nodes[node_id]
            if not isinstance(node, _Folder) or name not in node.cache:
                return None
            node_id = node.cache[name]
        return node_id
