"""Reads log lines back from a file in JSON and those rotated before it. They may grow and rotate meanwhile.

A rotated file is named `NAME.TIME`: no line in it was received later than that.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from emitd_handlers.log_source import LogPart, LogQuery
from emitd_handlers.record import LogRecord
from emitd_handlers.record_json import decode_line
from emitd_handlers.text.times import format_time, parse_time

#: What is read at once.
BLOCK_BYTES = 1024 * 1024
#: Lines that waited, for a queue or for a commit, may stand so much later than their time of receipt says.
DISORDER_NANOS = 60 * 1_000_000_000
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT)(\d\d)(\d\d)(\d\d\.\d{9}Z)")


def rotated_name(path: Path, unix_nano: int) -> Path:
    """Return the name of a file that is rotated at this time."""
    return path.with_name(f"{path.name}.{format_time(unix_nano).replace(':', '')}")


def old_files(path: Path) -> Sequence[tuple[int, Path]]:
    """Return the rotated files, each with the time of its rotation, the oldest first."""
    found = []
    with suppress(FileNotFoundError):
        for name in os.listdir(path.parent):
            match = _STAMP.fullmatch(name.removeprefix(f"{path.name}."))
            if match is not None and name.startswith(f"{path.name}."):
                day, hour, minute, rest = match.groups()
                with suppress(ValueError):
                    found.append((parse_time(f"{day}{hour}:{minute}:{rest}"), path.with_name(name)))
    return sorted(found)


async def read_parts(path: Path, query: LogQuery) -> AsyncGenerator[LogPart, None]:
    """Yield the lines that a query asks for, as `LogSource.read_lines` says; blocking calls run in a thread."""
    parts = _read(path, query)
    try:
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield part
    finally:
        await asyncio.to_thread(parts.close)


def _read(path: Path, query: LogQuery) -> Generator[LogPart, None, None]:
    after, before = query.received_after_unix_nano, query.received_before_unix_nano
    reached = before if query.newest_first else after
    with closing(_files(path, query)) as files:
        for fd in files:
            size = os.fstat(fd).st_size
            if query.newest_first:
                blocks = _backwards(fd, size)
            else:
                blocks = _forwards(fd, _start(fd, size, after - DISORDER_NANOS), size)
            for lines in blocks:
                found = []
                for line in lines:
                    try:
                        record = decode_line(line)
                    except ValueError:  # damaged, or another program's
                        continue
                    reached = record.received_unix_nano
                    if after <= reached < before and query.filter.matches(record):
                        found.append(record)
                yield LogPart(found, reached)
                if (
                    reached + DISORDER_NANOS < after
                    if query.newest_first
                    else reached - DISORDER_NANOS > before
                ):
                    return


def _files(path: Path, query: LogQuery) -> Generator[int, None, None]:
    """Yield the files open, in the order of the query; each is closed when the next is asked for."""
    with ExitStack() as stack:
        # Opened before the others are listed: a file rotated in between is in both places.
        live = _opened(path, stack)
        files = [each for stamp, each in old_files(path) if stamp >= query.received_after_unix_nano] + [path]
        known = None if live is None else os.fstat(live).st_ino
        for each in files[::-1] if query.newest_first else files:
            with ExitStack() as own:
                fd = live if each == path else _opened(each, own)
                if fd is not None and (fd == live or os.fstat(fd).st_ino != known):
                    yield fd


def _opened(path: Path, stack: ExitStack) -> int | None:
    """Open a file until the end of the stack; None: it is not there, or no more."""
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd
    return None


def _forwards(fd: int, offset: int, size: int) -> Iterator[Sequence[bytes]]:
    """Yield the complete lines from `offset`, where one begins, to `size`, block by block."""
    rest = b""
    while offset < size and (block := os.pread(fd, min(BLOCK_BYTES, size - offset), offset)):
        offset += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield lines


def _backwards(fd: int, size: int) -> Iterator[Sequence[bytes]]:
    """Yield the complete lines before `size`, the last first, block by block."""
    rest = b""
    is_end = True
    while size > 0:
        start = max(0, size - BLOCK_BYTES)
        lines = (os.pread(fd, size - start, start) + rest).split(b"\n")
        size = start
        if is_end:
            lines.pop()  # what follows the last newline is no complete line
            if not lines:
                continue
            is_end = False
        rest = lines.pop(0) if start else b""
        yield lines[::-1]


def _start(fd: int, size: int, unix_nano: int) -> int:
    """Return an offset where a line begins, before which all lines were received before `unix_nano`."""
    low, high = 0, size
    while unix_nano > 0 and high - low > BLOCK_BYTES:
        middle = (low + high) // 2
        found = _first_line(fd, middle)
        if found is not None and found[1].received_unix_nano < unix_nano:
            low = found[0]
        else:
            high = middle
    return low


def first_time(fd: int) -> int:
    """Return when the first line was received; 0: it cannot be read."""
    found = _first_line(fd, -1)
    return 0 if found is None else found[1].received_unix_nano


def _first_line(fd: int, offset: int) -> tuple[int, LogRecord] | None:
    """Return the first line that begins after `offset` and can be read, and where it begins."""
    block = b"\n" * (offset < 0) + os.pread(fd, BLOCK_BYTES, max(0, offset))
    begin = block.find(b"\n") + 1
    while begin and (end := block.find(b"\n", begin)) >= 0:
        with suppress(ValueError):
            return offset + begin, decode_line(block[begin:end])
        begin = end + 1
    return None
