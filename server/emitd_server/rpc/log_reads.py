"""ListLogs and TailLogs: lines from memory and, before those, from a handler that keeps them.

Lines received until `RecentLines.dropped_until` are asked of the handler, later ones are in memory: so none is doubled.
Tails go on together, a few times a second: those that stand at the same line get one message, made once.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from random import random

from msgspec.structs import replace

from emitd.v1 import log_line_pb2 as pb
from emitd_handlers.log_source import LogFilter, LogPart, LogQuery, LogSource
from emitd_handlers.record import LogRecord
from emitd_handlers.room import MAX_PAGE_BYTES, MAX_PART_BYTES, Room
from emitd_server.convert import MAX_PAGE_SIZE, read_page_size
from emitd_server.convert.lines import Position, line_to_wire, position_to_wire, read_filter, read_position
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.errors import NoSource, RequestInvalid
from emitd_server.rpc.open_streams import StreamLimit

#: What a handler is asked for one page, which then ends early.
MAX_PAGE_PARTS = 256
#: The least time between two messages of a tail.
PACE_SECONDS = 0.1
#: Each open tail delays the others by up to this, so that not all send at once, which would hold up calls.
SPREAD_SECONDS = 0.001
#: Lines looked at in one turn of the event loop.
SLICE_LINES = 1000
#: How long a turn of the event loop may look at lines, however slow a filter is; the clock is read every few lines.
SLICE_SECONDS = 0.005
LINES_A_CLOCK_READING = 8
#: What a line takes in a message besides its own bytes.
OVERHEAD_BYTES = 8
NOT_KEPT = "log lines are not kept here:"


class LogReads:
    """Serves every page and every tail of log lines."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        settings = dispatcher.settings.watch
        self._dispatcher = dispatcher
        self._lines = dispatcher.lines
        self._lines.listeners.append(self._note_lines)
        self._heartbeat_seconds = settings.heartbeat_seconds
        self._limit = StreamLimit(settings.max_watchers, "server.watch.max_watchers")
        #: Marks the numbers of lines as those of this process.
        self._service = secrets.randbits(63) | 1
        #: Tails may send the lines before this number.
        self._edge = 0
        self._edge_at = 0.0
        #: Done when the edge moves; None: no tail waits.
        self._news: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: The messages made since the edge moved.
        self._parts: dict[tuple[Position, LogQuery], tuple[bytes, Position]] = {}

    async def list(self, request: pb.ListLogsRequest) -> pb.ListLogsResponse:
        """Return a page. Raises RequestInvalid, NoSource, HandlerUnavailable."""
        room = Room(read_page_size(request.page_size), MAX_PAGE_BYTES)
        source = self._older_lines()
        query = LogQuery(
            filter=read_filter(request.filter),
            received_after_unix_nano=request.received_after_unix_nano,
            received_before_unix_nano=request.received_before_unix_nano or 2**63,
            newest_first=request.newest_first,
        )
        position = Position(0, 0)
        if request.page_token:
            position = read_position("page_token", request.page_token)
            query = _from(position, query)
        begin = query.received_before_unix_nano - 1 if query.newest_first else query.received_after_unix_nano
        response = pb.ListLogsResponse()
        parts, new = 0, _Unsent(position)
        async with aclosing(self._read(query, source)) as found:
            async for part, _ in found:
                for record in new.of(part.lines):
                    line = line_to_wire(record)
                    if not room.take(line.ByteSize() + OVERHEAD_BYTES):
                        response.next_page_token = position_to_wire(position)
                        return response
                    response.lines.append(line)
                    position = position.after(record)
                # A page that ended where it began would be asked for again and again.
                parts += part.reached_unix_nano != begin
                if parts == MAX_PAGE_PARTS:
                    if part.reached_unix_nano != position.received_unix_nano:
                        position = Position(part.reached_unix_nano, 0)
                    response.next_page_token = position_to_wire(position)
                    return response
        response.history_truncated = self._is_truncated(request.received_after_unix_nano, source)
        return response

    async def tail(self, request: pb.TailLogsRequest) -> AsyncGenerator[bytes, None]:
        """Yield serialised TailLogsResponse messages for ever.

        Raises TooManyWatchers, ServiceStopping, RequestInvalid, NoSource, HandlerUnavailable.
        """
        if not self._lines.is_on:
            raise NoSource(f"{NOT_KEPT} server.recent_lines_bytes is 0")
        wanted = read_filter(request.filter)
        with self._limit.counted():
            loop = asyncio.get_running_loop()
            position = Position(0, 0)
            async with aclosing(self._history(request, wanted)) as messages:
                async for message, position in messages:  # noqa: B007  # the last is where the next lines begin
                    if message:
                        yield message
            query = LogQuery(filter=wanted)
            if position.received_unix_nano > self._dispatcher.clock.now():
                query = replace(query, received_after_unix_nano=position.received_unix_nano)
            phase = random()
            sent_at = loop.time()
            while True:
                if position.number < self._edge:
                    begun = loop.time()
                    message, position = self._part(position, query)
                    await asyncio.sleep(loop.time() - begun)  # as long as that took, others have their turn
                    if message:
                        yield message
                        sent_at = loop.time()
                    continue
                idle_seconds = sent_at + self._heartbeat_seconds - loop.time()
                if idle_seconds <= 0:
                    yield _message(position, heartbeat=True)
                    sent_at = loop.time()
                    continue
                await self._wait_for_edge(position.number, idle_seconds)
                await asyncio.sleep(phase * min(self._limit.open * SPREAD_SECONDS, PACE_SECONDS))

    def _older_lines(self) -> LogSource | None:
        source = self._dispatcher.older_lines
        if source is None and not self._lines.is_on:
            raise NoSource(
                f"{NOT_KEPT} server.recent_lines_bytes is 0, and no active handler keeps them, such as 'type: file'"
            )
        return source

    def _is_truncated(self, after_unix_nano: int, source: LogSource | None) -> bool:
        return source is None and 0 < after_unix_nano <= self._lines.dropped_until

    async def _read(
        self, query: LogQuery, source: LogSource | None
    ) -> AsyncGenerator[tuple[LogPart, int], None]:
        """Yield the lines of a query from both places, each part with the number of the next line at that time."""
        lines, after, before = self._lines, query.received_after_unix_nano, query.received_before_unix_nano
        edge = lines.dropped_until if lines.is_on else 2**63 - 1
        if query.newest_first:
            kept_after = after if source is None else max(after, edge + 1)
            async for step in self._recent(replace(query, received_after_unix_nano=kept_after)):
                yield step
            if source is not None and after <= edge:
                older = replace(query, received_before_unix_nano=min(before, edge + 1))
                async for part in source.read_lines(older):
                    yield part, lines.next_number
            return
        while source is not None and after < before and after <= edge:
            older = replace(
                query, received_after_unix_nano=after, received_before_unix_nano=min(before, edge + 1)
            )
            async for part in source.read_lines(older):
                yield part, lines.next_number
            after, edge = edge + 1, (lines.dropped_until if lines.is_on else edge)
        async for step in self._recent(replace(query, received_after_unix_nano=after)):
            yield step

    async def _recent(self, query: LogQuery) -> AsyncGenerator[tuple[LogPart, int], None]:
        """Yield the lines of a query that are in memory now. They may be a million, so a thread looks at them."""
        number, kept = self._lines.next_number, self._lines.snapshot()
        kept = await asyncio.to_thread(_between, kept, query)
        reached = query.received_after_unix_nano
        for start in range(0, max(1, len(kept)), SLICE_LINES):
            lines = kept[start : start + SLICE_LINES]
            found = await asyncio.to_thread(list, filter(query.filter.matches, lines))
            reached = lines[-1].received_unix_nano if lines else reached
            yield LogPart(found, reached), number

    async def _history(
        self, request: pb.TailLogsRequest, wanted: LogFilter
    ) -> AsyncGenerator[tuple[bytes, Position], None]:
        """Yield the messages of a tail before the lines to come, each with the position after it.

        The first has no line and comes at once: no line from then on is missed. The last may be empty.
        """
        lines = self._lines
        number = lines.next_number
        # With the time, by which another service goes on: it does not know the numbers.
        position = Position(self._dispatcher.clock.now(), 0, self._service, number)
        match request.WhichOneof("start"):
            case "last" if request.last:
                # Without a token: another stream has to begin with the last lines as well.
                yield pb.TailLogsResponse(heartbeat=True).SerializeToString(), position
                number = lines.next_number  # others may have come while that was sent
                last, position = await self._last(wanted, request.last, position)
                if not last:
                    yield _message(position, heartbeat=True), position
                for step in _messages(last, position):
                    position = step[1]
                    yield step
            case None | "last":
                yield _message(position, heartbeat=True), position
            case _:
                start = Position(request.received_after_unix_nano, 0)
                if request.HasField("resume_token"):
                    start = read_position("resume_token", request.resume_token)
                source = self._dispatcher.older_lines
                if start.service == self._service and (start.number >= lines.first_number or source is None):
                    if start.number > number:
                        raise RequestInvalid("resume_token", "is not a token of this server")
                    yield _message(start, heartbeat=True), start
                    return
                is_truncated = self._is_truncated(start.received_unix_nano, source)
                yield _message(start, heartbeat=True, history_truncated=is_truncated), start
                position, query, new = start, _from(start, LogQuery(filter=wanted)), _Unsent(start)
                async with aclosing(self._read(query, source)) as parts:
                    async for part, next_number in parts:
                        number = next_number  # in the end of the lines in memory, which come last
                        for step in _messages(new.of(part.lines), position):
                            position = step[1]
                            yield step
        yield b"", replace(position, service=self._service, number=number)

    async def _last(
        self, wanted: LogFilter, count: int, position: Position
    ) -> tuple[Sequence[LogRecord], Position]:
        """Return the last lines that match, oldest first, and the position before them, without any `position`."""
        if count > MAX_PAGE_SIZE:
            raise RequestInvalid("last", f"is {count}, more than {MAX_PAGE_SIZE}")
        newest: list[LogRecord] = []
        query = LogQuery(filter=wanted, newest_first=True)
        async with aclosing(self._read(query, self._dispatcher.older_lines)) as parts:
            async for part, _ in parts:
                newest += part.lines
                # Those that were received together with the first are counted by its position.
                if (
                    len(newest) > count
                    and newest[-1].received_unix_nano < newest[count - 1].received_unix_nano
                ):
                    break
        last, before = newest[:count][::-1], newest[count:]
        if last:
            together = last[0].received_unix_nano
            same = [line for line in before if line.received_unix_nano == together]
            position = Position(together, len(same))
        return last, position

    def _part(self, position: Position, query: LogQuery) -> tuple[bytes, Position]:
        """Return the next message of a tail, or an empty one, and the position after it."""
        key = (position, query)
        if key not in self._parts:
            self._parts[key] = self._make_part(position, query)
        return self._parts[key]

    def _make_part(self, position: Position, query: LogQuery) -> tuple[bytes, Position]:
        number = max(position.number, self._lines.first_number)
        missed = number - position.number
        found = []
        room = Room(SLICE_LINES, MAX_PART_BYTES)
        give_up_at = time.monotonic() + SLICE_SECONDS
        for record in islice(self._lines.after(number), max(0, min(SLICE_LINES, self._edge - number))):
            if record.received_unix_nano >= query.received_after_unix_nano and query.filter.matches(record):
                line = line_to_wire(record)
                if not room.take(line.ByteSize() + OVERHEAD_BYTES):
                    break
                found.append(line)
                # A line that waited is no step back.
                if record.received_unix_nano >= position.received_unix_nano:
                    position = position.after(record)
            number += 1
            if number % LINES_A_CLOCK_READING == 0 and time.monotonic() > give_up_at:
                break
        position = replace(position, number=number)
        return _message(position, found, missed_count=missed) if found or missed else b"", position

    def _note_lines(self) -> None:
        if self._news is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._edge_at + PACE_SECONDS), self._move_edge)

    def _move_edge(self) -> None:
        self._timer = None
        self._edge = self._lines.next_number
        self._edge_at = asyncio.get_running_loop().time()
        self._parts.clear()
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    async def _wait_for_edge(self, number: int, seconds: float) -> None:
        """Wait until lines from `number` on may be sent, at most so long."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        if self._lines.next_number > number:
            self._note_lines()
        await asyncio.wait((self._news,), timeout=seconds)


def _between(lines: Sequence[LogRecord], query: LogQuery) -> Sequence[LogRecord]:
    """Return the lines of the times of a query, in its order."""
    after, before = query.received_after_unix_nano, query.received_before_unix_nano
    lines = [line for line in lines if after <= line.received_unix_nano < before]
    lines = sorted(lines, key=lambda line: line.received_unix_nano)
    return lines[::-1] if query.newest_first else lines


def _from(position: Position, query: LogQuery) -> LogQuery:
    """Return the query that goes on at a position; lines of its very time come again."""
    if query.newest_first:
        before = min(query.received_before_unix_nano, position.received_unix_nano + 1)
        return replace(query, received_before_unix_nano=before)
    after = max(query.received_after_unix_nano, position.received_unix_nano)
    return replace(query, received_after_unix_nano=after)


class _Unsent:
    """Leaves out the lines that a position counts, which come first among those of its time."""

    def __init__(self, position: Position) -> None:
        self._received_unix_nano = position.received_unix_nano
        self._count = position.count

    def of(self, lines: Iterable[LogRecord]) -> Iterator[LogRecord]:
        """Return the lines that were not sent."""
        for line in lines:
            if self._count and line.received_unix_nano == self._received_unix_nano:
                self._count -= 1
            else:
                yield line


def _messages(lines: Iterable[LogRecord], position: Position) -> Iterator[tuple[bytes, Position]]:
    """Yield the messages with these lines, each with the position after it."""
    room = Room(SLICE_LINES, MAX_PART_BYTES)
    found: list[pb.LogLine] = []
    for record in lines:
        line = line_to_wire(record)
        if not room.take(line.ByteSize() + OVERHEAD_BYTES):
            yield _message(position, found), position
            room, found = Room(SLICE_LINES, MAX_PART_BYTES), []
            room.take(line.ByteSize() + OVERHEAD_BYTES)
        found.append(line)
        position = replace(position.after(record), service=0, number=0)
    if found:
        yield _message(position, found), position


def _message(
    position: Position,
    lines: Sequence[pb.LogLine] = (),
    *,
    missed_count: int = 0,
    heartbeat: bool = False,
    history_truncated: bool = False,
) -> bytes:
    return pb.TailLogsResponse(
        lines=lines,
        missed_count=missed_count,
        heartbeat=heartbeat,
        resume_token=position_to_wire(position),
        history_truncated=history_truncated,
    ).SerializeToString()
