"""The layout of tiles: which there are, where, what is in them, and whether they lead to the root."""

from collections.abc import Callable

import pytest

from emitd_handlers.tlog.merkle import HASH_BYTES, Frontier, leaf_hash, node_hash, root_hash
from emitd_handlers.tlog.tiles import Tile, full_tiles, pack_bundle, tiles_of, top_level


def row_of(size: int) -> list[bytes]:
    return Frontier().extend([leaf_hash(b"%d" % number) for number in range(size)])


def reader(row: list[bytes]) -> Callable[[int, int], bytes]:
    return lambda number, count: b"".join(row[number : number + count])


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 0, 255), "tile/0/000.p/255"),
        (Tile(1, 999), "tile/1/999"),
        (Tile(1, 1000), "tile/1/x001/000"),
        # The specification's own example.
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(0, 1_234_067, 1), "tile/0/x001/x234/067.p/1"),
        (Tile(7, 1_000_000_000), "tile/7/x001/x000/x000/000"),
    ],
)
def test_where_a_tile_is(tile: Tile, path: str) -> None:
    """Its number in groups of three digits, all but the last with an x; its width only where it is not full."""
    assert tile.path == path


def test_where_a_bundle_is() -> None:
    """As the tile of level 0 beside it."""
    assert Tile(0, 1_234_067, 44).bundle_path == "tile/entries/x001/x234/067.p/44"
    assert Tile(0, 5).bundle_path == "tile/entries/005"


def test_the_tiles_of_a_tree() -> None:
    """Those that the specification gives for a tree of 70,000 leaves."""
    tiles = [list(tiles_of(level, 70_000)) for level in range(top_level(70_000) + 1)]
    assert tiles[0] == [*(Tile(0, number) for number in range(273)), Tile(0, 273, 112)]
    assert tiles[1:] == [[Tile(1, 0), Tile(1, 1, 17)], [Tile(2, 0, 1)]]


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        (0, []),
        (1, [Tile(0, 0, 1)]),
        (255, [Tile(0, 0, 255)]),
        (256, [Tile(0, 0), Tile(1, 0, 1)]),
        (257, [Tile(0, 0), Tile(0, 1, 1), Tile(1, 0, 1)]),
        (65_536, [*(Tile(0, number) for number in range(256)), Tile(1, 0), Tile(2, 0, 1)]),
    ],
)
def test_no_tile_is_empty(size: int, tiles: list[Tile]) -> None:
    """Where a level ends with a full tile, there is none after it."""
    assert [tile for level in range(top_level(size) + 1) for tile in tiles_of(level, size)] == tiles


def test_the_tiles_that_are_new() -> None:
    """The full ones of the older tree are left out; what was at its edge comes again, wider or full."""
    assert list(tiles_of(0, 700, 300)) == [Tile(0, 1), Tile(0, 2, 188)]
    assert list(tiles_of(0, 700, 700)) == [Tile(0, 2, 188)]
    assert list(tiles_of(0, 512, 512)) == []
    assert list(tiles_of(1, 700, 300)) == [Tile(1, 0, 2)]
    assert [full_tiles(level, 70_000) for level in range(3)] == [273, 1, 0]


def test_what_is_in_a_tile() -> None:
    """At level 0 the hashes of leaves, at level 1 the roots of full tiles below."""
    read = reader(row_of(1300))
    assert Tile(0, 1).read(read) == [leaf_hash(b"%d" % number) for number in range(256, 512)]
    assert Tile(0, 5, 20).read(read) == [leaf_hash(b"%d" % number) for number in range(1280, 1300)]
    for number, above in enumerate(Tile(1, 0, 5).read(read)):
        assert above == root_hash(256, Frontier().extend(Tile(0, number).read(read)).__getitem__)


def test_tiles_lead_up_to_the_root() -> None:
    """Each tile of a tree does; with any one hash of it changed, it does not."""
    row = row_of(1300)
    read = reader(row)
    for level in range(2):
        for tile in tiles_of(level, 1300):
            hashes = tile.read(read)
            assert tile.leads_up(hashes, row.__getitem__)
            for number in (0, tile.width // 2, tile.width - 1):
                changed = [*hashes[:number], bytes(HASH_BYTES), *hashes[number + 1 :]]
                assert not tile.leads_up(changed, row.__getitem__)


def test_a_tile_of_two_leads_to_their_node() -> None:
    """Hashes that stand in the wrong order do not."""
    row = row_of(2)
    assert row[2] == node_hash(row[0], row[1])
    assert Tile(0, 0, 2).leads_up(row[:2], row.__getitem__)
    assert not Tile(0, 0, 2).leads_up([row[1], row[0]], row.__getitem__)


def test_a_bundle() -> None:
    """Each entry after its length in two bytes, the larger one first."""
    assert pack_bundle([b"a", b"", b"x" * 65_535]) == b"\0\1a" + b"\0\0" + b"\xff\xff" + b"x" * 65_535
