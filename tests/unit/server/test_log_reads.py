"""ListLogs and TailLogs, asked of the servicer: every accepted line once, in order, or counted as missed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest
from msgspec.structs import replace

from emitd.v1 import log_line_pb2 as pb
from emitd.v1 import log_service_pb2, record_pb2
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.log_source import LogPart, LogQuery
from emitd_handlers.outcome import Committed, Outcomes
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import HandlerSettings
from emitd_handlers.testing import InMemoryHandler
from emitd_server.convert.lines import position_to_wire, read_position
from emitd_server.dispatch.recent_lines import RecentLines
from emitd_server.errors import NoSource, RequestInvalid, TooManyWatchers
from emitd_server.memory import records_bytes
from emitd_server.rpc import log_reads
from emitd_server.rpc.log_reads import MAX_PAGE_PARTS
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.service import LoggingService
from emitd_server.settings import ServerSettings, WatchSettings

#: Less than five lines of these tests.
SMALL_RING_BYTES = 4000


class LongMemory(InMemoryHandler):
    """Keeps every line, and lets them be read in parts of two."""

    keeps_lines = True

    async def read_lines(self, query: LogQuery) -> AsyncGenerator[LogPart, None]:
        """As LogSource says."""
        after, before = query.received_after_unix_nano, query.received_before_unix_nano
        lines = [line for line in self.records if after <= line.received_unix_nano < before]
        if query.newest_first:
            lines.reverse()
        for start in range(0, len(lines), 2):
            part = lines[start : start + 2]
            wanted = [line for line in part if query.filter.matches(line)]
            yield LogPart(wanted, part[-1].received_unix_nano)
            await asyncio.sleep(0)


class SlowMemory(LongMemory):
    """Looks at much before it finds a line."""

    async def read_lines(self, query: LogQuery) -> AsyncGenerator[LogPart, None]:
        """As LogSource says."""
        reached = (
            query.received_before_unix_nano - 1 if query.newest_first else query.received_after_unix_nano
        )
        for _ in range(MAX_PAGE_PARTS + 10):
            yield LogPart((), reached)
            await asyncio.sleep(0)
        async for part in super().read_lines(query):
            yield part


class Server:
    """A servicer over one handler, and what a caller does with it."""

    def __init__(self, service: LoggingService) -> None:
        self.service = service
        self.servicer = LogServicer(service)

    async def emit(self, *messages: str, **fields: object) -> log_service_pb2.EmitBatchResponse:
        """Emit a line for each message, in one batch."""
        given = {"level": record_pb2.LEVEL_INFO, "source": "shop"} | fields
        records = [record_pb2.LogRecord(message=message, **given) for message in messages]  # type: ignore[arg-type]
        request = log_service_pb2.EmitBatchRequest(records=records)
        answer = await self.servicer.emit_batch(request.SerializeToString())
        return log_service_pb2.EmitBatchResponse.FromString(answer)

    async def page(self, **fields: object) -> pb.ListLogsResponse:
        """Return one page."""
        request = pb.ListLogsRequest(**fields)  # type: ignore[arg-type]
        return pb.ListLogsResponse.FromString(await self.servicer.list_logs(request.SerializeToString()))

    async def all_pages(self, **fields: object) -> list[str]:
        """Return the messages of all pages."""
        found, token = [], ""
        while True:
            page = await self.page(page_token=token, **fields)
            found += texts(page.lines)
            token = page.next_page_token
            if not token:
                return found

    async def tail(self, **fields: object) -> AsyncGenerator[pb.TailLogsResponse, None]:
        """Yield a tail's messages."""
        request = pb.TailLogsRequest(**fields)  # type: ignore[arg-type]
        async with aclosing(self.servicer.tail_logs(request.SerializeToString())) as messages:
            async for message in messages:
                yield pb.TailLogsResponse.FromString(message)


def texts(lines: Sequence[pb.LogLine]) -> list[str]:
    """Return the messages of lines."""
    return [line.record.message for line in lines]


@asynccontextmanager
async def serving(
    handler: InMemoryHandler | None = None, ring_bytes: int = 1 << 20, **watch: float
) -> AsyncIterator[Server]:
    """Run a service over one handler."""
    settings = ServerSettings(recent_lines_bytes=ring_bytes, watch=WatchSettings(**watch))  # type: ignore[arg-type]
    async with LoggingService([handler or InMemoryHandler(name="lines")], settings=settings) as service:
        yield Server(service)


async def take(tail: AsyncGenerator[pb.TailLogsResponse, None], count: int) -> list[pb.TailLogsResponse]:
    """Return a tail's messages until it has brought `count` lines."""
    messages = []
    async with asyncio.timeout(10):
        while sum(len(message.lines) for message in messages) < count:
            messages.append(await anext(tail))
    return messages


def lines_of(messages: Sequence[pb.TailLogsResponse]) -> list[str]:
    """Return the lines of a tail's messages."""
    return [text for message in messages for text in texts(message.lines)]


class TestList:
    """ListLogs."""

    async def test_a_line_comes_back_with_every_field(self) -> None:
        """All that was sent is in the page, with the time of receipt."""
        async with serving() as server:
            sent = record_pb2.LogRecord(
                record_id="r1",
                time_unix_nano=7,
                level=record_pb2.LEVEL_ERROR,
                message="no",
                source="shop",
                attributes_json='{"a":1}',
                trace_id=bytes(16),
                span_id=bytes(8),
            )
            request = log_service_pb2.EmitRequest(record=sent)
            await server.servicer.emit(request.SerializeToString())
            (line,) = (await server.page()).lines
            assert line.record == sent
            assert line.receive_time_unix_nano > 1_700_000_000_000_000_000

    @pytest.mark.parametrize("newest_first", [False, True])
    @pytest.mark.parametrize("page_size", [1, 2, 3, 100])
    @pytest.mark.parametrize("long", [False, True])
    async def test_pages_have_each_line_once_in_order(
        self, newest_first: bool, page_size: int, long: bool
    ) -> None:
        """Whatever the size of a page, also where a page ends between lines of one request, or of both sources."""
        handler = LongMemory(name="lines") if long else InMemoryHandler(name="lines")
        async with serving(handler, SMALL_RING_BYTES if long else 1 << 20) as server:
            for first in range(0, 12, 3):
                await server.emit(*(str(first + place) for place in range(3)))
            await handler.wait_for(12)
            expected = [str(number) for number in range(12)]
            if newest_first:
                # The lines of one request have one time of receipt; among them the newest is the last.
                expected.reverse()
            assert await server.all_pages(page_size=page_size, newest_first=newest_first) == expected

    @pytest.mark.parametrize("newest_first", [False, True])
    async def test_each_page_gets_on(self, newest_first: bool) -> None:
        """A page does not end early at the place where it began: it would be asked for again for ever."""
        handler = SlowMemory(name="lines")
        async with serving(handler, SMALL_RING_BYTES) as server:
            for number in range(12):
                await server.emit(str(number))
            await handler.wait_for(12)
            expected = [str(number) for number in range(12)]
            async with asyncio.timeout(10):
                found = await server.all_pages(page_size=1, newest_first=newest_first)
            assert found == (expected[::-1] if newest_first else expected)

    async def test_filters(self) -> None:
        """Level, sources, text, job and trace: each leaves out the others, and all must match."""
        async with serving() as server:
            await server.emit("Plain")
            await server.emit("bad day", level=record_pb2.LEVEL_ERROR, source="auth.web")
            await server.emit("job line", attributes_json='{"job_id":"j1"}', source="auth.web")
            await server.emit("other job", attributes_json='{"job_id":["j1"],"x":"job_id"}')
            await server.emit("traced", trace_id=b"t" * 16)

            async def found(**fields: object) -> list[str]:
                return texts((await server.page(filter=pb.LogFilter(**fields))).lines)  # type: ignore[arg-type]

            assert await found(min_level=record_pb2.LEVEL_WARNING) == ["bad day"]
            assert await found(min_level=record_pb2.LEVEL_ERROR) == ["bad day"]
            assert await found(min_level=record_pb2.LEVEL_CRITICAL) == []
            assert await found(sources=["auth.*"]) == ["bad day", "job line"]
            assert await found(sources=["auth"]) == []
            assert await found(sources=["*"]) == await found()
            assert await found(sources=["shop", "*web"], text="JOB") == ["job line", "other job"]
            assert await found(text="plain") == ["Plain"]
            assert await found(job_id="j1") == ["job line"]
            assert await found(trace_id=b"t" * 16) == ["traced"]

    @pytest.mark.parametrize(
        ("attributes", "job_id"),
        [
            ('{"job_id":7}', "7"),
            ('{"job_id": -1.50}', "-1.50"),
            ('{"job_id":12345678901234567890123}', "12345678901234567890123"),
            ('{"job\\u005fid":"j\\u0031"}', "j1"),
            ('{"job_id":"\\u00e9😀"}', "é😀"),
            ('{"job_id":null,"x":"None"}', ""),
            ('{"x":{"job_id":"j1"}}', ""),
            ('{"job_id":["j1"]}', ""),
            ('{"job_id":true}', ""),
        ],
    )
    async def test_jobs_are_found_by_their_id(self, attributes: str, job_id: str) -> None:
        """Text or number, however it is escaped; nothing else is an id."""
        async with serving() as server:
            await server.emit("a", attributes_json=attributes)
            for wanted in (
                "7",
                "-1.50",
                "12345678901234567890123",
                "j1",
                "é😀",
                "None",
                "UNSET",
                "null",
                "True",
            ):
                lines = (await server.page(filter=pb.LogFilter(job_id=wanted))).lines
                assert len(lines) == (wanted == job_id), wanted

    async def test_text_is_found_in_any_case(self) -> None:
        """Also in letters whose other case has more of them."""
        async with serving() as server:
            await server.emit("Die STRASSE ist naß", "İstanbul", "ΟΔΟΣ", "ﬁne")
            for wanted, found in {
                "straße": "D",
                "NASS": "D",
                "i\u0307STAN": "İ",
                "οδος": "Ο",
                "FINE": "ﬁ",
            }.items():
                (line,) = (await server.page(filter=pb.LogFilter(text=wanted))).lines
                assert line.record.message.startswith(found)

    async def test_times(self) -> None:
        """`received_after` takes the lines of its very time, `received_before` leaves them out."""
        async with serving() as server:
            for text in "abc":
                await server.emit(text)
            times = [line.receive_time_unix_nano for line in (await server.page()).lines]
            assert all(earlier < later for earlier, later in pairwise(times))
            assert texts((await server.page(received_after_unix_nano=times[1])).lines) == ["b", "c"]
            assert texts((await server.page(received_before_unix_nano=times[1])).lines) == ["a"]

    async def test_only_accepted_lines_are_there_and_once(self) -> None:
        """No refused record, no retry, no audit event."""
        handler = InMemoryHandler(HandlerSettings(levels=(Level.INFO, Level.AUDIT)), name="lines")
        async with serving(handler) as server:
            await server.emit("once", record_id="r1")
            await server.emit("once", record_id="r1")
            await server.emit("nobody takes it", level=record_pb2.LEVEL_ERROR)
            audit = record_pb2.AuditEvent(event_name="e", user_id="u", source_ip="unknown", details_json="{}")
            await server.emit("an event", level=record_pb2.LEVEL_AUDIT, audit=audit)
            assert texts((await server.page()).lines) == ["once"]

    async def test_what_is_no_longer_kept_is_said(self) -> None:
        """A page from a time before the ring has `history_truncated`, unless a handler keeps more."""
        async with serving(ring_bytes=SMALL_RING_BYTES) as server:
            for number in range(20):
                await server.emit(str(number))
            page = await server.page(received_after_unix_nano=1)
            assert page.history_truncated
            assert 0 < len(page.lines) < 10
            assert texts(page.lines)[-1] == "19"
            newest = page.lines[-1].receive_time_unix_nano
            assert not (await server.page(received_after_unix_nano=newest)).history_truncated
            assert not (await server.page()).history_truncated
        async with serving(LongMemory(name="lines"), SMALL_RING_BYTES) as server:
            assert not (await server.page(received_after_unix_nano=1)).history_truncated

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"page_size": -1}, "page_size: -1 is negative"),
            ({"page_token": "x"}, "page_token: is not a token of this server"),
            ({"page_token": "kgH_"}, "page_token: is not a token of this server"),
            (
                {"filter": pb.LogFilter(min_level=60)},
                "filter.min_level: 60 is none of the levels of log lines",
            ),  # type: ignore[arg-type]
            (
                {"filter": pb.LogFilter(sources=["*"] * 101)},
                "filter.sources: has 101 patterns, more than 100",
            ),
            ({"filter": pb.LogFilter(sources=["é" * 129])}, "filter.sources: has 258 bytes, more than 256"),
            ({"filter": pb.LogFilter(text="a" * 257)}, "filter.text: has 257 bytes, more than 256"),
            ({"filter": pb.LogFilter(job_id="a" * 257)}, "filter.job_id: has 257 bytes, more than 256"),
            ({"filter": pb.LogFilter(trace_id=b"a")}, "filter.trace_id: has 1 bytes; expected 16 or none"),
        ],
    )
    async def test_bad_requests_name_their_field(self, fields: dict[str, object], problem: str) -> None:
        """A request that makes no sense is refused with the field and what was expected."""
        async with serving() as server:
            with pytest.raises(RequestInvalid, match=problem):
                await server.page(**fields)

    async def test_without_lines_there_is_nothing_to_read(self) -> None:
        """Neither a ring nor a handler: the call says which setting."""
        async with serving(ring_bytes=0) as server:
            with pytest.raises(NoSource, match=r"server\.recent_lines_bytes is 0"):
                await server.page()
            with pytest.raises(NoSource, match=r"server\.recent_lines_bytes is 0"):
                await anext(server.tail())

    async def test_lines_before_the_ring_are_asked_of_the_handler_that_keeps_most(self) -> None:
        """One of some sources keeps less than one of all, whatever its levels; then their number decides."""
        settings = {
            "some": HandlerSettings(levels=tuple(Level), sources=("auth.*",)),
            "few": HandlerSettings(levels=(Level.ERROR,)),
            "not all": HandlerSettings(levels=(Level.ERROR, Level.INFO), exclude_sources=("noise",)),
            "most": HandlerSettings(levels=(Level.ERROR, Level.INFO)),
        }
        handlers = [LongMemory(each, name=name) for name, each in settings.items()]
        for count, name in ((1, "some"), (2, "few"), (3, "not all"), (4, "most")):
            async with LoggingService(handlers[:count]) as service:
                assert service.older_lines is handlers[count - 1], name

    async def test_without_a_ring_a_handler_still_lists(self) -> None:
        """All lines come from the handler then."""
        handler = LongMemory(name="lines")
        async with serving(handler, 0) as server:
            await server.emit("a", "b", "c")
            await handler.wait_for(3)
            assert await server.all_pages(page_size=2) == ["a", "b", "c"]
            assert await server.all_pages(page_size=2, newest_first=True) == ["c", "b", "a"]


class TestTail:
    """TailLogs."""

    async def test_it_begins_with_the_next_line(self) -> None:
        """The first message comes at once and has no line; then come the lines from that moment on."""
        async with serving() as server:
            await server.emit("before")
            tail = server.tail()
            first = await anext(tail)
            assert first.heartbeat
            assert not first.lines
            await server.emit("one", "two")
            await server.emit("three")
            assert lines_of(await take(tail, 3)) == ["one", "two", "three"]

    async def test_it_begins_with_the_last_lines(self) -> None:
        """`last` counts the lines that match; nothing is doubled where history ends."""
        async with serving() as server:
            await server.emit("a", "b", "c")
            await server.emit("no", source="other")
            tail = server.tail(last=2, filter=pb.LogFilter(sources=["shop"]))
            assert (await anext(tail)).heartbeat
            await server.emit("d")
            assert lines_of(await take(tail, 2)) == ["c", "d"]
            await server.emit("e")
            assert lines_of(await take(tail, 1)) == ["e"]

    async def test_it_begins_with_a_time(self) -> None:
        """History comes from the handler and the ring, without a seam; then come new lines."""
        handler = LongMemory(name="lines")
        async with serving(handler, SMALL_RING_BYTES) as server:
            for number in range(10):
                await server.emit(str(number))
            await handler.wait_for(10)
            tail = server.tail(received_after_unix_nano=handler.records[2].received_unix_nano)
            messages = await take(tail, 8)
            await server.emit("10")
            messages += await take(tail, 1)
            assert lines_of(messages) == [str(number) for number in range(2, 11)]
            assert not any(message.history_truncated or message.missed_count for message in messages)

    async def test_it_begins_with_a_time_to_come(self) -> None:
        """Lines received before it are not sent to any tail; nor after a token."""
        async with serving() as server:
            now = server.service.clock.now()
            tail = server.tail(received_after_unix_nano=now + 3600 * 10**9)
            token = (await anext(tail)).resume_token
            again = server.tail(resume_token=token)
            await anext(again)
            await server.emit("too early")
            server.service.clock.resume(now + 3600 * 10**9)
            await server.emit("in time")
            assert lines_of(await take(tail, 1)) == ["in time"]
            assert lines_of(await take(again, 1)) == ["in time"]

    async def test_a_line_that_waited_is_no_step_back(self) -> None:
        """After it, another service goes on after the newest line that was sent."""
        async with serving() as server:
            tail = server.tail()
            await anext(tail)
            later = server.service.clock.now() + 10**9
            received = {"a": later, "b": later + 2, "waited": later + 1}
            lines = [LogRecord(Level.INFO, text, received_unix_nano=time) for text, time in received.items()]
            server.service.lines.add(lines, Outcomes.of([Committed()] * 3))
            position = read_position("", (await take(tail, 3))[-1].resume_token)
        assert (position.received_unix_nano, position.count) == (later + 2, 1)

    async def test_lines_that_come_while_history_is_read_are_not_missed(self) -> None:
        """A tail whose history takes long gets each line once, also those that came and left the ring meanwhile."""
        handler = LongMemory(name="lines")
        async with serving(handler, SMALL_RING_BYTES) as server:
            for number in range(10):
                await server.emit(str(number))
            await handler.wait_for(10)
            tail = server.tail(received_after_unix_nano=1)
            assert (await anext(tail)).heartbeat
            messages = [await anext(tail)]
            for number in range(10, 20):
                await server.emit(str(number))
            await handler.wait_for(20)
            messages += await take(tail, 20 - len(lines_of(messages)))
            assert lines_of(messages) == [str(number) for number in range(20)]

    async def test_it_goes_on_after_a_token(self) -> None:
        """In the same service by the line's number, also for a token of history."""
        async with serving() as server:
            await server.emit("a", "b", "c")
            tail = server.tail(last=3)
            token = (await take(tail, 3))[-1].resume_token
            await server.emit("d", "e")
            assert lines_of(await take(server.tail(resume_token=token), 2)) == ["d", "e"]
            token = (await take(tail, 2))[-1].resume_token
            await server.emit("f")
            assert lines_of(await take(server.tail(resume_token=token), 1)) == ["f"]

    async def test_it_goes_on_after_a_restart(self) -> None:
        """A token of another service counts by the time of receipt; without a handler the gap is said."""
        handler = LongMemory(name="lines")
        async with serving(handler) as server:
            tail = server.tail()
            await anext(tail)
            await server.emit("a", "b")
            token = (await take(tail, 2))[-1].resume_token
            await server.emit("c", "d")
            await handler.wait_for(4)
        again = LongMemory(name="lines")
        again.records = handler.records
        async with serving(again) as server:
            tail = server.tail(resume_token=token)
            await server.emit("e")
            messages = await take(tail, 3)
            assert lines_of(messages) == ["c", "d", "e"]
            assert not messages[0].history_truncated
        async with serving() as server:
            assert (await anext(server.tail(resume_token=token))).history_truncated

    async def test_a_tail_that_has_sent_nothing_goes_on_after_a_restart(self) -> None:
        """With what came since it began, and not with all that is kept: also one whose last lines were none."""
        handler = LongMemory(name="lines")
        tokens = []
        async with serving(handler) as server:
            await server.emit("before")
            await handler.wait_for(1)
            tokens.append((await anext(server.tail())).resume_token)
            none = server.tail(last=5, filter=pb.LogFilter(sources=["other"]))
            empty, token = [(await anext(none)).resume_token for _ in range(2)]
            assert empty == ""
            tokens.append(token)
            await server.emit("after")
            await handler.wait_for(2)
        again = LongMemory(name="lines")
        again.records = handler.records
        async with serving(again) as server:
            for token in tokens:
                assert lines_of(await take(server.tail(resume_token=token), 1)) == ["after"]

    @pytest.mark.parametrize("last", [2, 4, 5, 6])
    async def test_the_last_lines_of_a_batch_are_not_sent_again_after_a_restart(self, last: int) -> None:
        """Lines that came together have one time of receipt: a token knows which of them were sent."""
        handler = LongMemory(name="lines")
        async with serving(handler) as server:
            await server.emit("a")
            await server.emit("b", "c", "d", "e", "f")
            messages = await take(server.tail(last=last), last)
            assert lines_of(messages) == list("abcdef")[-last:]
            await handler.wait_for(6)
        again = LongMemory(name="lines")
        again.records = handler.records
        async with serving(again) as server:
            await server.emit("g")
            tail = server.tail(resume_token=messages[-1].resume_token)
            assert lines_of(await take(tail, 1)) == ["g"]

    async def test_a_slow_reader_learns_how_many_lines_it_missed(self) -> None:
        """What left the ring before it could be sent is counted, in the message that goes on after the gap."""
        async with serving(ring_bytes=SMALL_RING_BYTES) as server:
            tail = server.tail()
            await anext(tail)
            for number in range(20):
                await server.emit(str(number))
            messages = await take(tail, 1)
            lines = lines_of(messages)
            missed = sum(message.missed_count for message in messages)
            assert missed > 10
            assert lines == [str(number) for number in range(missed, 20)]

    async def test_messages_are_kept_until_the_next_ones_only(self) -> None:
        """What tails share is not kept for those who were there long ago."""
        async with serving() as server:
            tail = server.tail()
            await anext(tail)
            for number in range(5):
                await server.emit(str(number))
                await take(tail, 1)
            assert len(server.servicer._lines._parts) == 1

    async def test_a_token_of_lines_to_come_is_refused(self) -> None:
        """The service has given no such token."""
        async with serving() as server:
            tail = server.tail()
            token = (await anext(tail)).resume_token
            await server.emit("a")
            position = read_position("resume_token", token)
            ahead = position_to_wire(replace(position, number=position.number + 2))
            with pytest.raises(RequestInvalid, match="resume_token: is not a token of this server"):
                await take(server.tail(resume_token=ahead), 1)

    async def test_a_line_that_does_not_match_is_no_news(self) -> None:
        """The stream stays silent but for heartbeats, which come although lines flow."""
        async with serving(heartbeat_seconds=0.3) as server:
            tail = server.tail(filter=pb.LogFilter(min_level=record_pb2.LEVEL_ERROR))
            await anext(tail)
            flowing = asyncio.create_task(_flow(server))
            async with asyncio.timeout(10):
                message = await anext(tail)
            flowing.cancel()
            assert message.heartbeat
            assert not message.lines

    async def test_a_slow_filter_lets_others_have_their_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The event loop looks at a few lines at once if these take long, and none is lost between two turns."""
        monkeypatch.setattr(log_reads, "SLICE_SECONDS", 0.0)
        async with serving() as server:
            tail = server.tail()
            await anext(tail)
            expected = [str(number) for number in range(50)]
            await server.emit(*expected)
            messages = await take(tail, 50)
            assert lines_of(messages) == expected
            assert max(len(message.lines) for message in messages) == log_reads.LINES_A_CLOCK_READING

    async def test_large_lines_come_in_several_messages(self) -> None:
        """A message stays small, and no line is lost between two."""
        async with serving(ring_bytes=64 << 20) as server:
            tail = server.tail()
            await anext(tail)
            texts_sent = [f"{number:05}" + "x" * 50_000 for number in range(40)]
            await server.emit(*texts_sent)
            messages = await take(tail, 40)
            assert lines_of(messages) == texts_sent
            assert max(message.ByteSize() for message in messages) < 300_000

    async def test_bad_starts_are_refused(self) -> None:
        """A count above the limit, and tokens that nobody made."""
        async with serving() as server:
            with pytest.raises(RequestInvalid, match="last: is 1001, more than 1000"):
                await take(server.tail(last=1001), 1)
            for token in ("abc", ""):
                with pytest.raises(RequestInvalid, match="resume_token: is not a token of this server"):
                    await anext(server.tail(resume_token=token))

    async def test_it_has_a_limit(self) -> None:
        """One tail too many is refused, until another has ended, also if it was cancelled while it waited."""
        async with serving(max_watchers=1) as server:
            tail = server.tail()
            await anext(tail)
            with pytest.raises(TooManyWatchers, match=r"server\.watch\.max_watchers"):
                await anext(server.tail())
            waits = asyncio.ensure_future(anext(tail))
            await asyncio.sleep(0.05)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            await anext(server.tail())

    async def test_a_handler_that_is_down_is_named(self) -> None:
        """History that cannot be read now is no empty history."""
        handler = LongMemory(name="lines")
        async with serving(handler, SMALL_RING_BYTES) as server:
            await server.emit("a")
            handler.request_restart("its disk is away")
            with pytest.raises(HandlerUnavailable, match="lines"):
                await take(server.tail(received_after_unix_nano=1), 1)


async def _flow(server: Server) -> None:
    while True:
        await server.emit("nothing new")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_the_ring_is_read_from_any_number(size: int) -> None:
    """Whatever the batches were that its lines came in."""
    ring = RecentLines(1 << 20, 0)
    records = [LogRecord(Level.INFO, str(number)) for number in range(50)]
    for first in range(0, 50, size):
        batch = records[first : first + size]
        ring.add(batch, Outcomes.of([Committed()] * len(batch)))
    for start in (0, 1, 24, 25, 26, 48, 49, 50):
        assert [line.message for line in ring.after(start)] == [str(number) for number in range(start, 50)]
    assert list(ring.snapshot()) == records


@pytest.mark.parametrize("size", [1, 10, 100, 1000])
def test_the_ring_is_bounded_and_full(size: int) -> None:
    """The lines take no more than the bound, and most of it, whatever the batches; what was dropped is known."""
    ring = RecentLines(100_000, 0)
    for first in range(0, 1000, size):
        batch = [LogRecord(Level.INFO, "x" * 300, received_unix_nano=first + place) for place in range(size)]
        ring.add(batch, Outcomes.of([Committed()] * size), are_lines=True)
    kept = ring.snapshot()
    assert 80_000 < sum(records_bytes(kept)) <= 100_000
    assert [line.received_unix_nano for line in kept] == list(range(1000 - len(kept), 1000))
    assert ring.dropped_until == 999 - len(kept)
    assert ring.first_number == 1000 - len(kept)
    ring.add([LogRecord(Level.INFO, "y" * 200_000, received_unix_nano=5000)], Outcomes.of([Committed()]))
    assert ring.snapshot() == []
    assert (ring.dropped_until, ring.first_number) == (5000, 1001)
