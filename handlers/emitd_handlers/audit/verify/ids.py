"""Whether an id stands in a log twice.

Ids that ascend from line to line are different: those that the service assigns do (UUIDv7). Others are found by
hashes of 64 bits, 8 bytes an id, and confirmed by the lines. The hashes are `hash`'s, of use within one process and
those forked from it; nobody can foresee them.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import lt
from typing import NamedTuple

import msgspec

from emitd_handlers.audit.verify.chunks import Chunk

__all__ = ["ChunkIds", "RepeatedId", "SeenIds", "find_repeated", "repeated_hashes", "sum_up"]

#: About so many hashes are looked at together: as objects they take ten times as much memory.
HASHES_AT_ONCE = 1_000_000


class RepeatedId(NamedTuple):
    """An id that stands in two lines."""

    id: str
    first_line: int
    line: int


class ChunkIds(msgspec.Struct, frozen=True):
    """The ids in one chunk: the first and the last of them where they ascend, else their hashes."""

    first: str = ""
    last: str = ""
    hashes: bytes = b""


def sum_up(ids: Sequence[str]) -> ChunkIds:
    """Return what `SeenIds` needs of the ids in a chunk."""
    if all(map(lt, ids, islice(ids, 1, None))):
        return ChunkIds(ids[0], ids[-1]) if ids else ChunkIds()
    return ChunkIds(hashes=_pack_hashes(ids))


class SeenIds:
    """Collects one field's ids, chunk by chunk, in order."""

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._last = ""
        self._do_ascend = True
        #: Those whose ids ascend; needed if not all do.
        self._unhashed: list[Chunk] = []

    def add(self, chunk: Chunk, ids: ChunkIds) -> None:
        """Add those of the next chunk."""
        self._hashes += ids.hashes
        if ids.hashes or (ids.first and ids.first <= self._last):
            self._do_ascend = False
        if ids.first:
            self._unhashed.append(chunk)
            self._last = ids.last

    def hashes(self, read: Callable[[Chunk], Iterable[str]]) -> bytearray:
        """Return the hashes of all ids, nothing where all ascend; `read` gives the ids in a chunk once more."""
        if self._do_ascend:
            return bytearray()
        for chunk in self._unhashed:
            self._hashes += _pack_hashes(read(chunk))
        self._unhashed = []
        return self._hashes


def _pack_hashes(ids: Iterable[str]) -> bytes:
    return array("q", list(map(hash, ids))).tobytes()


def repeated_hashes(data: bytes | bytearray) -> set[int]:
    """Return the hashes that are in `data` twice or more."""
    hashes = array("q")
    hashes.frombytes(data)
    return set().union(*map(_repeated, _parts(hashes)))


def _parts(hashes: "array[int]") -> Sequence["array[int]"]:
    """Part hashes so that those that are equal are in one part."""
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


def find_repeated(ids: Iterable[tuple[int, str]], hashes: set[int]) -> Iterator[RepeatedId]:
    """Yield the ids that stand in a line for the second time or more; `hashes` has the hashes of all of these."""
    first: dict[str, int] = {}
    for index, id_ in ids:
        if hash(id_) in hashes and first.setdefault(id_, index) != index:
            yield RepeatedId(id_, first[id_], index)
