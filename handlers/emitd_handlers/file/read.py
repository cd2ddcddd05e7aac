"""Reads log lines back from a file in JSON and those rotated before it, by their time of receipt.

    files, by name ─> blocks of whole lines, by the times in them ─> lines, by their time

The files may grow and rotate meanwhile. Lines that waited, for a queue or for a commit, stand later than others that
were received after them. So a line is yielded once no block that is left has an earlier one.

A rotated file is named `NAME.TIME`: no line in it was received later than that.
"""

import asyncio
import os
import re
import threading
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec

from emitd_handlers.log_source import LogPart, LogQuery
from emitd_handlers.record import LogRecord
from emitd_handlers.record_json import decode_line
from emitd_handlers.text.times import format_time, parse_time

#: What is read at once.
BLOCK_BYTES = 256 * 1024
#: No line is longer.
MAX_LINE_BYTES = 16 * 1024 * 1024
#: No line was received so long before its file was begun.
MAX_WAIT_NANOS = 600 * 1_000_000_000
#: How many files' blocks are remembered.
MAX_FILES = 1000
#: Enough to know the end of a line by: it has the time of receipt.
MARK_BYTES = 64
#: Later than any time.
NEVER = 2**63
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT)(\d\d)(\d\d)(\d\d\.\d{9}Z)")


def rotated_name(path: Path, unix_nano: int) -> Path:
    """Return the name of a file that is rotated at this time."""
    return path.with_name(f"{path.name}.{format_time(unix_nano).replace(':', '')}")


def old_files(path: Path) -> Sequence[tuple[int, Path]]:
    """Return the rotated files, each with the time of its rotation, the oldest first."""
    found = []
    with suppress(FileNotFoundError), os.scandir(path.parent) as entries:
        for entry in entries:
            match = _STAMP.fullmatch(entry.name.removeprefix(f"{path.name}."))
            if match is not None and entry.name.startswith(f"{path.name}.") and entry.is_file():
                day, hour, minute, rest = match.groups()
                with suppress(ValueError):
                    found.append((parse_time(f"{day}{hour}:{minute}:{rest}"), path.with_name(entry.name)))
    return sorted(found)


class Block(NamedTuple):
    """Some whole lines of a file, with the first and the last time of receipt among them."""

    start: int
    end: int
    first_unix_nano: int
    last_unix_nano: int


def scan(fd: int, start: int, size: int) -> Iterator[Block]:
    """Yield the blocks of a file from `start` on, without what follows the last newline before `size`."""
    length = BLOCK_BYTES
    while start < size and (data := os.pread(fd, min(length, size - start), start)):
        end = data.rfind(b"\n") + 1
        if not end and length < MAX_LINE_BYTES:
            length *= 2
            continue
        if not end and start + len(data) < size:
            end = len(data)
        if end:
            yield Block(start, start + end, *_times(data[:end]))
        start += end or len(data)
        length = BLOCK_BYTES


class _Index:
    """The blocks of a file as far as it was looked at. Several threads may go on with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[Block] = []
        #: What stands at the end of the last block: if something else does, the file was cut, and has grown again.
        self._mark = b""

    def blocks(self, fd: int, size: int) -> Sequence[Block] | None:
        """Look at one more block of a file of `size` bytes, and return all of them; None: there are more."""
        with self._lock:
            blocks = self._blocks
            if blocks and os.pread(fd, len(self._mark), blocks[-1].end - len(self._mark)) != self._mark:
                blocks.clear()
            block = next(scan(fd, blocks[-1].end if blocks else 0, size), None)
            if block is not None:
                if blocks and block.end - blocks[-1].start <= BLOCK_BYTES:
                    start, _, first, last = blocks.pop()
                    block = Block(
                        start, block.end, min(first, block.first_unix_nano), max(last, block.last_unix_nano)
                    )
                blocks.append(block)
                length = min(MARK_BYTES, block.end)
                self._mark = os.pread(fd, length, block.end - length)
            return blocks.copy() if block is None or block.end >= size else None


class LineReader:
    """Reads a file and those rotated before it, and remembers the times of their blocks."""

    def __init__(self, path: Path) -> None:
        #: The file; it may change.
        self.path = path
        self._lock = threading.Lock()
        #: By device and inode, that used last at the end.
        self._indexes: dict[tuple[int, int], _Index] = {}

    async def read_parts(self, query: LogQuery) -> AsyncGenerator[LogPart, None]:
        """Yield the lines that a query asks for, as `LogSource.read_lines` says; blocking calls run in a thread."""
        parts = self._read(query)
        try:
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                yield part
        finally:
            await asyncio.to_thread(parts.close)

    def _read(self, query: LogQuery) -> Generator[LogPart, None, None]:
        after, before = query.received_after_unix_nano, query.received_before_unix_nano
        # The newest come first by their negative times.
        sign, reached = (-1, 1 - before) if query.newest_first else (1, after)
        #: Those to be read: the first time in it by `sign`, a number, the file, the block.
        blocks: list[tuple[int, int, _File, Block]] = []
        numbers = count()
        found: list[LogRecord] = []
        spans = self._spans(query)
        span = next(spans, None)
        while blocks or span is not None:
            if span is not None and (not blocks or span[0] <= blocks[0][0]):
                file = span[1]
                index, size = self._index(file.fd)
                while (known := index.blocks(file.fd, size)) is None:
                    yield LogPart((), sign * reached)
                for block in known[::sign]:
                    if block.last_unix_nano >= after and block.first_unix_nano < before:
                        begin = block.first_unix_nano if sign > 0 else -block.last_unix_nano
                        heappush(blocks, (begin, next(numbers), file, block))
                span = next(spans, None)
                continue
            _, _, file, block = heappop(blocks)
            lines = os.pread(file.fd, block.end - block.start, block.start).split(b"\n")
            for line in lines[::sign]:
                with suppress(ValueError, RecursionError):  # damaged, or another program's
                    record = decode_line(line)
                    if after <= record.received_unix_nano < before and query.filter.matches(record):
                        found.append(record)
            limits = [*(each[0] for each in blocks[:1]), *(() if span is None else span[:1])]
            found.sort(key=lambda line: sign * line.received_unix_nano)
            end = len(found)
            if limits:
                reached = max(reached, min(limits))
                end = bisect_left(found, reached, key=lambda line: sign * line.received_unix_nano)
            yield LogPart(found[:end], sign * reached)
            del found[:end]

    def _index(self, fd: int) -> tuple[_Index, int]:
        """Return the index of an open file, and the file's size."""
        state = os.fstat(fd)
        key = state.st_dev, state.st_ino
        with self._lock:
            index = self._indexes[key] = self._indexes.pop(key) if key in self._indexes else _Index()
            if len(self._indexes) > MAX_FILES:
                del self._indexes[next(iter(self._indexes))]
        return index, state.st_size

    def _spans(self, query: LogQuery) -> Iterator[tuple[int, "_File"]]:
        """Yield the files in the order of the query, each open, and before it a time that none of its lines precedes.

        Nor does a line of the files after it. With `newest_first` such times are negative.
        """
        rotated: Sequence[tuple[int, Path]] = ()
        live = None
        while live is None or old_files(self.path)[-1:] != rotated[-1:]:  # else rotated in between
            rotated, live = old_files(self.path), _File(self.path)
        first = 0
        spans: list[tuple[int, int, Path | None]] = []
        for stamp, each in rotated:
            spans.append((first, stamp, each))
            first = min(stamp, time.time_ns()) - MAX_WAIT_NANOS
        spans.append((first, NEVER, None))
        for first, last, path in reversed(spans) if query.newest_first else spans:
            if last >= query.received_after_unix_nano and first < query.received_before_unix_nano:
                file = live if path is None else _File(path)
                if file.fd >= 0:
                    yield -last if query.newest_first else first, file


class _File:
    """An open file, which closes when nothing refers to it any longer. Its descriptor is -1 if there is none."""

    fd = -1

    def __init__(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Received(msgspec.Struct):
    received_at: str


_decode_received = msgspec.json.Decoder(_Received).decode
_RECEIVED = re.compile(rb'"received_at":"([0-9T:.-]{29}Z)"}\n')


def _times(data: bytes) -> tuple[int, int]:
    """Return the first and the last time of receipt in some lines; `NEVER` and -1: none can be read."""
    found = _RECEIVED.findall(data)
    if len(found) == data.count(b"\n"):  # a tenth of the time that the other way takes
        with suppress(ValueError):
            return parse_time(min(found).decode()), parse_time(max(found).decode())
    times = []
    for line in data.split(b"\n"):
        with suppress(ValueError, RecursionError):
            times.append(parse_time(_decode_received(line).received_at))
    return min(times, default=NEVER), max(times, default=-1)
