"""Whether an id stands in a log twice, from the same source: an id belongs to its sender.

Repeated ids are found by hashes of 64 bits, 8 bytes an id, and confirmed by the lines. The hashes are those of `hash`,
of use within one process and those forked from it; an attacker cannot foresee them.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from emitd_handlers.audit.format.line import decode_line, recent_commit

#: About this many hashes are looked at together: as objects they take ten times as much memory.
HASHES_AT_ONCE = 1_000_000
_SAME = "equal content: its sender sent it again when the service no longer remembered it"
_OTHER = "other content: its sender gave two events one id"


def pack_hashes(ids: Iterable[tuple[str, str]]) -> bytes:
    """Return the hashes of some ids, each behind its source, for `repeated_hashes`."""
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


def repeated_in_words(lines: Iterable[tuple[int, bytes]], hashes: Mapping[str, set[int]]) -> Iterator[str]:
    """Yield a sentence for each line that has an id of an earlier line of its source; of two such ids, the event's.

    `hashes` has those of the repeated ids, by field. Content is compared as the service compares that of a retry.
    """
    first: dict[tuple[str, str, str], tuple[int, int]] = {}
    for index, data in lines:
        found: list[str] = []
        with suppress(ValueError):  # the form of the line was found wrong already
            line = decode_line(data)
            for field, repeated in hashes.items():
                id_ = getattr(line, field)
                if id_ and hash((line.source, id_)) in repeated:
                    sent = recent_commit(data, "", index).fingerprint
                    before, first_sent = first.setdefault((field, line.source, id_), (index, sent))
                    why = _SAME if sent == first_sent else _OTHER
                    if before != index:
                        found.append(f"line {index} has the {field} '{id_}' of line {before}, and {why}")
        yield from found[:1]
