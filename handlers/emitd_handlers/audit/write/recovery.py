"""The damage that a crash can do to an audit file.

A group of lines is synced before the next one is written, so a crash harms only the file's last bytes: at most one
group, not acknowledged, and not covered by a checkpoint. From the first damaged line on, all of them are moved into a
file of their own. Damage further back was done by something else: it is never cut.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable

#: The most that is written between two syncs, and so the most that a crash can damage.
MAX_GROUP_BYTES = 8 * 1024 * 1024
#: How much is read at once; far more than the longest line.
BLOCK_BYTES = 1024 * 1024


def find_damage(disk: Disk, fd: int, path: Path, covered: int = 0) -> int:
    """Return the offset at which the good lines end: that of the first damaged one, or the file's end.

    Looks at the lines that start within the last MAX_GROUP_BYTES, and not before the offset `covered`, where the
    lines end that a checkpoint covers. Raises HandlerUnavailable where damage starts before those.
    """
    size = disk.state(fd).size
    start = max(covered, size - MAX_GROUP_BYTES)
    # With the byte before, which is the end of a line if one starts right at `start`.
    read_from = max(0, start - 1)
    data = disk.read(fd, size - read_from, read_from)
    good = 0
    if start > 0:
        good = data.find(b"\n") + 1
        if good == 0:
            raise damaged_beyond_repair(path, read_from)
    while (end := data.find(b"\n", good)) >= 0 and _is_line(data[good:end]):
        good = end + 1
    return read_from + good


def _is_line(line: bytes) -> bool:
    with suppress(ValueError):
        decode_line(line)
        return True
    return False


def lines_backward(disk: Disk, fd: int, end: int, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines before `end`, where one ends, the last one first: its offset, and it without newline.

    Raises HandlerUnavailable where what stands between two newlines is far longer than a line.
    """
    start = end
    rest = b""  # from `start` on: the later part of a line
    while start > 0:
        size = min(BLOCK_BYTES, start)
        start -= size
        data = disk.read(fd, size, start) + rest
        # The first line may have begun before `start`, but for the first line of all.
        first = data.find(b"\n", 0, len(data) - 1) + 1 if start > 0 else 0
        if start > 0 and first == 0:
            raise damaged_beyond_repair(path, start)
        offset = start + len(data)
        for line in reversed(data[first:].split(b"\n")[:-1]):
            offset -= len(line) + 1
            yield offset, line
        rest = data[:first]


def damaged_beyond_repair(path: Path, offset: int) -> HandlerUnavailable:
    """Return the error for damage that no crash can have done."""
    return HandlerUnavailable(
        f"audit log '{path}' is damaged at byte {offset}, further back than a crash can reach: something "
        "else changed it. Nothing was cut. Put a good copy in its place, or move it away to begin a new log"
    )
