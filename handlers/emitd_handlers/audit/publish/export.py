"""An audit log as a folder of tiles (see `tlog.tiles`), which public readers understand over plain HTTP.

    newest checkpoint ─> tiles, from the top level down ─> bundles of lines ─> `checkpoint`

Each file is checked against the one above it before it is written, from the root on: only signed data comes into the
folder. `checkpoint` is written last, when all else is on the medium, so that its tiles are never missing. The lines
that the folder's own checkpoint covers are not read again.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import msgspec

from emitd_handlers.audit.publish.prove import SignedTree, newest_signed
from emitd_handlers.audit.read.trail import AuditTrail, CommittedTrail
from emitd_handlers.durable.disk import replace_file, sync_folder
from emitd_handlers.errors import AuditDamaged, EmitdError, HandlerUnavailable
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.kept_file import kept_text, notes_in
from emitd_handlers.tlog.merkle import HASH_BYTES, leaf_hash, root_hash
from emitd_handlers.tlog.note import Note, NoteInvalid
from emitd_handlers.tlog.tiles import (
    CHECKPOINT,
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    Tile,
    full_tiles,
    pack_bundle,
    tiles_of,
    top_level,
)

_PARTIAL = re.compile(r"[0-9]{3}\.p")


class FolderMismatch(EmitdError):
    """The folder has another log, or this log in another state."""


class Export(msgspec.Struct):
    """What an export did."""

    signed: SignedTree
    #: How many lines the folder had before.
    old_size: int
    tiles_written: int = 0
    bundles_written: int = 0


def export_log(path: Path, folder: Path) -> Export:
    """Write a log into a folder, which is made if it is missing, or bring the folder up to date.

    Raises HandlerUnavailable if nothing is signed, signed lines are missing or another export runs; FolderMismatch;
    AuditDamaged if the log's files are not what was signed; OSError.
    """
    with AuditTrail(path) as trail:
        # Of the same moment: a checkpoint that is read later may cover lines behind this end.
        signed, end = newest_signed(trail), trail.find_end()
    with CommittedTrail(path, end) as trail:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            export = Export(signed, _old_size(trail, signed.checkpoint, folder))
            _Exporter(trail, folder, export).run()
    return export


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot lock a folder, and are written to without.
        with suppress(OSError):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HandlerUnavailable(f"another export into '{folder}' is under way") from None
        yield
    finally:
        os.close(fd)


def _old_size(trail: CommittedTrail, newest: Checkpoint, folder: Path) -> int:
    """Return how many lines the folder's checkpoint covers, which must be this log's first ones; 0: it has none."""
    file = folder / CHECKPOINT
    try:
        data = file.read_bytes()
        old = Checkpoint.parse(Note.parse(next(iter(notes_in(kept_text(data))), data)).text)
    except FileNotFoundError:
        return 0
    except NoteInvalid as error:
        problem = f"'{file}' is not one that an export wrote: {error}; give another folder"
        raise FolderMismatch(problem) from None
    if old.origin != newest.origin:
        raise FolderMismatch(
            f"the folder '{folder}' has the log '{old.origin}', and this one is '{newest.origin}': give another folder"
        )
    if old.size > newest.size:
        raise FolderMismatch(
            f"the folder '{folder}' has {old.size} lines of the log, of which only {newest.size} are signed here: the "
            "log was cut, or is an old copy"
        )
    if root_hash(old.size, trail.read_hash) != old.root:
        raise FolderMismatch(
            f"the first {old.size} lines of the log are not those that the folder '{folder}' has: the log was rebuilt, "
            f"or the folder is of another one. Keep it: `emitd audit verify --against {file}` decides"
        )
    return old.size


class _Exporter:
    def __init__(self, trail: CommittedTrail, folder: Path, export: Export) -> None:
        self._trail = trail
        self._folder = folder
        self._export = export
        self._size = export.signed.checkpoint.size
        #: Up to here, the folder has what it must.
        self._from = export.old_size if self._is_complete(export.old_size) else 0
        self._touched: set[Path] = {folder}

    def run(self) -> None:
        for level in range(top_level(self._size), 0, -1):
            for tile in tiles_of(level, self._size, self._from):
                self._put_tile(tile)
        self._put_leaves()
        for folder in sorted(self._touched, reverse=True):  # the inner ones first
            sync_folder(folder)
        if self._put(self._folder / CHECKPOINT, self._export.signed.note):
            sync_folder(self._folder)
        self._remove_outgrown()

    def _put_leaves(self) -> None:
        """Write the tiles of level 0, each with its bundle of lines."""
        start = self._trail.position_of(full_tiles(0, self._from) * TILE_WIDTH)
        lines = self._trail.lines_from(start, start.leaf_index)
        for tile in tiles_of(0, self._size, self._from):
            hashes = self._put_tile(tile)
            entries = [line for _, line in islice(lines, tile.width)]
            self._check_entries(tile, entries, hashes)
            if self._put(self._folder / tile.bundle_path, pack_bundle(entries)):
                self._export.bundles_written += 1

    def _put_tile(self, tile: Tile) -> list[bytes]:
        hashes = tile.read(self._trail.read_hashes)
        if not tile.leads_up(hashes, self._trail.read_hash):
            raise self._damaged(f"the stored hashes of tile '{tile.path}' are")
        if self._put(self._folder / tile.path, b"".join(hashes)):
            self._export.tiles_written += 1
        return hashes

    def _check_entries(self, tile: Tile, entries: Sequence[bytes], hashes: Sequence[bytes]) -> None:
        for number, (line, leaf) in enumerate(zip(entries, hashes, strict=False), tile.first):
            if leaf_hash(line) != leaf:
                raise self._damaged(f"line {number} is")
            if len(line) > MAX_ENTRY_BYTES:
                raise AuditDamaged(
                    f"line {number} of the audit log '{self._trail.paths.lines}' has {len(line)} bytes, and a bundle "
                    f"can hold {MAX_ENTRY_BYTES}: the log cannot be exported"
                )
        if len(entries) < tile.width:
            raise self._trail.incomplete(f"line {tile.first + len(entries)} is missing, which is signed")

    def _put(self, path: Path, data: bytes) -> bool:
        """Write a file, unless it is there; return whether it was not."""
        self._touch(path.parent)
        with suppress(FileNotFoundError):
            if path.stat().st_size == len(data) and path.read_bytes() == data:
                return False
        replace_file(path, data)
        return True

    def _touch(self, folder: Path) -> None:
        """Make a folder, and remember to sync its names."""
        if folder not in self._touched:
            folder.mkdir(exist_ok=True, parents=True)
            parents = folder.relative_to(self._folder).parents
            self._touched.update([folder, *(self._folder / part for part in parents)])

    def _is_complete(self, size: int) -> bool:
        """Return whether all full tiles and bundles of a tree are there, as large as they must be."""
        try:
            for level in range(top_level(size) + 1):
                for number in range(full_tiles(level, size)):
                    if (self._folder / Tile(level, number).path).stat().st_size != TILE_WIDTH * HASH_BYTES:
                        return False
            count = full_tiles(0, size)
            found = sum(
                (self._folder / Tile(0, number).bundle_path).stat().st_size for number in range(count)
            )
        except FileNotFoundError:
            return False
        # A bundle has two bytes for the length of each line, the log one for its newline.
        return found == self._trail.position_of(count * TILE_WIDTH).offset + count * TILE_WIDTH

    def _remove_outgrown(self) -> None:
        """Remove partial tiles whose full ones were there before this export.

        A reader of the checkpoint before this one still finds all tiles that it names.
        """
        for folder, names, _ in os.walk(self._folder / "tile"):
            for name in filter(_PARTIAL.fullmatch, names):
                path = Path(folder, name)
                kind, *groups = path.relative_to(self._folder / "tile").parts
                number = int("".join(groups).replace("x", "").removesuffix(".p"))
                level = 0 if kind == "entries" else int(kind)
                if number < full_tiles(level, self._export.old_size):
                    with suppress(OSError):  # it does no harm there
                        for file in path.iterdir():
                            file.unlink()
                        path.rmdir()

    def _damaged(self, what: str) -> AuditDamaged:
        path = self._trail.paths.lines
        return AuditDamaged(f"audit log '{path}': {what} not what was signed; `emitd audit verify` says more")
