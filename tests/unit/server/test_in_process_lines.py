"""`InProcessClient`: log lines made in the process of the service, and the queue that they wait in."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from emitd import (
    JobNotFound,
    v1,
)
from emitd.context import log_context
from emitd.runtime.backoff import Backoff
from emitd_handlers.base import COMMON_LEVELS
from emitd_handlers.record import Level
from emitd_server.in_process import ingress as intake
from emitd_server.in_process import line_queue
from emitd_server.memory import MemoryAccount
from emitd_server.service import LoggingService
from emitd_server.settings import LimitSettings, ServerSettings
from support.client.in_process import in_memory, three_handlers
from support.client.in_process_client import (
    Opened,
    attributes,
    committed_memory,
    opened,
    until,
)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(three_handlers(tmp_path)) as opening:
        yield opening


class TestLogLines:
    async def test_each_verb_logs_its_level_in_order(self, app: Opened) -> None:
        """Lines come in the order of the calls, with level, source, time, an id of their own and attributes."""
        logger = app.logger
        logger.debug("1")
        logger.info("2", order=17, message="an attribute")
        logger.warning("3")
        logger.error("4")
        logger.critical("5")
        logger.log("WARNING", "6")
        logger.log(30, "7", level="theirs")
        records = await app.logged()
        assert [(record.message, record.level.name) for record in records] == [
            ("1", "DEBUG"),
            ("2", "INFO"),
            ("3", "WARNING"),
            ("4", "ERROR"),
            ("5", "CRITICAL"),
            ("6", "WARNING"),
            ("7", "WARNING"),
        ]
        assert attributes(records[1]) == {"order": 17, "message": "an attribute"}
        assert attributes(records[6]) == {"level": "theirs"}
        assert {record.source for record in records} == {"shop"}
        assert len({record.record_id for record in records}) == 7
        assert records[0].assigned == ()
        assert [record.time_unix_nano for record in records] == sorted(r.time_unix_nano for r in records)
        assert logger.stats() == {"sent": 7}

    @pytest.mark.parametrize(
        ("level", "means"),
        [
            (25, "INFO"),
            (5, "DEBUG"),
            (99, "CRITICAL"),
            ("WARN", "WARNING"),
            ("error", "ERROR"),
            ("NOTICE", "INFO"),
            (None, "INFO"),
        ],
    )
    async def test_an_odd_level_is_kept_beside_the_nearest(self, level: Any, means: str, app: Opened) -> None:
        """A level that emitd has not is the next lower one, and the line says what was asked for."""
        app.logger.log(level, "x")
        (record,) = await app.logged()
        assert record.level.name == means
        assert attributes(record) == {"level": level}

    async def test_a_log_call_never_raises(self, app: Opened) -> None:
        """Whatever is logged as message or attribute, a line comes of it."""
        app.logger.info(ValueError("no text"), a=object, b="\ud800")  # type: ignore[arg-type]
        app.logger.info("half \ud800")
        first, second = await app.logged()
        assert first.message == "ValueError('no text')"
        assert attributes(first) == {"a": "<class 'object'>", "b": "\\ud800"}
        assert second.message == "half \\ud800"

    async def test_an_exception_comes_with_its_stack(self, app: Opened) -> None:
        """`exception` adds type, message and stack by OpenTelemetry's names; outside of an except block, nothing."""
        try:
            raise LookupError("no such order")
        except LookupError:
            app.logger.exception("order lost", order=17)
        app.logger.exception("no exception")
        try:
            raise JobNotFound("j1")
        except JobNotFound:
            app.logger.exception("of a module")
        first, second, third = await app.logged()
        found = attributes(first)
        assert first.level is Level.ERROR
        assert (found["exception.type"], found["exception.message"]) == ("LookupError", "no such order")
        assert found["exception.stacktrace"].startswith("Traceback (most recent call last):")
        assert 'raise LookupError("no such order")' in found["exception.stacktrace"]
        assert found["order"] == 17
        assert attributes(second) == {}
        assert attributes(third)["exception.type"] == "emitd.errors.JobNotFound"

    async def test_a_very_long_stack_is_cut_at_its_beginning(self, app: Opened) -> None:
        """A stack larger than what attributes may have does not cost the line; the place of the raise is kept."""
        try:
            raise ValueError("x" * 100_000 + " the end")
        except ValueError:
            app.logger.exception("long", **{"exception.message": "short"})
        (record,) = await app.logged()
        assert attributes(record)["exception.stacktrace"].endswith(" the end\n")

    async def test_bound_attributes_are_on_every_record(self, app: Opened) -> None:
        """`bind` adds to what was bound before and leaves the first logger alone; a call's own attributes win."""
        bound = app.logger.bind(user="u1", ip="192.0.2.7").bind(request=5)
        bound.info("bound", user="u2")
        app.logger.info("plain")
        await bound.audit("user.login", user_id="u1")
        first, second = await app.logged()
        assert attributes(first) == {"user": "u2", "ip": "192.0.2.7", "request": 5}
        assert attributes(second) == {}

    async def test_the_contexts_attributes_are_on_every_record(self, app: Opened, tmp_path: Path) -> None:
        """Those of `log_context`, also in a task or thread begun within it; what is bound wins over them."""
        bound = app.logger.bind(user="bound", b=1)
        with log_context(request_id="r-17", user="context", call="context"):
            bound.info("1", call="own")
            await asyncio.create_task(asyncio.to_thread(app.logger.info, "2"))
            await bound.audit("user.login", user_id="u1")
        app.logger.info("3")
        first, second, third = await app.logged()
        assert attributes(first) == {"request_id": "r-17", "user": "bound", "b": 1, "call": "own"}
        assert attributes(second) == {"request_id": "r-17", "user": "context", "call": "context"}
        assert attributes(third) == {}
        (line,) = [json.loads(text) for text in (tmp_path / "audit.json.log").read_text().splitlines()]
        assert line["attributes"] == {"request_id": "r-17", "user": "bound", "call": "context", "b": 1}

    async def test_a_line_over_the_limits_is_counted_and_told_and_harms_no_other(self) -> None:
        """The checks of the gRPC edge hold here too; the lines around a refused one come through."""
        limits = ServerSettings(limits=LimitSettings(max_json_bytes=100))
        async with opened([in_memory()], limits) as app:
            app.logger.info("1")
            app.logger.info("2", text="x" * 200)
            app.logger.info("3")
            records = await app.logged()
            assert [record.message for record in records] == ["1", "3"]
            assert app.logger.stats() == {"sent": 2, "dropped_invalid": 1}
        assert any("dropped 1 log lines" in line and "attributes_json" in line for line in app.lines)

    async def test_what_no_handler_takes_is_counted(self, tmp_path: Path) -> None:
        """A line of a level without a handler is `dropped_refused`, and the operator learns why."""
        async with opened([committed_memory(Level.ERROR)]) as app:
            app.logger.info("nobody's")
            assert await app.logger.flush(10)
            assert app.logger.stats() == {"dropped_refused": 1}
        assert any("no handler takes records of level INFO" in line for line in app.lines)


class TestQueue:
    async def test_from_threads_no_line_is_lost_and_each_thread_keeps_its_order(self, app: Opened) -> None:
        """Four threads log at once, as the thread pool of a web framework does."""
        asyncio.get_running_loop().set_debug(True)  # refuses calls from other threads that do not wake it

        def work(thread: int) -> None:
            for number in range(500):
                app.logger.info(str(number), thread=thread)

        await asyncio.gather(*(asyncio.to_thread(work, thread) for thread in range(4)))
        records = await app.logged()
        assert len(records) == 2000
        for thread in range(4):
            own = [record.message for record in records if attributes(record)["thread"] == thread]
            assert own == [str(number) for number in range(500)]

    async def test_lines_of_one_moment_are_one_batch(self) -> None:
        """A burst costs a few dispatches and not one for each line."""
        memory = committed_memory(*COMMON_LEVELS)
        async with opened([memory]) as app:
            for number in range(1000):
                app.logger.info(str(number))
            assert await app.logger.flush(10)
            assert memory.batch_sizes == [512, 488]

    async def test_what_does_not_fit_is_counted_and_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The queue is bounded: newest lines are dropped, counted, and reported with their number and cause."""
        lines: list[str] = []
        sent: list[str] = []
        counts = line_queue.Counter[str]()

        async def send(batch: Sequence[v1.LogRecord], size: int) -> None:
            sent.extend(line.message for line in batch)

        memory = MemoryAccount(1 << 30)
        queue = line_queue.LineQueue(send, counts, lines.append, memory, max_lines=3, max_bytes=1000)
        for number in range(5):
            queue.put(v1.LogRecord(message=str(number)))
        queue.open(asyncio.get_running_loop())
        assert await queue.flush(10)
        queue.put(v1.LogRecord(message="x" * 2000))
        await queue.close(10)
        queue.put(v1.LogRecord(message="late"))
        assert sent == ["0", "1", "2"]
        assert counts == {"dropped_queue_full": 3, "dropped_closed": 1}
        assert memory.held == 0
        assert sum(int(line.split()[1]) for line in lines) == 3

    async def test_a_fault_of_ours_does_not_end_the_logging(self) -> None:
        """Where sending raises what it should not, the lines are counted, and the next are sent."""
        lines: list[str] = []
        counts = line_queue.Counter[str]()
        sent: list[str] = []

        async def send(batch: Sequence[v1.LogRecord], size: int) -> None:
            if batch[0].message == "bad":
                raise ZeroDivisionError
            sent.extend(line.message for line in batch)

        queue = line_queue.LineQueue(send, counts, lines.append, MemoryAccount(1 << 30))
        queue.open(asyncio.get_running_loop())
        queue.put(v1.LogRecord(message="bad"))
        assert await queue.flush(10)
        queue.put(v1.LogRecord(message="good"))
        assert await queue.flush(10)
        await queue.close(1)
        assert sent == ["good"]
        assert counts == {"dropped_internal_error": 1}
        assert "ZeroDivisionError" in lines[0]

    async def test_a_committed_handler_that_fails_gets_the_lines_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lines are offered again in order while a retry can help, and the failure costs none."""
        monkeypatch.setattr(intake, "BACKOFF", Backoff(0.001, 2.0))
        memory = committed_memory(*COMMON_LEVELS)
        memory.fail_next(2)
        async with opened([memory]) as app:
            app.logger.info("1")
            app.logger.info("2")
            app.logger.info("3")
            assert await app.logger.flush(10)
            assert sorted(record.message for record in memory.records) == ["1", "2", "3"]
            assert app.logger.stats() == {"sent": 3}

    async def test_a_committed_handler_that_fails_for_ever_costs_its_lines(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the last retry lines are counted as dropped, and those behind them go on."""
        monkeypatch.setattr(intake, "BACKOFF", Backoff(0.001, 2.0))
        memory = committed_memory(*COMMON_LEVELS)
        memory.fail_next(1 + intake.MAX_LINE_RETRIES)
        async with opened([memory]) as app:
            app.logger.info("1")
            assert await app.logger.flush(10)
            app.logger.info("2")
            assert await app.logger.flush(10)
            assert app.logger.stats() == {"dropped_retries_exhausted": 1, "sent": 1}

    async def test_flush_gives_up_in_time(self) -> None:
        """`flush` says False when a handler hangs, and does not wait for it."""
        memory = committed_memory(*COMMON_LEVELS)
        async with opened([memory]) as app:
            memory.hang()
            app.logger.info("1")
            assert not await app.logger.flush(0.05)
            memory.release()
            assert await app.logger.flush(10)

    async def test_lines_before_the_start_are_sent_by_it_and_those_at_the_end_by_the_stop(self) -> None:
        """Nothing is lost that was logged before the service was started, nor right before it is stopped."""
        memory = in_memory()
        service = LoggingService([memory])
        logger = service.client("shop")
        logger.info("early")
        async with service:
            assert await logger.flush(10)
            logger.info("late")
        assert [record.message for record in memory.records] == ["early", "late"]
        logger.info("too late")
        assert logger.stats() == {"sent": 2, "dropped_closed": 1}

    async def test_no_task_is_left(self, app: Opened) -> None:
        """There is a task only while there is something to send."""
        before = asyncio.all_tasks()
        app.logger.info("1")
        await app.logged()
        await until(lambda: asyncio.all_tasks() == before)
