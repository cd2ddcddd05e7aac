"""`InProcessClient`: log lines, audit events and jobs made in the process of the service."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emitd import (
    AsyncLogger,
    ClientNotOpen,
    JobNotApplied,
    JobNotFound,
    RecordRejected,
    RequestRejected,
    Unavailable,
    v1,
)
from emitd_handlers.base import COMMON_LEVELS, BaseLogHandler
from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.record import JobStatus, Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import InMemoryHandler
from emitd_server import in_process_job, intake, line_queue
from emitd_server.in_process import InProcessClient
from emitd_server.service import LoggingService
from emitd_server.settings import LimitSettings, ServerSettings, WatchSettings
from support.in_process import in_memory, three_handlers

CONFIG = """
handlers:
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""


@dataclass
class Opened:
    """A service, a client of it, and what became visible of both."""

    service: LoggingService
    logger: InProcessClient
    memory: InMemoryHandler
    #: What the operator was told.
    lines: list[str] = field(default_factory=list)

    async def logged(self) -> Sequence[LogRecord]:
        """Return all log lines, once they are through."""
        assert await self.logger.flush(10)
        await self.memory.wait_for(self.service.stats()["memory"]["accepted"])
        return self.memory.records


@asynccontextmanager
async def opened(
    handlers: Sequence[BaseLogHandler], settings: ServerSettings | None = None
) -> AsyncIterator[Opened]:
    lines: list[str] = []
    service = LoggingService(handlers, settings=settings, report=lines.append)
    memory = next(handler for handler in handlers if isinstance(handler, InMemoryHandler))
    async with service:
        yield Opened(service, service.client("shop"), memory, lines)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(three_handlers(tmp_path)) as opening:
        yield opening


def committed_memory(*levels: Level) -> InMemoryHandler:
    settings = HandlerSettings(levels=levels, delivery=Delivery.COMMITTED)
    return InMemoryHandler(settings, name="memory")


class EndlessJobs(InMemoryHandler):
    """A source of jobs that has none, and whose watches bring nothing but heartbeats, for ever."""

    async def get(self, job_id: str) -> None:
        return None

    async def list(self, query: object) -> None:
        raise AssertionError

    async def watch(self, job_id: str, **options: object) -> AsyncIterator[None]:
        while True:
            yield None


def attributes(record: LogRecord) -> dict[str, Any]:
    return dict(json.loads(record.attributes_json or "{}"))


async def until(is_so: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.01)


async def states(logger: AsyncLogger, job_id: str) -> list[str]:
    """The statuses that a job went through, by its history."""
    async with aclosing(logger.watch_job(job_id, after_revision=0)) as updates:
        return [
            v1.JobState.Name(transition.status).removeprefix("JOB_STATE_")
            async for update in updates
            for transition in update.transitions
        ]


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

        queue = line_queue.LineQueue(send, counts, lines.append, max_lines=3, max_bytes=1000)
        for number in range(5):
            queue.put(v1.LogRecord(message=str(number)))
        queue.open(asyncio.get_running_loop())
        assert await queue.flush(10)
        queue.put(v1.LogRecord(message="x" * 2000))
        await queue.close(10)
        queue.put(v1.LogRecord(message="late"))
        assert sent == ["0", "1", "2"]
        assert counts == {"dropped_queue_full": 3, "dropped_closed": 1}
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

        queue = line_queue.LineQueue(send, counts, lines.append)
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
        monkeypatch.setattr(intake, "RETRY_INITIAL_SECONDS", 0.001)
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
        monkeypatch.setattr(intake, "RETRY_INITIAL_SECONDS", 0.001)
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


class TestAudit:
    async def test_the_receipt_is_that_of_the_wire_and_the_line_is_on_disk(
        self, app: Opened, tmp_path: Path
    ) -> None:
        """When `audit` returns, the event is a line of the trail, and the receipt says which."""
        receipt = await app.logger.audit(
            "order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17}, message="Order taken."
        )
        (line,) = [json.loads(text) for text in (tmp_path / "audit.json.log").read_text().splitlines()]
        assert isinstance(receipt, v1.Receipt)
        assert not receipt.duplicate
        assert receipt.handlers[0].delivery == v1.DELIVERY_COMMITTED
        assert (receipt.audit.leaf_index, receipt.audit.event_id) == (0, line["event_id"])
        assert (line["event_name"], line["user_id"], line["source_ip"]) == ("order.create", "u1", "192.0.2.7")
        assert (line["details"], line["message"], line["source"]) == ({"order": 17}, "Order taken.", "shop")
        assert line["record_id"] == receipt.record_id != ""

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"user_id": ""}, "audit.user_id"),
            ({"user_id": "u1", "source_ip": "localhost"}, "audit.source_ip"),
            ({"user_id": "u1", "details": {"x": "y" * 70_000}}, "audit.details_json"),
            ({"user_id": "u1", "record_id": "r" * 300}, "record_id"),
        ],
    )
    async def test_a_bad_event_is_refused_by_its_field(
        self, arguments: dict[str, Any], field: str, app: Opened
    ) -> None:
        """The checks are those of the wire: RecordRejected names the field, and no retry is invited."""
        with pytest.raises(RecordRejected) as caught:
            await app.logger.audit("user.login", **arguments)
        assert caught.value.field == field
        assert not caught.value.retryable
        assert app.logger.stats() == {"failed": 1}

    async def test_details_that_are_no_json_are_the_callers_fault(self, app: Opened) -> None:
        """A TypeError names the key, and nothing is written."""
        with pytest.raises(TypeError, match=r"details\['card'\]"):
            await app.logger.audit("user.login", user_id="u1", details={"card": object()})
        assert app.logger.stats() == {}

    async def test_a_retry_after_a_restart_is_a_duplicate(self, tmp_path: Path) -> None:
        """The same `record_id` and content gets the first receipt, also from a new service on the same file."""
        (tmp_path / "emitd.yml").write_text(CONFIG)
        event: dict[str, Any] = {"user_id": "u1", "details": {"order": 17}, "record_id": "order-17"}
        receipts = []
        for _ in range(2):
            async with InProcessClient.from_config(tmp_path / "emitd.yml", source="shop") as logger:
                receipts.append(await logger.audit("order.create", **event))
                receipts.append(await logger.audit("order.create", **event))
        assert [receipt.duplicate for receipt in receipts] == [False, True, True, True]
        assert len({receipt.audit.leaf_hash for receipt in receipts}) == 1
        assert len((tmp_path / "audit.json.log").read_text().splitlines()) == 1
        async with InProcessClient.from_config(tmp_path / "emitd.yml", source="shop") as logger:
            with pytest.raises(RecordRejected, match="used before") as caught:
                await logger.audit("order.delete", **event)
            assert caught.value.field == "record_id"

    async def test_a_handler_that_recovers_in_time_costs_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While another try can help there is one, under the same id."""
        monkeypatch.setattr(intake, "RETRY_INITIAL_SECONDS", 0.001)
        memory = committed_memory(Level.AUDIT)
        memory.fail_next(2)
        async with opened([memory]) as app:
            receipt = await app.logger.audit("user.login", user_id="u1")
            assert [record.record_id for record in memory.records] == [receipt.record_id]
            assert app.logger.stats() == {"sent": 1}

    async def test_a_handler_that_does_not_recover_is_unavailable(self) -> None:
        """After `timeout` seconds the caller gets the last failure, which invites another try."""
        memory = committed_memory(Level.AUDIT)
        memory.fail_next(1_000_000, HandlerUnavailable("the disk is full"))
        async with opened([memory]) as app:
            with pytest.raises(Unavailable, match="the disk is full") as caught:
                await app.logger.audit("user.login", user_id="u1", timeout=0.05)
            assert caught.value.retryable

    async def test_a_handler_that_hangs_is_unavailable(self) -> None:
        """The caller is not kept longer than `timeout`, and is told that the outcome is not known."""
        memory = committed_memory(Level.AUDIT)
        async with opened([memory]) as app:
            memory.hang()
            with pytest.raises(Unavailable, match="may still be committed"):
                await app.logger.audit("user.login", user_id="u1", timeout=0.05)
            memory.release()

    async def test_no_handler_for_audit_events_is_a_refusal(self) -> None:
        """Without a handler for AUDIT an event is refused and not lost in silence."""
        async with opened([in_memory()]) as app:
            with pytest.raises(RecordRejected, match="no handler takes records of level AUDIT"):
                await app.logger.audit("user.login", user_id="u1")


class TestJob:
    async def test_a_run_is_reported_from_running_to_completed(self, app: Opened) -> None:
        """Inside the block the job is RUNNING; after it COMPLETED, with what was noted last."""
        async with app.logger.job("j1", "sync", labels={"user": "u1"}, details={"rows": 0}) as job:
            running = await app.logger.get_job("j1")
            assert running is not None
            assert (running.status, running.attempt, running.job_type) == (v1.JOB_STATE_RUNNING, 1, "sync")
            assert (dict(running.labels), running.details_json) == ({"user": "u1"}, '{"rows":0}')
            assert job.attempt == 1
            job.progress(40)
            job.message("nearly there")
            job.details({"rows": 7})
        ended = await app.logger.get_job("j1")
        assert ended is not None
        assert (ended.status, ended.progress, ended.ended) == (v1.JOB_STATE_COMPLETED, 100, True)
        assert (ended.message, ended.details_json, ended.source) == ("nearly there", '{"rows":7}', "shop")
        assert await states(app.logger, "j1") == ["RUNNING", "COMPLETED"]

    async def test_news_is_sent_while_the_job_runs(self, app: Opened) -> None:
        """Progress, message and details reach a watcher without any `await` of the worker."""
        async with (
            app.logger.job("j1", "sync", total=4) as job,
            aclosing(app.logger.watch_job("j1")) as updates,
        ):
            job.advance()
            job.advance(2)
            job.message("step 3")
            job.details({"rows": 3})
            async with asyncio.timeout(10):
                async for update in updates:
                    if update.job.progress == 75 and update.job.message == "step 3":
                        break
            assert update.job.details_json == '{"rows":3}'
            job.progress(80.9)
            async with asyncio.timeout(10):
                async for update in updates:
                    if update.job.progress == 80:
                        break
            assert update.job.message == "step 3"

    async def test_ticks_coalesce(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is noted between two ticks is one report, the latest; the end does not wait for the next tick."""
        monkeypatch.setattr(in_process_job, "TICK_INTERVAL_SECONDS", 3600)
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app, app.logger.job("j1", "sync", total=1000) as job:
            for _ in range(990):
                job.advance()
                await asyncio.sleep(0)
            await memory.wait_for(2)
            job.message("last words")
        payloads = [record.payload for record in memory.records]
        assert [p.status.name for p in payloads if isinstance(p, JobStatus)] == [
            "RUNNING",
            "RUNNING",
            "COMPLETED",
        ]
        assert memory.records[-1].message == "last words"

    async def test_a_failure_is_reported_and_goes_on(self, app: Opened) -> None:
        """FAILED carries the exception's type and message and the progress so far; the exception is not swallowed."""
        with pytest.raises(ValueError, match="row 7 is bad"):
            async with app.logger.job("j1", "sync") as job:
                job.progress(40)
                raise ValueError("row 7 is bad")
        failed = await app.logger.get_job("j1")
        assert failed is not None
        assert (failed.status, failed.progress) == (v1.JOB_STATE_FAILED, 40)
        assert (failed.failure_reason, failed.failure_message) == ("ValueError", "row 7 is bad")

    async def test_a_failure_too_long_for_a_report_is_cut(self, app: Opened) -> None:
        """The report of a failure does not fail for the length of its own message or reason."""
        kind = type("Ä" * 200, (Exception,), {})
        with pytest.raises(kind):
            async with app.logger.job("j1", "sync"):
                raise kind("x" * 1_000_000)
        failed = await app.logger.get_job("j1")
        assert failed is not None
        assert failed.status == v1.JOB_STATE_FAILED
        assert len(failed.failure_message) == in_process_job.MAX_FAILURE_CHARACTERS

    async def test_a_cancelled_task_is_a_failed_job(self, app: Opened) -> None:
        """CANCELLED is reported, and the task still ends as cancelled."""
        begun = asyncio.Event()

        async def work() -> None:
            async with app.logger.job("j1", "sync"):
                begun.set()
                await asyncio.sleep(3600)

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        failed = await app.logger.get_job("j1")
        assert failed is not None
        assert (failed.status, failed.failure_reason) == (v1.JOB_STATE_FAILED, "CANCELLED")

    async def test_a_task_cancelled_twice_still_reports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last report is tried again although nobody waits for it any more, before the service has stopped."""
        monkeypatch.setattr(intake, "RETRY_INITIAL_SECONDS", 0.2)
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:
            begun = asyncio.Event()

            async def work() -> None:
                async with app.logger.job("j1", "sync"):
                    begun.set()
                    await asyncio.sleep(3600)

            task = asyncio.create_task(work())
            await begun.wait()
            memory.fail_next(1)
            task.cancel()
            await until(lambda: len(memory.batch_sizes) == 2)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        payloads = [record.payload for record in memory.records]
        assert [p.failure_reason for p in payloads if isinstance(p, JobStatus)] == ["", "CANCELLED"]

    async def test_a_task_cancelled_while_it_enters_leaves_no_running_job(self) -> None:
        """RUNNING may be committed after the cancel; then FAILED follows it."""
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:

            async def work() -> None:
                async with app.logger.job("j1", "sync"):
                    raise AssertionError("never entered")

            memory.hang()
            task = asyncio.create_task(work())
            await until(lambda: len(memory.batch_sizes) == 1)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            memory.release()
        statuses = [
            record.payload.status.name for record in memory.records if isinstance(record.payload, JobStatus)
        ]
        assert statuses == ["RUNNING", "FAILED"]

    async def test_each_run_is_an_attempt_of_its_own(self, app: Opened) -> None:
        """A job run twice under one id has both runs in its history."""
        for number in (1, 2):
            async with app.logger.job("nightly", "backup") as job:
                assert job.attempt == number
        assert await states(app.logger, "nightly") == ["RUNNING", "COMPLETED"] * 2

    async def test_a_queued_job_can_be_found_before_it_runs(self, app: Opened) -> None:
        """`queued` opens the attempt; entering goes on in the same one."""
        job = app.logger.job("j1", "sync")
        await job.queued()
        waiting = await app.logger.get_job("j1")
        assert waiting is not None
        assert waiting.status == v1.JOB_STATE_QUEUED
        with pytest.raises(RuntimeError, match="open already"):
            await job.queued()
        async with job:
            assert job.attempt == 1
        assert await states(app.logger, "j1") == ["QUEUED", "RUNNING", "COMPLETED"]

    async def test_a_superseded_worker_is_told_at_its_end(self, app: Opened) -> None:
        """Where somebody opened a newer attempt meanwhile, COMPLETED is not applied, and says so."""
        with pytest.raises(JobNotApplied) as caught:
            async with app.logger.job("j1", "sync"), app.logger.job("j1", "sync"):
                pass
        assert caught.value.stale_reason == "SUPERSEDED"

    async def test_a_job_that_cannot_begin_is_not_entered(self, app: Opened) -> None:
        """The refusal of RUNNING names the field; the block does not run."""
        with pytest.raises(RecordRejected) as caught:
            async with app.logger.job("", "sync"):
                raise AssertionError("never entered")
        assert caught.value.field == "job.job_id"

    async def test_the_bodys_exception_wins_over_the_reports(self) -> None:
        """If FAILED cannot be reported, the operator is told, and the caller gets the exception that matters."""
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:
            with pytest.raises(ValueError, match="matters"):
                async with app.logger.job("j1", "sync"):
                    memory.fail_next(1, RecordInvalid("job", "told to refuse"))
                    raise ValueError("matters")
            with pytest.raises(RecordRejected, match="told to refuse"):
                async with app.logger.job("j2", "sync"):
                    memory.fail_next(1, RecordInvalid("job", "told to refuse"))
        assert any("end of job 'j1'" in line and "told to refuse" in line for line in app.lines)

    async def test_steps_may_be_counted_in_a_thread(self, app: Opened) -> None:
        """The plain calls of a reporter are safe from any thread, and none is lost."""
        asyncio.get_running_loop().set_debug(True)  # as above
        async with app.logger.job("j1", "sync", total=8000) as job:

            def work() -> None:
                for _ in range(1000):
                    job.advance()

            await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
            async with aclosing(app.logger.watch_job("j1")) as updates, asyncio.timeout(10):
                async for update in updates:
                    if update.job.progress == 50:
                        break

    async def test_misuse_is_named(self, app: Opened) -> None:
        """What only a bug can cause raises where the bug is."""
        job = app.logger.job("j1", "sync")
        with pytest.raises(ValueError, match="without `total`"):
            job.advance()
        with pytest.raises(ValueError, match="101 is not from 0 to 100"):
            job.progress(101)
        with pytest.raises(TypeError, match=r"details\['x'\]"):
            job.details({"x": object()})
        with pytest.raises(ValueError, match="total: 0"):
            app.logger.job("j1", "sync", total=0)
        async with job:
            pass
        with pytest.raises(RuntimeError, match="for one run"):
            async with job:
                pass


class TestReading:
    async def test_an_unknown_job_is_none_to_get_and_an_error_to_watch(self, app: Opened) -> None:
        """Asking is a normal question; watching what is not there would never end."""
        assert await app.logger.get_job("nobody's") is None
        with pytest.raises(JobNotFound):
            await anext(app.logger.watch_job("nobody's"))

    async def test_jobs_are_listed_over_all_pages(self, app: Opened) -> None:
        """Filters hold, newest first, however small the pages."""
        for number in range(5):
            async with app.logger.job(f"j{number}", "sync"):
                pass
        async with app.logger.job("other", "backup"):
            found = [job.job_id async for job in app.logger.list_jobs(job_type="sync", page_size=2)]
            assert found == ["j4", "j3", "j2", "j1", "j0"]
            assert [job.job_id async for job in app.logger.list_jobs(statuses=["RUNNING"])] == ["other"]
        with pytest.raises(RequestRejected, match="'DONE' is not a job state") as caught:
            await anext(app.logger.list_jobs(statuses=["DONE"]))
        assert caught.value.field == "statuses"

    async def test_a_watch_resumes_and_ends_by_itself(self, app: Opened) -> None:
        """From a revision on only what is new is told; after the end the iterator ends."""
        async with app.logger.job("j1", "sync"):
            first = await anext(app.logger.watch_job("j1"))
        updates = [update async for update in app.logger.watch_job("j1", after_revision=first.job.revision)]
        assert [t.status for update in updates for t in update.transitions] == [v1.JOB_STATE_COMPLETED]
        assert updates[-1].job.ended

    async def test_a_closed_watch_frees_its_place(self) -> None:
        """Watches count towards the service's limit, and leaving early gives the place back."""
        settings = ServerSettings(watch=WatchSettings(max_watchers=1))

        async with opened([EndlessJobs(name="memory")], settings) as app:
            first = app.logger.watch_job("j1", wait_for_creation=True)
            assert (await anext(first)).heartbeat
            with pytest.raises(Unavailable, match=r"limit of server\.watch\.max_watchers"):
                await anext(app.logger.watch_job("j1", wait_for_creation=True))
            await first.aclose()
            second = app.logger.watch_job("j1", wait_for_creation=True)
            assert (await anext(second)).heartbeat
            await second.aclose()

    async def test_a_stop_ends_the_watches(self, tmp_path: Path) -> None:
        """Who watches while the service stops gets Unavailable, whichever task that is, and no task is cancelled."""
        async with opened(three_handlers(tmp_path)) as app:
            await app.logger.job("j1", "sync").queued()
            updates = app.logger.watch_job("j1")
            await anext(updates)
            watcher = asyncio.ensure_future(anext(updates))
            await asyncio.sleep(0)
            await app.service.stop()
            with pytest.raises(Unavailable):
                await watcher

    async def test_a_stop_ends_the_watches_of_any_source(self) -> None:
        """Where the handler for jobs does not end its watches, they end at the next heartbeat."""
        async with opened([EndlessJobs(name="memory")]) as app:
            updates = app.logger.watch_job("j1", wait_for_creation=True)
            assert (await anext(updates)).heartbeat
            await app.service.stop()
            with pytest.raises(Unavailable, match="going down"):
                await anext(updates)

    async def test_without_a_handler_for_jobs_the_question_is_refused(self) -> None:
        """A service that keeps no jobs says so."""
        async with opened([in_memory()]) as app:
            with pytest.raises(RequestRejected, match="no active handler serves jobs"):
                await app.logger.get_job("j1")


class TestLife:
    async def test_a_closed_client_says_so(self, app: Opened) -> None:
        """Plain calls are counted, awaited ones raise ClientNotOpen, also of bound loggers; closing twice is fine."""
        bound = app.logger.bind(user="u1")
        app.logger.info("in time")
        await app.logger.close()
        await app.logger.close()
        bound.info("late")
        with pytest.raises(ClientNotOpen, match="the client is closed"):
            await bound.audit("user.login", user_id="u1")
        with pytest.raises(ClientNotOpen):
            await anext(app.logger.list_jobs())
        other = app.service.client("other")
        other.info("still open")
        await other.flush(10)
        assert other.stats() == {"sent": 2, "dropped_closed": 1}

    async def test_a_client_of_a_service_that_is_not_running_says_so(self) -> None:
        """The message tells what to do."""
        with pytest.raises(ClientNotOpen, match="inside of its `async with`"):
            await LoggingService([in_memory()]).client().audit("user.login", user_id="u1")

    async def test_the_one_line_form_starts_and_stops_its_service(self, tmp_path: Path) -> None:
        """`async with InProcessClient.from_config(...)` is all that an application needs."""
        (tmp_path / "emitd.yml").write_text(CONFIG)
        async with InProcessClient.from_config(tmp_path / "emitd.yml", source="shop") as logger:
            async with logger.job("j1", "sync"):
                pass
            await logger.audit("user.login", user_id="u1")
        async with InProcessClient.from_config(tmp_path / "emitd.yml") as logger:
            job = await logger.get_job("j1")
        assert job is not None
        assert job.ended
        with pytest.raises(ClientNotOpen):
            await logger.get_job("j1")

    async def test_clients_from_threads_share_one_intake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A framework may ask for the first client in its thread pool, in several threads at once."""
        made: list[intake.Intake] = []

        class SlowIntake(intake.Intake):
            def __init__(self, *arguments: Any) -> None:
                time.sleep(0.05)  # so that the others arrive meanwhile
                made.append(self)
                super().__init__(*arguments)

        monkeypatch.setattr(intake, "Intake", SlowIntake)
        async with LoggingService([in_memory()]) as service:
            barrier = threading.Barrier(4)

            def ask() -> None:
                barrier.wait(10)
                service.client("shop").info("from a thread")

            await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(4)))
            assert await service.client().flush(10)
            assert service.client().stats() == {"sent": 4}
        assert len(made) == 1

    async def test_a_service_can_be_started_again(self) -> None:
        """After a stop and a new start the same clients work."""
        memory = in_memory()
        service = LoggingService([memory])
        logger = service.client()
        for text in ("first", "second"):
            async with service:
                logger.info(text)
        assert [record.message for record in memory.records] == ["first", "second"]
