"""For tests of handlers and with handlers: records, a handler that keeps them, and the contract as a test suite.

    class TestMyHandler(HandlerContract):
        def make_handler(self) -> MyHandler:
            return MyHandler(MySettings(path=self.folder / "my.log"))

pytest collects the promises as tests of `TestMyHandler`; no plugin is needed. Nothing here imports pytest.
"""

import asyncio
import copy
import functools
import itertools
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from unittest import SkipTest

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerError, HandlerUnavailable
from emitd_handlers.outcome import AuditReceipt, Committed, JobReceipt, Outcome, RecentCommit, Refused
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord, Payload
from emitd_handlers.settings import Delivery, HandlerSettings

__all__ = ["HandlerContract", "InMemoryHandler", "make_record"]

#: How long a thread may take to end.
THREAD_END_SECONDS = 1.0
#: How often a constructor is tried: threads of other tests may open a file at the same moment.
CONSTRUCTOR_TRIES = 5

Contract = TypeVar("Contract", bound="HandlerContract")

_clock = itertools.count(time.time_ns())


def make_record(level: Level = Level.INFO, **fields: Any) -> LogRecord:
    """Return a record of `level` as a handler gets it: complete, valid and like no other; `fields` win."""
    now = next(_clock)
    unique: dict[str, Any] = {
        "message": f"a record of level {level.name}",
        "record_id": uuid.uuid4().hex,
        "time_unix_nano": now,
        "received_unix_nano": now,
        "source": "emitd_handlers.testing",
        "payload": _make_payload(level),
    }
    return LogRecord(level, **(unique | fields))


def _make_payload(level: Level) -> Payload | None:
    if level is Level.AUDIT:
        return AuditEvent(uuid.uuid4().hex, "user.login.success", "u1", "192.0.2.1", '{"method":"password"}')
    if level is Level.JOB_STATUS:
        return JobStatus(uuid.uuid4().hex, "import", JobState.RUNNING, progress=40)
    return None


class InMemoryHandler(BaseLogHandler):
    """Keeps the records it gets, in a list, and fails if a test asks it to.

    Takes every level unless its settings say otherwise; queued, unless they say `delivery: committed`.
    """

    default_levels = frozenset(Level)

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings, name=name)
        #: What was taken, in order. A test may clear it.
        self.records: list[LogRecord] = []
        #: How many records each call of `emit_batch` brought, also those that were refused.
        self.batch_sizes: list[int] = []
        self._failures_left = 0
        self._failure: Exception = HandlerUnavailable("told to fail")
        self._taken = asyncio.Event()
        self._hang: asyncio.Event | None = None
        self._block: threading.Event | None = None

    def fail_next(self, count: int, error: Exception | None = None) -> None:
        """Refuse the next `count` records with `error`; None: with HandlerUnavailable."""
        self._failures_left = count
        self._failure = error or HandlerUnavailable("told to fail")

    def hang(self) -> None:
        """Keep every batch from now on waiting, in the event loop, until `release`."""
        self._hang = asyncio.Event()

    def block(self) -> None:
        """Keep every batch from now on blocking the handler's own thread, until `release`."""
        self._block = threading.Event()

    def release(self) -> None:
        """End what `hang` and `block` began, also for the batches under way. Call it in the event loop."""
        if self._hang is not None:
            self._hang.set()
        if self._block is not None:
            self._block.set()
        self._hang = self._block = None

    async def wait_for(self, count: int, *, timeout_seconds: float = 5.0) -> Sequence[LogRecord]:
        """Wait until at least `count` records were taken, and return them all.

        Raises TimeoutError, saying how many there are.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while len(self.records) < count:
                    self._taken.clear()
                    await self._taken.wait()
        except TimeoutError as error:
            raise TimeoutError(f"{len(self.records)} of {count} records came") from error
        return self.records

    async def emit(self, record: LogRecord) -> None:
        """Keep the record, or raise the error of `fail_next`."""
        if self._failures_left:
            self._failures_left -= 1
            raise self._failure
        self.records.append(record)
        self._taken.set()

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Keep the records."""
        self.refuse_if_stopped()
        self.batch_sizes.append(len(records))
        if self._hang is not None:
            await self._hang.wait()
        if self._block is not None:
            await self.run_in_thread(self._block.wait)
        return await super().emit_batch(records)


def _in_event_loop(test: Callable[[Contract], Coroutine[Any, Any, None]]) -> Callable[[Contract], None]:
    """Make a plain test of an `async def` one, so that pytest needs no plugin for it."""

    @functools.wraps(test)
    def run(self: Contract) -> None:
        try:
            asyncio.run(asyncio.wait_for(test(self), self.timeout_seconds))
        except TimeoutError as error:
            raise AssertionError(f"the handler did not answer within {self.timeout_seconds:g} s") from error

    return run


class HandlerContract:
    """The promises of `BaseLogHandler` as tests. Derive a class named `Test...` from it, with `make_handler`.

    Every test builds a handler of its own and calls it as the service does. Fixtures work as in any other
    test class: one with `autouse=True` can prepare a folder or a server.
    """

    #: How long one test may take before the handler counts as hanging.
    timeout_seconds: float = 30.0
    #: How many records make a large batch.
    large_batch_count: int = 2_000

    def make_handler(self) -> BaseLogHandler:
        """Return a new handler, not started. Every test class must override this."""
        raise TypeError(f"{type(self).__name__} must define make_handler(self)")

    def make_record(self, level: Level) -> LogRecord:
        """Return a record that the handler takes, like no other. Override it if it needs certain content."""
        return make_record(level)

    def make_bad_record(self) -> LogRecord | None:
        """Return a record that the handler refuses; None if it takes every record of its levels."""
        return None

    def break_start(self) -> Callable[[], None] | None:
        """Make `start` of the next handler raise, and return what mends that; None: nothing makes it raise."""
        return None

    def test_its_constructor_does_no_io(self) -> None:
        """The constructor runs outside an event loop, starts no thread and opens nothing."""
        handlers = []  # Kept, so that what one of them opened is not closed while the next is looked at.
        for _ in range(CONSTRUCTOR_TRIES):
            threads, files = set(threading.enumerate()), _open_files()
            handlers.append(self.make_handler())
            new_threads, new_files = set(threading.enumerate()) - threads, _open_files() - files
            assert isinstance(handlers[-1], BaseLogHandler)
            if not new_threads and not new_files:
                return
        assert not new_threads, "the constructor started a thread"
        assert not new_files, "the constructor opened a file or a connection"

    def test_it_is_built_from_settings_and_a_name(self) -> None:
        """The service can build it from its entry: settings of its own struct, and the entry's name."""
        handler = self.make_handler()
        assert issubclass(handler.Settings, HandlerSettings)
        assert isinstance(handler.settings, handler.Settings)
        twin = type(handler)(handler.settings, name="twin")
        assert twin.name == "twin"
        assert twin.settings == handler.settings

    @_in_event_loop
    async def test_can_handle_is_stable(self) -> None:
        """It takes at least one level, and says the same about each before, during and after its life."""
        handler = self.make_handler()
        answers = [handler.can_handle(level) for level in Level]
        assert any(answers)
        assert set(answers) <= {True, False}
        async with _running(handler):
            assert [handler.can_handle(level) for level in Level] == answers
        assert [handler.can_handle(level) for level in Level] == answers

    def test_format_is_pure(self) -> None:
        """`format` gives the same text, bytes or row each time and leaves the record alone."""
        handler = self.make_handler()
        for level in _levels(handler):
            record = self.make_record(level)
            untouched = copy.deepcopy(record)
            formatted = handler.format(record)
            assert isinstance(formatted, (str, bytes, tuple))
            assert handler.format(record) == formatted
            assert record == untouched

    @_in_event_loop
    async def test_stop_without_start(self) -> None:
        """`stop` is harmless without `start`."""
        await self.make_handler().stop()

    @_in_event_loop
    async def test_stop_twice(self) -> None:
        """The second `stop` is harmless."""
        handler = self.make_handler()
        async with _running(handler):
            pass
        await handler.stop()

    @_in_event_loop
    async def test_start_again(self) -> None:
        """`start` works again after `stop`, and after it raised: so the service brings a handler up again."""
        mend = self.break_start()
        handler = self.make_handler()
        if mend is not None:
            for _ in range(2):
                try:
                    await handler.start()
                except Exception:
                    await handler.stop()
                else:
                    raise AssertionError("start did not raise after break_start")
            mend()
        for _ in range(2):
            async with _running(handler):
                _assert_committed(await handler.emit_batch([self.make_record(_levels(handler)[0])]), 1)

    def test_stop_leaves_nothing_running(self) -> None:
        """After `stop` no task and no thread of the handler is left."""
        before = set(threading.enumerate())
        self._live_and_stop()
        left = set(threading.enumerate()) - before
        for thread in left:
            thread.join(THREAD_END_SECONDS)
        assert not [thread.name for thread in left if thread.is_alive()]

    @_in_event_loop
    async def _live_and_stop(self) -> None:
        handler = self.make_handler()
        before = asyncio.all_tasks()
        async with _running(handler):
            await handler.emit_batch([self.make_record(level) for level in _levels(handler)])
        assert not asyncio.all_tasks() - before

    @_in_event_loop
    async def test_every_level_is_taken(self) -> None:
        """A record of each level that it can handle is committed."""
        async with _running(self.make_handler()) as handler:
            for level in _levels(handler):
                _assert_committed(await handler.emit_batch([self.make_record(level)]), 1)

    @_in_event_loop
    async def test_outcomes_are_in_order(self) -> None:
        """A batch gets one outcome for each record, in order, each with its own record's receipt."""
        async with _running(self.make_handler()) as handler:
            records = [self.make_record(level) for level in _levels(handler) for _ in range(3)]
            outcomes = await handler.emit_batch(records)
            _assert_committed(outcomes, len(records))
            for record, outcome in zip(records, outcomes, strict=True):
                _assert_receipt_of(record, outcome)

    @_in_event_loop
    async def test_a_large_batch(self) -> None:
        """A batch larger than any that the default settings make is taken whole."""
        async with _running(self.make_handler()) as handler:
            level = _levels(handler)[0]
            records = [self.make_record(level) for _ in range(self.large_batch_count)]
            _assert_committed(await handler.emit_batch(records), len(records))

    @_in_event_loop
    async def test_many_batches(self) -> None:
        """Every batch is answered; a committed handler gets them all at once, a queued one in turn."""
        async with _running(self.make_handler()) as handler:
            level = _levels(handler)[0]
            batches = [[self.make_record(level) for _ in range(5)] for _ in range(10)]
            if handler.delivery.kind is Delivery.COMMITTED:
                answers = await asyncio.gather(*(handler.emit_batch(batch) for batch in batches))
            else:
                answers = [await handler.emit_batch(batch) for batch in batches]
            for outcomes in answers:
                _assert_committed(outcomes, 5)

    @_in_event_loop
    async def test_a_bad_record_harms_no_other(self) -> None:
        """A record that is refused leaves its neighbours in the batch alone."""
        bad = self.make_bad_record()
        if bad is None:
            raise SkipTest("make_bad_record returns None: this handler has no bad record to offer")
        async with _running(self.make_handler()) as handler:
            level = _levels(handler)[0]
            first, refused, last = await handler.emit_batch(
                [self.make_record(level), bad, self.make_record(level)]
            )
            assert isinstance(refused, Refused)
            assert isinstance(refused.error, HandlerError)
            _assert_committed([first, last], 2)

    @_in_event_loop
    async def test_after_stop_records_are_refused(self) -> None:
        """A record that comes after `stop` is refused, or raises a HandlerError; nothing hangs."""
        handler = self.make_handler()
        async with _running(handler):
            pass
        try:
            outcomes = await handler.emit_batch([self.make_record(_levels(handler)[0])])
        except HandlerError:
            return
        assert [type(outcome) for outcome in outcomes] == [Refused]

    @_in_event_loop
    async def test_recent_commits_keep_to_their_limit(self) -> None:
        """`recent_commits` returns at most `limit` commits."""
        async with _running(self.make_handler()) as handler:
            commits = await handler.recent_commits(1)
            assert len(commits) <= 1
            assert all(isinstance(commit, RecentCommit) for commit in commits)


@asynccontextmanager
async def _running(handler: BaseLogHandler) -> AsyncIterator[BaseLogHandler]:
    await handler.start()
    try:
        yield handler
    finally:
        await handler.stop()


def _levels(handler: BaseLogHandler) -> Sequence[Level]:
    return [level for level in Level if handler.can_handle(level)]


def _open_files() -> set[str]:
    """Return the process's open file descriptors, if the platform lists them."""
    return set(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else set()


def _assert_committed(outcomes: Sequence[Outcome], count: int) -> None:
    refusals = [outcome.error for outcome in outcomes if isinstance(outcome, Refused)]
    assert not refusals, f"{len(refusals)} of {len(outcomes)} records were refused, first: {refusals[0]!r}"
    assert len(outcomes) == count
    assert all(isinstance(outcome, Committed) for outcome in outcomes)


def _assert_receipt_of(record: LogRecord, outcome: Outcome) -> None:
    receipt = outcome.receipt if isinstance(outcome, Committed) else None
    if isinstance(receipt, AuditReceipt):
        assert isinstance(record.payload, AuditEvent), f"a receipt of an audit event for {record}"
        assert receipt.event_id == record.payload.event_id
    if isinstance(receipt, JobReceipt):
        assert isinstance(record.payload, JobStatus), f"a receipt of a job report for {record}"
        assert receipt.job_id == record.payload.job_id
