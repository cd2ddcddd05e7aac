"""BaseLogHandler: what a handler gets for free, and what cannot go wrong with it."""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from emitd_handlers.base import COMMON_LEVELS, BaseLogHandler
from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.outcome import AuditReceipt, Committed, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import make_record

RECEIPT = AuditReceipt("log", "e1", 7, b"hash")


class Plain(BaseLogHandler):
    """Calls a function for each record, in a plain `def emit`."""

    def __init__(self, call: Callable[[LogRecord], Any] = lambda record: None) -> None:
        super().__init__(name="plain")
        self.call = call

    def emit(self, record: LogRecord) -> Any:
        return self.call(record)


class Async(Plain):
    """Calls a function for each record, in an `async def emit`."""

    async def emit(self, record: LogRecord) -> Any:
        return self.call(record)


both = pytest.mark.parametrize("handler_class", [Plain, Async])


def _refusals(outcomes: Any) -> list[str]:
    return [str(outcome.error) for outcome in outcomes if isinstance(outcome, Refused)]


def test_defaults_are_the_class_s() -> None:
    """Without settings a handler takes the common levels, queued, under its class's name."""

    class Smallest(BaseLogHandler):
        def emit(self, record: LogRecord) -> None:
            pass

    handler = Smallest()
    assert handler.name == "Smallest"
    assert handler.settings == HandlerSettings()
    assert handler.default_delivery is Delivery.QUEUED
    assert {level for level in Level if handler.can_handle(level)} == COMMON_LEVELS
    assert handler.format(LogRecord(Level.INFO, "hello")) == "hello"


def test_settings_and_name_win_over_defaults() -> None:
    """Levels and name come from the entry where it has them."""

    class Named(BaseLogHandler):
        def emit(self, record: LogRecord) -> None:
            pass

    handler = Named(HandlerSettings(levels=(Level.AUDIT,)), name="trail")
    assert handler.name == "trail"
    assert [level for level in Level if handler.can_handle(level)] == [Level.AUDIT]
    assert not any(Named(HandlerSettings(levels=())).can_handle(level) for level in Level)


def test_a_handler_without_emit_cannot_be_built() -> None:
    """`emit` is the one method that a handler must have."""

    class Incomplete(BaseLogHandler):
        pass

    with pytest.raises(TypeError, match="emit"):
        Incomplete()  # type: ignore[abstract]


@both
async def test_every_record_is_emitted_once_in_order(handler_class: type[Plain]) -> None:
    """Each record of a batch meets `emit` once, in order; what `emit` returns is its receipt."""
    seen: list[LogRecord] = []

    def call(record: LogRecord) -> AuditReceipt:
        seen.append(record)
        return RECEIPT

    handler = handler_class(call)
    records = [make_record() for _ in range(5)]
    assert await handler.emit_batch(records) == [Committed(RECEIPT)] * 5
    assert seen == records
    await handler.stop()


@both
async def test_an_exception_refuses_its_record_only(handler_class: type[Plain]) -> None:
    """A HandlerError arrives as it is, any other exception as HandlerUnavailable naming the handler."""
    invalid = RecordInvalid("message", "is rude")

    def call(record: LogRecord) -> None:
        if record.message == "rude":
            raise invalid
        if record.message == "broken":
            raise KeyError("no such thing")

    handler = handler_class(call)
    records = [LogRecord(Level.INFO, message) for message in ("good", "rude", "broken", "good")]
    first, second, third, last = await handler.emit_batch(records)
    assert first == last == Committed()
    assert isinstance(second, Refused)
    assert second.error is invalid
    assert isinstance(third, Refused)
    assert isinstance(third.error, HandlerUnavailable)
    assert str(third.error) == "handler 'plain' failed: KeyError: 'no such thing'"
    assert isinstance(third.error.__cause__, KeyError)
    await handler.stop()


@both
@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError("inner"), StopIteration()])
async def test_a_handler_cannot_end_the_service(handler_class: type[Plain], error: BaseException) -> None:
    """`sys.exit`, or a cancelled thing that `emit` waited for, refuses the record like any error."""

    def call(record: LogRecord) -> None:
        raise error

    handler = handler_class(call)
    assert len(_refusals(await handler.emit_batch([make_record(), make_record()]))) == 2
    await handler.stop()


async def test_cancelling_emit_batch_itself_ends_it() -> None:
    """A task that is cancelled while `async def emit` waits ends as cancelled."""
    began = asyncio.Event()

    class Hanging(BaseLogHandler):
        async def emit(self, record: LogRecord) -> None:
            began.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(Hanging().emit_batch([make_record()]))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_plain_emit_runs_in_one_thread_of_the_handler() -> None:
    """Batches that are under way together are emitted one record at a time, off the event loop."""
    threads: set[threading.Thread] = set()
    inside = [0]

    def call(record: LogRecord) -> None:
        inside[0] += 1
        threads.add(threading.current_thread())
        assert inside[0] == 1
        inside[0] -= 1

    handler = Plain(call)
    answers = await asyncio.gather(*(handler.emit_batch([make_record()] * 20) for _ in range(10)))
    assert all(outcome == Committed() for outcomes in answers for outcome in outcomes)
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert thread.name == "emitd-handler-plain"
    await handler.stop()
    assert not thread.is_alive()


async def test_a_plain_emit_that_returns_an_awaitable_is_refused() -> None:
    """What nobody would await is not taken for done."""

    async def send() -> None:
        raise AssertionError("never awaited")

    handler = Plain(lambda record: send())
    (refusal,) = _refusals(await handler.emit_batch([make_record()]))
    assert "define it as `async def`" in refusal
    await handler.stop()


@both
async def test_a_result_that_is_no_receipt_counts_as_none(handler_class: type[Plain]) -> None:
    """`return file.write(...)` is done, and its number goes nowhere."""
    handler = handler_class(lambda record: 42)
    assert await handler.emit_batch([make_record()]) == [Committed(None)]
    await handler.stop()


async def test_a_partial_of_an_async_emit_is_awaited() -> None:
    """An `emit` wrapped by `functools.partial` is recognised for what it is."""
    handler = Async()
    emitted: list[str] = []

    async def emit(where: list[str], record: LogRecord) -> None:
        where.append(record.message)

    handler.emit = functools.partial(emit, emitted)  # type: ignore[method-assign]
    assert await handler.emit_batch([LogRecord(Level.INFO, "a")]) == [Committed()]
    assert emitted == ["a"]


@both
async def test_after_stop_it_refuses(handler_class: type[Plain]) -> None:
    """Records that come after `stop` are refused and never meet `emit`; `start` opens the handler again."""
    seen: list[LogRecord] = []
    handler = handler_class(seen.append)
    await handler.stop()
    await handler.stop()
    with pytest.raises(HandlerUnavailable, match="handler 'plain' is stopped"):
        await handler.emit_batch([make_record()])
    assert seen == []
    await handler.start()
    assert await handler.emit_batch([make_record()]) == [Committed()]
    await handler.stop()


async def test_stop_waits_for_the_batch_under_way() -> None:
    """What was taken before `stop` is emitted before `stop` returns."""
    gate, seen = threading.Event(), list[LogRecord]()

    def call(record: LogRecord) -> None:
        gate.wait()
        seen.append(record)

    handler = Plain(call)
    batch: asyncio.Future[Any] = asyncio.ensure_future(handler.emit_batch([make_record()] * 3))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(handler.stop())
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert len(seen) == 3
    assert await batch == [Committed()] * 3


async def test_it_tells_no_recent_commits() -> None:
    """A handler whose commits end with the process has none to tell."""
    assert list(await Plain().recent_commits(10)) == []


def test_settings_know_no_other_keys() -> None:
    """A wrong key in an entry is an error, also in a struct that derives from the common one."""

    class Own(HandlerSettings, frozen=True, kw_only=True):
        path: str = ""

    assert msgspec.convert({"path": "a", "levels": [60]}, Own) == Own(path="a", levels=(Level.AUDIT,))
    with pytest.raises(msgspec.ValidationError, match="pth"):
        msgspec.convert({"pth": "a"}, Own)
