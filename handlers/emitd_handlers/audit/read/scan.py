"""Looks through a log's lines for those that a filter wants, a block at a time, forward or backward.

Every encoder of JSON writes plain letters as they are. So a line without the letters of the filter need not be decoded
nor split off: a scan takes 0.15 µs a line instead of 2.6.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.audit.read.trail import CommittedTrail
from emitd_handlers.audit.source import AuditEntry, AuditFilter
from emitd_handlers.errors import AuditQueryInvalid
from emitd_handlers.record import usual_source_ip
from emitd_handlers.room import Room
from emitd_handlers.text.times import parse_time
from emitd_handlers.tlog.merkle import leaf_hash

#: How much is looked at in one step: less where each line will be decoded.
BLOCK_BYTES = 1024 * 1024
NEEDLE_BLOCK_BYTES = 4 * 1024 * 1024
#: What an entry takes in a message besides its line, which is in it twice: as it is, and decoded.
ENTRY_OVERHEAD_BYTES = 200

#: An IPv4 address that is spelt by the digits of IPv6: `::ffff:cb00:7107` is 203.0.113.7.
_IPV4_AS_HEX = re.compile(rb":[fF]{4}:[0-9a-fA-F]{1,4}:[0-9a-fA-F]")
#: Letters that no encoder of JSON escapes.
_PLAIN = re.compile(rb"[A-Za-z0-9._:@-]+")

#: A line within a block: its number and its bytes, from and to.
Span: TypeAlias = tuple[int, int, int]


class Scan(msgspec.Struct, frozen=True):
    """What a scan looks for, and where it ends."""

    wanted: AuditFilter
    #: The offset at which to stop.
    stop: int
    backward: bool = False


class Step(msgspec.Struct, frozen=True):
    """The entries in one block, and where to go on."""

    entries: Sequence[AuditEntry]
    #: Where to go on: at this line forward, before it backward.
    position: Entry
    #: How many bytes were looked at.
    size: int


def scan_block(trail: CommittedTrail, scan: Scan, position: Entry, room: Room) -> Step:
    """Look through the next block from `position` on, until the room is full. Raises what CommittedTrail does.

    An entry that does not fit is left for the next page.
    """
    needle = needle_of(scan.wanted)
    size = NEEDLE_BLOCK_BYTES if needle else BLOCK_BYTES
    if scan.backward:
        start, block = trail.block_before(position, scan.stop, size)
    else:
        start, block = position, trail.block_after(position, scan.stop, size)
    if needle and needle == usual_source_ip(scan.wanted.source_ip).encode() and _IPV4_AS_HEX.search(block):
        needle = b""
    spans = list(_spans(block, needle))
    entries: list[AuditEntry] = []
    for number, at, end in reversed(spans) if scan.backward else spans:
        entry = entry_of(start.leaf_index + number, block[at:end])
        if not scan.wanted.matches(entry.parsed):
            continue
        fits = room.take(2 * len(entry.line) + ENTRY_OVERHEAD_BYTES)
        if fits:
            entries.append(entry)
            if scan.backward and scan.wanted.event_id and "event_id" in entry.parsed.assigned:  # type: ignore[union-attr]
                # No earlier line can have an id that the server has made here.
                return Step(entries, Entry(0, scan.stop), len(block))
        if room.is_full:
            is_after = fits is not scan.backward
            point = end + 1 if is_after else at
            position = Entry(entry.leaf_index + is_after, start.offset + point)
            return Step(entries, position, len(block) - point if scan.backward else point)
    if not scan.backward:
        start = Entry(start.leaf_index + block.count(b"\n"), start.offset + len(block))
    return Step(entries, start, len(block))


def newest_event(found: AuditEntry | None, entries: Sequence[AuditEntry]) -> AuditEntry | None:
    """Return the newest of the lines with one event id: `found` until now, and `entries` before it, newest first.

    Raises AuditQueryInvalid if they are of several sources: an id belongs to its source.
    """
    entries = [found, *entries] if found else entries
    sources = sorted({entry.parsed.source for entry in entries if entry.parsed})
    if len(sources) > 1:
        names = ", ".join(map(repr, sources))
        raise AuditQueryInvalid("source", f"several sources have an event with this id, {names}: name one")
    return entries[0] if entries else None


def entry_of(index: int, line: bytes) -> AuditEntry:
    """Return what a line is and says."""
    try:
        parsed = decode_line(line)
        return AuditEntry(index, line, leaf_hash(line), parsed, parse_time(parsed.received_at))
    except ValueError:
        return AuditEntry(index, line, leaf_hash(line), None, 0)


def needle_of(wanted: AuditFilter) -> bytes:
    """Return bytes that stand in each line that a filter matches; empty: there are none that are sure to."""
    # The rarest first. An address with colons can be spelt in several ways, and so can IPv4: see `_IPV4_AS_HEX`.
    address = usual_source_ip(wanted.source_ip)
    address = "" if ":" in address else address
    for text in (wanted.event_id, wanted.user_id, address, wanted.event_name_prefix):
        parts = _PLAIN.findall(text.encode(errors="replace"))
        if parts:
            return bytes(max(parts, key=len))
    return b""


def _spans(block: bytes, needle: bytes) -> Iterator[Span]:
    """Yield the lines of a block that hold `needle`."""
    if not needle:
        at = 0
        for number, line in enumerate(block[:-1].split(b"\n")):
            yield number, at, at + len(line)
            at += len(line) + 1
        return
    number = at = 0
    found = block.find(needle)
    while found >= 0:
        start = block.rfind(b"\n", at, found) + 1 or at
        number += block.count(b"\n", at, start)
        end = block.find(b"\n", found)
        yield number, start, end
        number, at = number + 1, end + 1
        found = block.find(needle, at)
