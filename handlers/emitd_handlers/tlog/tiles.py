"""The layout of a log as a folder of tiles (C2SP tlog-tiles), which public readers fetch file by file.

A tile has up to 256 hashes of the tree that stand side by side at every eighth level: a full one has 256, and is
repeated as one hash in the tile above; those at the right edge have fewer. Each tile of level 0 has a bundle
of the entries that its hashes are of.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from emitd_handlers.tlog.merkle import HASH_BYTES, ReadHash, node_hash, peaks_of, stored_count, stored_index

#: How many hashes a full tile has, and a full bundle entries.
TILE_WIDTH = 256
#: How many levels of the tree a tile stands for.
TILE_HEIGHT = 8
#: The longest entry that a bundle can hold.
MAX_ENTRY_BYTES = 65_535
#: The file of the log's newest checkpoint.
CHECKPOINT = "checkpoint"

#: Returns a number of stored hashes from a stored index on, one after the other.
ReadHashes: TypeAlias = Callable[[int, int], bytes]


class Tile(NamedTuple):
    """One tile: its level, its number within that, and how many hashes it has."""

    level: int
    number: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where its hashes are, from the folder on."""
        return f"tile/{self.level}/{self._place}"

    @property
    def bundle_path(self) -> str:
        """Where the entries are that its hashes are of, if it is of level 0."""
        return f"tile/entries/{self._place}"

    @property
    def first(self) -> int:
        """The number, within the tree's level, of its first hash."""
        return self.number * TILE_WIDTH

    @property
    def _place(self) -> str:
        digits = str(self.number)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        place = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        return place if self.width == TILE_WIDTH else f"{place}.p/{self.width}"

    def read(self, read: ReadHashes) -> list[bytes]:
        """Return its hashes from a row of stored ones."""
        if self.level > 0:
            depth = self.level * TILE_HEIGHT
            return [read(stored_index(depth, node), 1) for node in range(self.first, self.first + self.width)]
        # Leaves stand close together in the row: one read for all.
        start = stored_count(self.first)
        row = read(start, stored_index(0, self.first + self.width - 1) + 1 - start)
        places = (stored_index(0, leaf) - start for leaf in range(self.first, self.first + self.width))
        return [row[place * HASH_BYTES : (place + 1) * HASH_BYTES] for place in places]

    def leads_up(self, hashes: Sequence[bytes], read: ReadHash) -> bool:
        """Return whether its hashes lead to those stored above it.

        Where that holds for each tile from the top down, and the stored root for the first, then all tiles are right.
        """
        for level, node in peaks_of(self.width, self.first):
            start = (node << level) - self.first
            above = stored_index(self.level * TILE_HEIGHT + level, node)
            if _perfect_root(hashes[start : start + (1 << level)]) != read(above):
                return False
        return True


def top_level(size: int) -> int:
    """Return the highest level of which a tree of `size` leaves has a tile; -1: of none."""
    return -1 if size == 0 else (size.bit_length() - 1) // TILE_HEIGHT


def full_tiles(level: int, size: int) -> int:
    """Return how many full tiles of a level a tree of `size` leaves has."""
    return size >> TILE_HEIGHT * (level + 1)


def tiles_of(level: int, size: int, old_size: int = 0) -> Iterator[Tile]:
    """Yield the tiles of a level that a tree of `size` leaves has, but for the full ones of a tree of `old_size`."""
    for number in range(full_tiles(level, old_size), full_tiles(level, size)):
        yield Tile(level, number)
    width = (size >> TILE_HEIGHT * level) % TILE_WIDTH
    if width:
        yield Tile(level, full_tiles(level, size), width)


def pack_bundle(entries: Sequence[bytes]) -> bytes:
    """Return the bundle of some entries, each of MAX_ENTRY_BYTES at most."""
    return b"".join([len(entry).to_bytes(2) + entry for entry in entries])


def _perfect_root(hashes: Sequence[bytes]) -> bytes:
    while len(hashes) > 1:
        pairs = iter(hashes)
        hashes = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=True)]
    return hashes[0]
