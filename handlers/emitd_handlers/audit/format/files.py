"""The files of an audit log: the lines, and next to them the files that prove them.

audit.json.log               the lines
audit.json.log.log_id        the log's id, if the configuration gives none
audit.json.log.hashes        the stored hashes of the lines' tree, 32 bytes each (see `tlog.merkle`)
audit.json.log.checkpoints   the signed checkpoints, oldest first: notes, a blank line after each
audit.json.log.key           the private key that signs them; PEM, mode 0600
audit.json.log.vkey          the public keys (see `tlog.key_list`), the newest last; a key is listed before it signs
audit.json.log.index         where lines begin: one entry for some hundred kilobytes of lines

An index entry is 16 bytes, big-endian: a line's number and the offset of its first byte; both grow from entry to entry.
The index is an aid and no evidence: a reader checks an entry against the hash stored for its line. A missing index is
rebuilt from the lines.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from emitd_handlers.tlog.key_list import ListedKey, read_key_list


class AuditPaths(msgspec.Struct, frozen=True):
    """The paths of one log's files."""

    lines: Path
    log_id: Path
    hashes: Path
    checkpoints: Path
    key: Path
    vkey: Path
    index: Path

    @classmethod
    def of(cls, lines: Path) -> "AuditPaths":
        """Return the paths of the log whose lines are in the file `lines`."""
        kinds = cls.__struct_fields__[1:]
        return cls(lines, *(lines.with_name(f"{lines.name}.{kind}") for kind in kinds))


# The lines.

#: Returns up to a number of bytes of a file from an offset.
ReadBytes: TypeAlias = Callable[[int, int], bytes]


class Entry(NamedTuple):
    """Where one line begins: its number, and the offset of its first byte."""

    leaf_index: int
    offset: int


FIRST = Entry(0, 0)


def line_blocks(read: ReadBytes, start: Entry, block_bytes: int) -> Iterator[tuple[Entry, bytes]]:
    """Yield the whole lines from `start` on, about `block_bytes` at once, and where each block begins.

    A part of a line at the end is left out.
    """
    size = block_bytes
    while data := read(size, start.offset):
        end = data.rfind(b"\n") + 1
        if end:
            yield start, data[:end]
            start, size = Entry(start.leaf_index + data.count(b"\n", 0, end), start.offset + end), block_bytes
        elif len(data) < size:
            return
        else:
            size *= 2  # for a longer line


# The checkpoints.

#: What a signature line begins with.
_SIGNATURE = "— ".encode()


def frame_note(note: bytes) -> bytes:
    """Return a note as it stands in the file."""
    return note + b"\n"


def split_notes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield each note in a part of the file, with its offset; `offset` is that of the part's first byte.

    Bytes that cannot be a note are yielded like one, so that nothing is passed over: they will not parse. So is the
    rest after the last blank line, which is a torn note.
    """
    start = 0
    while start < len(data):
        end = _end_of_note(data, start)
        yield offset + start, data[start:end]
        start = end + 1


def _end_of_note(data: bytes, start: int) -> int:
    """Return where the note from `start` on ends: after its last signature line, before the blank line."""
    blank = data.find(b"\n\n", start)
    while blank >= 0:
        line = data.rfind(b"\n", start, blank) + 1
        if data.startswith(_SIGNATURE, max(line, start)):
            return blank + 1
        blank = data.find(b"\n\n", blank + 1)
    return len(data)


# The public keys.


def read_key_file(path: Path) -> list[ListedKey]:
    """Return the keys in a file, the newest last; none if it is not there. Raises NoteInvalid, OSError."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return read_key_list(text, may_be_torn=True)


# The index.

_ENTRY = struct.Struct(">QQ")
ENTRY_BYTES = _ENTRY.size


def pack_entry(entry: Entry) -> bytes:
    """Return an entry's bytes."""
    return _ENTRY.pack(*entry)


def read_entry(read: ReadBytes, number: int) -> Entry:
    """Return entry `number` of an index, from 0, which must be there."""
    return Entry(*_ENTRY.unpack(read(ENTRY_BYTES, number * ENTRY_BYTES)))


def last_entry(read: ReadBytes, count: int, is_not_after: Callable[[Entry], bool]) -> Entry:
    """Return the last of `count` entries for which `is_not_after` holds; if it holds for none, the first line."""
    number = count_entries(read, count, is_not_after)
    return read_entry(read, number - 1) if number else FIRST


def count_entries(read: ReadBytes, count: int, is_not_after: Callable[[Entry], bool]) -> int:
    """Return for how many of `count` entries `is_not_after` holds; it must hold for all before the last of them.

    Reads some two dozen entries at most.
    """
    return bisect_left(range(count), True, key=lambda number: not is_not_after(read_entry(read, number)))
