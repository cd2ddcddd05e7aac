"""Whether an id stands in a log twice.

Repeated ids are found by hashes of 64 bits, 8 bytes an id, and confirmed by the lines. The hashes are those of `hash`,
of use within one process and those forked from it; an attacker cannot foresee them.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

#: About this many hashes are looked at together: as objects they take ten times as much memory.
HASHES_AT_ONCE = 1_000_000


def pack_hashes(ids: Iterable[str]) -> bytes:
    """Return the hashes of some ids, for `repeated_hashes`."""
    return array("q", list(map(hash, ids))).tobytes()


def repeated_hashes(data: bytes | bytearray) -> set[int]:
    """Return the hashes that are in `data` twice or more."""
    hashes = array("q")
    hashes.frombytes(data)
    return set().union(*map(_repeated, _parts(hashes)))


def _parts(hashes: "array[int]") -> Sequence["array[int]"]:
    """Part hashes so that equal ones are in one part."""
    if len(hashes) <= HASHES_AT_ONCE:
        return [hashes]
    count = 1 << (len(hashes) // HASHES_AT_ONCE).bit_length()
    parts = [array("q") for _ in range(count)]
    add = [part.append for part in parts]
    for hashed in hashes:
        add[hashed & count - 1](hashed)
    return parts


def _repeated(hashes: "array[int]") -> set[int]:
    if len(set(hashes)) == len(hashes):
        return set()
    return {hashed for hashed, count in Counter(hashes).items() if count > 1}


def find_repeated(ids: Iterable[tuple[int, str]], hashes: set[int]) -> Iterator[tuple[str, int, int]]:
    """Yield each id that stands in a line again, with its first line and that line.

    `hashes` has the hashes of all of these.
    """
    first: dict[str, int] = {}
    for index, id_ in ids:
        if hash(id_) in hashes and first.setdefault(id_, index) != index:
            yield id_, first[id_], index
